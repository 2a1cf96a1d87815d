"""From measured cases to the fingerprint that may leave the site. Pure.

The rule, for each histogram (`Floors.least_metric_cases` is the floor, `round_counts_to` the step):

1. A bin that fewer cases are in than the floor (or the step) is merged with its neighbours, upwards, until enough are.
   What is left over at the end is merged with the group before it.
2. A group is told as one bin: the mean of its bins, by their counts. So what is told is of several cases, and of no one
   (microaggregation: Domingo-Ferrer and Mateo-Sanz 2002, IEEE TKDE 14(1):189-201).
3. A histogram of fewer cases than the floor is withheld as a whole. So is a class that all cases but fewer than the
   floor have: the others would be told by the difference.
4. Counts of cases are rounded as the policy says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from typing import Any

from messages.statistics.fingerprint import ByAxis, ClassVolume, DataFingerprint
from messages.statistics.histograms import MOST_BIN, Histogram, bin_of_size
from site_agent.core.permissions import Floors
from site_agent.core.policy import round_count

Case = Mapping[str, Any]
"""As `site_agent.training.protocol.MeasuredCase` says."""


def make_shareable(floors: Floors, channels: Sequence[str], cases: Sequence[Case]) -> DataFingerprint | None:
    """The fingerprint as it may leave the site; None: there are fewer cases than the floor."""
    least = max(floors.least_metric_cases, floors.round_counts_to)
    if len(cases) < floors.least_metric_cases:
        return None

    def by_axis(read: Callable[[Case, int], float]) -> ByAxis:
        one, two, three = (_count_sizes(floors, (read(case, axis) for case in cases), least) for axis in range(3))
        return (one, two, three)

    return DataFingerprint(
        cases=round_count(floors, len(cases)),
        spacing=by_axis(lambda case, axis: case["spacing"][axis]),
        shape=by_axis(lambda case, axis: case["shape"][axis]),
        cropped=by_axis(lambda case, axis: case["cropped"][axis]),
        extent=by_axis(lambda case, axis: case["cropped"][axis] * case["spacing"][axis]),
        kept=_count_sizes(floors, (prod(case["cropped"]) / prod(case["shape"]) for case in cases), least),
        intensities=_count_intensities(channels, cases, least),
        classes=_count_classes(floors, cases, least),
    )


def _count_sizes(floors: Floors, sizes: Iterable[float], least: int) -> Histogram:
    """Cases by size, in groups of at least so many."""
    counts: dict[int, int] = defaultdict(int)
    for size in sizes:
        counts[bin_of_size(size)] += 1
    groups = group_bins([(number, count, count) for number, count in sorted(counts.items())], least, _add)
    return Histogram.of_counts({number: round_count(floors, count) for number, count in groups})


def _count_intensities(channels: Sequence[str], cases: Sequence[Case], least: int) -> dict[str, Histogram]:
    """Voxels by value; a bin counts as held by the cases that have a voxel in it."""
    made: dict[str, Histogram] = {}
    for name in channels:
        counts: dict[int, int] = defaultdict(int)
        holders: dict[int, int] = defaultdict(int)  # a bit for each case
        for place, case in enumerate(cases):
            told = case["channels"].get(name, {"bins": (), "counts": ()})
            for number, count in zip(told["bins"], told["counts"], strict=True):
                number = max(-MOST_BIN, min(MOST_BIN, number))
                counts[number] += count
                holders[number] |= 1 << place
        bins = [(number, count, holders[number]) for number, count in sorted(counts.items())]
        groups = dict(group_bins(bins, least, _unite, int.bit_count))
        if groups:
            made[name] = Histogram.of_counts(groups)
    return made


def _count_classes(floors: Floors, cases: Sequence[Case], least: int) -> dict[str, ClassVolume]:
    made: dict[str, ClassVolume] = {}
    for name in sorted({name for case in cases for name in case["volumes"]}):
        volumes = [volume for case in cases if (volume := case["volumes"].get(name, 0.0)) > 0]
        if len(volumes) < least or 0 < len(cases) - len(volumes) < least:
            continue
        told = _count_sizes(floors, volumes, least)
        made[name] = ClassVolume(cases=round_count(floors, len(volumes)), mm3=round(sum(volumes)), volumes=told)
    return made


def _add(one: int, other: int) -> int:
    return one + other


def _unite(one: int, other: int) -> int:
    return one | other


def group_bins(
    bins: Sequence[tuple[int, int, int]],
    least: int,
    join: Callable[[int, int], int],
    size: Callable[[int], int] = int,
) -> list[tuple[int, int]]:
    """Neighbouring bins merged until each group is of at least so many cases; none where all together are fewer.

    Args:
        bins: ascending: (number, count, who is in it). join: who is in either of two. size: how many that are.

    Returns:
        (number, count) of each group: its mean bin.
    """
    groups: list[tuple[int, int, int]] = []  # weighted sum of numbers, count, who
    whole: list[tuple[int, int, int]] = []
    for number, count, who in bins:
        if groups:
            total, counted, before = groups.pop()
            number, count, who = total + number * count, counted + count, join(before, who)
        else:
            number *= count
        (whole if size(who) >= least else groups).append((number, count, who))
    if groups and whole:
        total, counted, who = groups.pop()
        last, before, held = whole.pop()
        whole.append((last + total, before + counted, join(held, who)))
    return [(round(total / counted), counted) for total, counted, _who in whole]
