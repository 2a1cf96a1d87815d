"""From measured cases to the fingerprint that may leave the site. Pure.

The floor is `Floors.least_metric_cases`, or the step of `round_counts_to` where that is larger. The rules:

1. A histogram of fewer cases than the floor is withheld as a whole. So is a class that all cases but fewer than the
   floor have: the others would be told by the difference.
2. A bin that holds at least so many cases is told as it is.
3. Cases in smaller bins are put together until there are enough. Such a group is told as one bin: the mean of its bins,
   which is of several cases and of no one (microaggregation: Domingo-Ferrer and Mateo-Sanz 2002, IEEE TKDE
   14(1):189-201). Where they are too few for a group, they count in the nearest bin that is told.
4. A run of such cases makes an odd number of groups, so that its median lies within one and not between two.
5. Of intensities a bin holds the cases that have a voxel in it, however many voxels.
6. Counts of cases are rounded as the policy says.
"""

from __future__ import annotations

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import groupby, pairwise
from math import prod
from operator import or_
from typing import Any

from messages.statistics.fingerprint import ByAxis, ClassVolume, DataFingerprint
from messages.statistics.histograms import MOST_BIN, Histogram, bin_of_size
from site_agent.core.permissions import Floors
from site_agent.core.policy import find_statistics_floor, round_count

Case = Mapping[str, Any]
"""As `site_agent.training.protocol.MeasuredCase` says."""


def make_shareable(floors: Floors, channels: Sequence[str], cases: Sequence[Case]) -> DataFingerprint | None:
    """The fingerprint as it may leave the site; None: there are fewer cases than the floor."""
    least = find_statistics_floor(floors)
    if len(cases) < least:
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
    groups = group_cases([bin_of_size(size) for size in sizes], least)
    return Histogram.of_counts({number: round_count(floors, count) for number, count in groups.items()})


def group_cases(numbers: Iterable[int], least: int) -> dict[int, int]:
    """The bins of cases → bins as they may be told, each of at least so many cases; none where all are fewer."""
    ordered = sorted(numbers)
    told = {number: count for number, count in Counter(ordered).items() if count >= least}
    near = [*told]
    made = Counter(told)
    for _place, run in groupby(ordered, key=lambda number: -1 if number in told else bisect(near, number)):
        few = [number for number in run if number not in told]
        if len(few) >= least:
            made.update(_group_run(few, least))
        elif near:
            made.update(min(near, key=lambda one: abs(one - number)) for number in few)
    return dict(made)


def _group_run(ordered: Sequence[int], least: int) -> Iterable[int]:
    """For each case of a run, the bin that it is told in."""
    groups = len(ordered) // least
    groups -= groups > 1 and groups % 2 == 0
    edges = [round(place * len(ordered) / groups) for place in range(groups + 1)]
    for begin, end in pairwise(edges):
        yield from [round(sum(ordered[begin:end]) / (end - begin))] * (end - begin)


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
        if groups := group_bins(bins, least):
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


def group_bins(bins: Sequence[tuple[int, int, int]], least: int) -> dict[int, int]:
    """Neighbouring bins merged, upwards, until each group is of at least so many cases; none where all are fewer.

    Args:
        bins: ascending: (number, voxels, a bit for each case that is in it).

    Returns:
        By bin: a group's own of enough cases, else its mean.
    """
    groups: list[list[tuple[int, int, int]]] = [[]]
    for one in bins:
        groups[-1].append(one)
        if _count_holders(groups[-1]) >= least:
            groups.append([])
    rest = groups.pop()
    if not groups:
        return {}
    groups[-1] += rest
    return {_name_group(group, least): sum(count for _number, count, _who in group) for group in groups}


def _count_holders(group: Iterable[tuple[int, int, int]]) -> int:
    return reduce(or_, (who for _number, _count, who in group), 0).bit_count()


def _name_group(group: Sequence[tuple[int, int, int]], least: int) -> int:
    whole = [one for one in group if one[2].bit_count() >= least]
    if whole:
        return max(whole, key=lambda one: one[1])[0]
    return round(sum(number * count for number, count, _who in group) / sum(count for _number, count, _who in group))
