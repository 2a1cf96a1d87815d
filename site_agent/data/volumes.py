"""How large each concept is in a data set's label maps, in millilitres: exchanged labels show in nothing else so soon.

For the operator's eyes: of the cases that are used, the median and the range over those that have the concept, and how
many have it. Only label maps are read, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from messages.ground.errors import DataError
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.vault import Vault

if TYPE_CHECKING:
    from site_agent.datasets.source import Case, LoadedCase

_VOXEL = 1000.0
"""Cubic millimetres in a millilitre."""


@dataclass(frozen=True, slots=True)
class ConceptVolume:
    """One concept over a data set, in ml; median, least and most over the cases that have it (None: none has).

    Attributes:
        cases: that were measured. having: of these, with at least one voxel of the concept.
    """

    concept: str
    cases: int
    having: int
    median: float | None
    least: float | None
    most: float | None

    def as_plain(self) -> dict[str, Any]:
        """For --json."""
        return {
            "cases": self.cases,
            "having": self.having,
            "median_ml": self.median,
            "least_ml": self.least,
            "most_ml": self.most,
        }

    def describe(self) -> str:
        """One line: "ED 46.1 ml (3.2 to 120) in 18 of 20 cases"."""
        if self.median is None or self.least is None or self.most is None:
            return f"{self.concept} in none of {self.cases} cases"
        span = f"{format_ml(self.least)} to {format_ml(self.most)}"
        return f"{self.concept} {format_ml(self.median)} ml ({span}) in {self.having} of {self.cases} cases"


def format_ml(value: float) -> str:
    """Three significant digits, never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"


def measure_case(case: LoadedCase) -> dict[str, float]:
    """Concept → ml in one case, every concept of the data set."""
    counts = np.bincount(case.label.ravel(), minlength=len(case.concepts) + 1)
    voxel = abs(float(np.linalg.det(case.affine[:3, :3]))) / _VOXEL
    return {concept: float(counts[number]) * voxel for number, concept in enumerate(case.concepts, start=1)}


def sum_up_volumes(measured: Sequence[Mapping[str, float]]) -> tuple[ConceptVolume, ...]:
    """Over all cases, by concept."""
    found = []
    for concept in sorted({name for one in measured for name in one}):
        having = [one[concept] for one in measured if one.get(concept)]
        whole = (median(having), min(having), max(having)) if having else (None, None, None)
        found.append(ConceptVolume(concept, len(measured), len(having), *whole))
    return tuple(found)


def measure_volumes(
    cases: Iterable[Case], config: DatasetConfig, vault: Vault | None, progress: Callable[[int], None] | None = None
) -> tuple[ConceptVolume, ...]:
    """Read the label map of each case that is used. One that cannot be read any more is not measured.

    Args:
        progress: called with how many were read.
    """
    from site_agent.datasets.source import load_case  # nibabel: not for the agent's event loop

    measured = []
    for done, case in enumerate(cases, start=1):
        try:
            measured.append(measure_case(load_case(replace(case, images=(), volumes=()), config, vault)))
        except DataError:
            continue
        if progress is not None:
            progress(done)
    return sum_up_volumes(measured)
