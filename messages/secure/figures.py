"""Figures that are told only as sums over sites (losses, counts, sums of scores), as whole numbers modulo 2^64.

They ride behind the weights in the masked buffer. Each has a row in a table that all parties make from the experiment
file: how large one site's can be, and how fine it is told. A row is refused where the sum of `MOST_SITES` sites could
leave 63 bits, so no sum wraps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from messages.sections import MOST_SITES


@dataclass(frozen=True, slots=True)
class Figure:
    """One pooled figure.

    Attributes:
        name: as in the table.
        most: largest magnitude at one site; beyond it, it is clipped.
        bits: binary places behind the point: 0 for counts, 20 for one part in a million. May be negative.
    """

    name: str
    most: float
    bits: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.most * 2.0**self.bits * MOST_SITES < 2.0**62:
            raise ValueError(f"figure {self.name!r}: the sum of {MOST_SITES} sites would leave 63 bits")


def encode_figures(table: Sequence[Figure], values: Mapping[str, float]) -> NDArray[np.uint64]:
    """The table's figures as words; what is missing is 0. ValueError: not finite, or a name outside the table."""
    unknown = set(values).difference(one.name for one in table)
    if unknown or not all(math.isfinite(value) for value in values.values()):
        raise ValueError(f"figures that are not in the table ({len(unknown)}), or not finite")
    words = [round(max(-one.most, min(one.most, float(values.get(one.name, 0)))) * 2.0**one.bits) for one in table]
    return np.array(words, np.int64).view(np.uint64)


def decode_figures(table: Sequence[Figure], words: NDArray[np.uint64]) -> dict[str, float]:
    """The figures of a sum of words, or of one site's."""
    numbers = words.astype(np.uint64).view(np.int64)
    return {one.name: int(number) * 2.0**-one.bits for one, number in zip(table, numbers, strict=True)}


def find_impossible(table: Sequence[Figure], words: NDArray[np.uint64], sites: int) -> str | None:
    """The first figure that no sum of so many sites can have; None: all can be."""
    for one, number in zip(table, words.astype(np.uint64).view(np.int64), strict=True):
        if abs(int(number)) > sites * (one.most * 2.0**one.bits + 1):
            return one.name
    return None
