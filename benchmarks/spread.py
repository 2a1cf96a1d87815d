"""Seconds of several rounds, told in short: one form for every benchmark's JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds a round, the first round left out."""

    median: float
    min: float
    max: float
    all: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values), tuple(round(value, 4) for value in values))
