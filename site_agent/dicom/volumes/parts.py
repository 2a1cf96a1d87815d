"""The frames of one series → those of each volume in it. Pure.

First what is never mixed: size, direction, pixel spacing and frame of reference, then the marks (kind of image, echo,
time, diffusion, stack). Where several frames still lie at one place, the first hint that sorts them into as
many volumes as lie there, each with at most one frame a place. Where no hint does, nothing tells them apart, and the
series is refused; a file's name or its neighbours are no ground to guess on.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import numpy as np
import numpy.typing as npt

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused
from site_agent.dicom.volumes.frames import Frame
from site_agent.dicom.volumes.geometry import Tolerances, number_places

_ROUNDED = 0.05
"""Milliseconds by which times of one echo may differ however short they are: some scanners give one decimal."""


_MEASURED = frozenset({"inversion", "flip angle", "trigger"})
"""Hints that a scanner measures or rounds for each slice: a volume's slices differ a little in them."""


@dataclass(frozen=True, slots=True)
class VolumePart:
    """One volume's frames, in no order. `labels`: what it is among the series' volumes: ("echo", 2), counted from 1."""

    labels: tuple[tuple[str, int], ...]
    frames: tuple[Frame, ...]

    @property
    def name(self) -> str:
        """Such as "echo 2, time 3"; "" for the only one."""
        return ", ".join(f"{name} {number}" for name, number in self.labels)


def split_parts(frames: Sequence[Frame], temporal_positions: int | None, tolerances: Tolerances) -> list[VolumePart]:
    """Every volume's frames; volumes in the order of what tells them apart.

    Args:
        temporal_positions: Number of Temporal Positions (0020,0105), where the series says it.

    Raises:
        Refused: DUPLICATE_SLICES: frames at one place that nothing tells apart. INCOMPLETE_SERIES: a volume has fewer
            places than its siblings. MIXED_GEOMETRY: images of several geometries, not each a volume.
    """
    piles = _pile_frames(_join_echoes(frames, tolerances), tolerances)
    parts = []
    for number, pile in enumerate(piles, 1):
        outer = (("geometry", number),) if len(piles) > 1 else ()
        parts += [VolumePart((*outer, *p.labels), p.frames) for p in _of_a_pile(pile, temporal_positions, tolerances)]
    if len(piles) > 1 and min(len(part.frames) for part in parts) < tolerances.fewest:
        raise ObjectRefused(
            Reason.MIXED_GEOMETRY, f"{len(frames)} images of {len(piles)} sizes or directions, not each a volume"
        )
    return parts


def _has_gaps(part: VolumePart, place: Mapping[tuple[int, int], int]) -> bool:
    """Whether other frames' places lie among a volume's own."""
    own = {place[_identity_of(frame)] for frame in part.frames}
    return max(own) - min(own) >= len(own)


def _join_echoes(frames: Sequence[Frame], tolerances: Tolerances) -> list[Frame]:
    """Frames whose echo marks are the same where only rounding tells their times apart.

    Of one echo number, times within `Tolerances.echo` of the shortest are one echo's.
    """
    said: dict[int, set[float]] = {}
    for frame in frames:
        said.setdefault(_echo_of(frame)[0], set()).add(_echo_of(frame)[1])
    joined: dict[tuple[int, float], float] = {}
    for number, times in said.items():
        first: float | None = None
        for time in sorted(times):
            if first is None or time - first > max(tolerances.echo * abs(first), _ROUNDED):
                first = time
            joined[number, time] = first
    return [
        replace(
            frame,
            marks=tuple(
                (name, (_echo_of(frame)[0], joined[_echo_of(frame)]) if name == "echo" else value)
                for name, value in frame.marks
            ),
        )
        for frame in frames
    ]


def _echo_of(frame: Frame) -> tuple[int, float]:
    """Echo number and time, ms."""
    number, time = cast(tuple[int, float], dict(frame.marks)["echo"])
    return number, time


def _pile_frames(frames: Sequence[Frame], tolerances: Tolerances) -> list[list[Frame]]:
    """Frames of one geometry and one frame of reference together, in the order of the first of each."""
    piles: list[list[Frame]] = []
    for frame in frames:
        for pile in piles:
            first = pile[0]
            if frame.frame_of_reference == first.frame_of_reference and frame.plane.is_alike(first.plane, tolerances):
                pile.append(frame)
                break
        else:
            piles.append([frame])
            if len(piles) > tolerances.most_directions:
                raise ObjectRefused(Reason.MIXED_GEOMETRY, f"images of more than {len(piles) - 1} sizes or directions")
    return piles


def _of_a_pile(pile: Sequence[Frame], temporal_positions: int | None, tolerances: Tolerances) -> list[VolumePart]:
    place = dict(zip(map(_identity_of, pile), number_places([f.plane for f in pile], tolerances).tolist(), strict=True))
    parts = [
        VolumePart((*part.labels, *inner.labels), inner.frames)
        for part in _by_marks(pile)
        for inner in _by_hints(part.frames, place, temporal_positions)
    ]
    echoes = {value for part in parts for name, value in part.labels if name == "echo"}
    if len(echoes) > 1 and len(set(place.values())) == len(pile) and any(_has_gaps(part, place) for part in parts):
        times = sorted({_echo_of(frame)[1] for frame in pile})
        raise ObjectRefused(
            Reason.AMBIGUOUS_SERIES,
            f"the echo time varies from slice to slice, one at each place, from {times[0]:g} to {times[-1]:g} ms",
        )
    taken = [{place[_identity_of(f)] for f in part.frames} for part in parts]
    most = max(taken, key=len)
    short = [places_ for places_ in taken if places_ < most]
    if short:
        raise ObjectRefused(
            Reason.INCOMPLETE_SERIES,
            f"{len(short)} of {len(parts)} volumes have fewer than the {len(most)} slices of the others",
        )
    return parts


def _by_marks(pile: Sequence[Frame]) -> list[VolumePart]:
    """Frames whose marks all agree; labels name the marks that differ."""
    names = [name for name, _ in pile[0].marks]
    values = [[dict(frame.marks).get(name) for frame in pile] for name in names]
    varying = [n for n, column in enumerate(values) if len(set(column)) > 1]
    ranks = {n: _rank_values(values[n]) for n in varying}
    groups: dict[tuple[int, ...], list[Frame]] = {}
    for index, frame in enumerate(pile):
        groups.setdefault(tuple(ranks[n][values[n][index]] for n in varying), []).append(frame)
    return [
        VolumePart(tuple(zip((names[n] for n in varying), key, strict=True)), tuple(groups[key]))
        for key in sorted(groups)
    ]


def _by_hints(
    frames: Sequence[Frame], place: Mapping[tuple[int, int], int], temporal_positions: int | None
) -> list[VolumePart]:
    where = np.asarray([place[_identity_of(f)] for f in frames])
    several = int(np.bincount(where).max())
    if several == 1:
        return [VolumePart((), tuple(frames))]
    for name in dict.fromkeys(name for frame in frames for name, _ in frame.hints):
        values = [dict(frame.hints).get(name) for frame in frames]
        if None in values:
            continue
        ranks = _rank_values(values)
        numbers = np.asarray([ranks[value] for value in values])
        if len(ranks) > several and name in _MEASURED:
            numbers = _rank_bands(np.asarray(values, dtype=np.float64), several)
        if numbers.max() == several and _once_a_place(where, numbers):
            return _number_parts(name, frames, numbers)
    times = _in_turn(frames, where, several) if temporal_positions == several else None
    if times is not None:
        return _number_parts("time", frames, times)
    raise ObjectRefused(
        Reason.DUPLICATE_SLICES,
        f"{len(frames)} images lie at {len(set(where.tolist()))} places, up to {several} at one",
    )


def _rank_bands(values: npt.NDArray[np.float64], bands: int) -> npt.NDArray[np.int64]:
    """Which of so many bands each value lies in, from 1; all in one where they are no bands.

    Two values of neighbouring bands lie further apart than any two of one band.
    """
    steps = np.sort(values)
    cuts = np.sort(np.argsort(np.diff(steps), kind="stable")[len(steps) - bands :])
    ends = np.split(steps, cuts + 1)
    widest = max(float(band[-1] - band[0]) for band in ends)
    if any(later[0] - earlier[-1] <= widest for earlier, later in pairwise(ends)):
        return np.ones(len(values), dtype=np.int64)
    return np.searchsorted(steps[cuts], values, side="left") + 1


def _in_turn(frames: Sequence[Frame], where: npt.NDArray[np.int64], times: int) -> npt.NDArray[np.int64] | None:
    """Which time each frame is of, where only Instance Numbers tell: from 1, (n,); None where they leave doubt.

    For a series that says how many temporal positions it has, and has so many images at every place. Its Instance
    Numbers must run through all places for each time in turn, or through all times for each place in turn.
    """
    instances = [frame.instance for frame in frames]
    if None in instances or len(set(instances)) != len(instances):
        return None
    used = np.unique(where)
    if np.any(np.bincount(where)[used] != times):
        return None
    order = np.argsort(np.asarray(instances, dtype=np.int64))
    numbers = np.empty(len(frames), dtype=np.int64)
    by_time, by_place = where[order].reshape(times, -1), where[order].reshape(-1, times)
    if np.all(np.sort(by_time, axis=1) == used):
        numbers[order] = np.repeat(np.arange(1, times + 1), len(used))
    elif np.all(by_place == by_place[:, :1]):
        numbers[order] = np.tile(np.arange(1, times + 1), len(used))
    else:
        return None
    return numbers


def _once_a_place(where: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64]) -> bool:
    return len(set(zip(where.tolist(), numbers.tolist(), strict=True))) == len(where)


def _number_parts(name: str, frames: Sequence[Frame], numbers: npt.NDArray[np.int64]) -> list[VolumePart]:
    return [
        VolumePart(((name, number),), tuple(f for f, n in zip(frames, numbers.tolist(), strict=True) if n == number))
        for number in sorted(set(numbers.tolist()))
    ]


def _rank_values(values: Sequence[Hashable]) -> dict[Hashable, int]:
    """Each value's rank from 1; values of one mark are of one kind and sort."""
    return {value: rank for rank, value in enumerate(sorted(set(values)), 1)}  # type: ignore[type-var]  # of one kind, and comparable


def _identity_of(frame: Frame) -> tuple[int, int]:
    return frame.source, frame.number
