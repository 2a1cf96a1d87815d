"""How large each concept is in a data set's label maps, in millilitres: exchanged labels show in nothing else so soon.

For the operator's eyes: of the cases that are used, the median and the range over those that have the concept, and how
many have it. Only label maps are read, one at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from messages.ground.durable import replace_file
from messages.ground.errors import ConfigError, DataError
from messages.ground.settings import parse_settings
from messages.ground.strictness import StrictModel
from messages.ground.written.documents import read_json
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.vault import Vault

if TYPE_CHECKING:
    from site_agent.datasets.source import Case, LoadedCase

APART = 4.0
"""Times that a median volume is larger or smaller than the others', from which on it is told."""
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


class SharedVolume(StrictModel):
    """One concept's median, as it may be shown to other sites: two significant digits."""

    cases: int
    median_ml: float


class VolumesFile(StrictModel):
    """What one site writes for the others (`konsil site datasets --volumes-to FILE`): medians, and no case."""

    volumes: Literal[1]
    site: str
    datasets: dict[str, dict[str, SharedVolume]]


def share_volumes(measured: Sequence[ConceptVolume], floor: int, step: int) -> dict[str, SharedVolume]:
    """What may be shown to others: of concepts that at least `floor` cases have, their number rounded to `step`."""
    return {
        one.concept: SharedVolume(
            cases=max(step, round(one.having / step) * step), median_ml=float(f"{one.median:.2g}")
        )
        for one in measured
        if one.median is not None and one.having >= floor
    }


def compare_volumes(measured: Sequence[ConceptVolume], others: Sequence[Mapping[str, SharedVolume]]) -> tuple[str, ...]:
    """Where a data set's medians contradict those of other sites, in words.

    A median is told where it is `APART` times as large as the median of the others' medians, or as small. Two concepts
    are told as perhaps exchanged where, exchanged, they would fit the others clearly better.
    """
    own = {one.concept: one.median for one in measured if one.median}
    theirs = {
        concept: median(told)
        for concept in own
        if (told := [one[concept].median_ml for one in others if concept in one and one[concept].median_ml > 0])
    }
    lines = [
        f"{concept}: a median of {format_ml(own[concept])} ml here, {format_ml(size)} ml at the other sites"
        for concept, size in theirs.items()
        if _distance(own[concept], size) >= math.log(APART)
    ]
    for one, other in combinations(theirs, 2):
        as_is = _distance(own[one], theirs[one]) + _distance(own[other], theirs[other])
        exchanged = _distance(own[one], theirs[other]) + _distance(own[other], theirs[one])
        if as_is - exchanged >= math.log(APART) and 2 * exchanged <= as_is:
            lines.append(f"{one} and {other} would fit the other sites better if they were exchanged: look at `labels`")
    return tuple(lines)


def _distance(one: float, other: float) -> float:
    return abs(math.log(one / other))


def read_volumes_file(path: Path) -> VolumesFile:
    """What another site wrote; ConfigError where it is no such file."""
    return parse_settings(read_json(path), VolumesFile, str(path))


def write_volumes_file(path: Path, content: VolumesFile) -> None:
    """Replace a file whole; ConfigError where it cannot be written."""
    try:
        replace_file(path, (content.model_dump_json(indent=1) + "\n").encode())
    except OSError as error:
        raise ConfigError(f"cannot be written ({error.strerror})", where=str(path)) from None
