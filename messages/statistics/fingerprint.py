"""The fingerprint of training cases: what nnU-Net's planner asks of a data set (Isensee et al. 2021, Nature Methods
18:203-211, "dataset fingerprint"), as histograms that pool by adding up. Pure.

Axes are those of the oriented image (x, y, z). *Cropped* is the box of all voxels that are not 0 in some channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field

from messages.ground.strictness import StrictModel, at_most
from messages.scores import Target
from messages.statistics.histograms import Histogram, pool_histograms

Count = Annotated[int, Field(ge=0, le=2**53)]
ByAxis = tuple[Histogram, Histogram, Histogram]
Channel = Annotated[str, Field(min_length=1, max_length=64)]
MOST_CHANNELS, MOST_CLASSES = 64, 256
SAMPLED = 10_000
"""What the intensities of one case in one channel count together, however large its foreground is: as nnU-Net, which
draws so many voxels of each case. A case's histogram is scaled to this sum, without any draw."""
NOTHING = Histogram()
NO_AXES: ByAxis = (NOTHING, NOTHING, NOTHING)


class ClassVolume(StrictModel):
    """One class (concept) over cases."""

    cases: Count
    """Cases that have it."""
    mm3: Count
    """All of it together, in whole cubic millimetres."""
    volumes: Histogram
    """By case that has it, in bins of sizes: cubic millimetres."""


class DataFingerprint(StrictModel):
    """Of one site as it may leave it, or pooled. What a site withholds is empty, or not there."""

    cases: Count
    spacing: ByAxis = NO_AXES
    """Cases by millimetres a voxel."""
    shape: ByAxis = NO_AXES
    """Cases by voxels along the axis, before cropping."""
    cropped: ByAxis = NO_AXES
    """The same after cropping."""
    extent: ByAxis = NO_AXES
    """Cases by millimetres along the axis, after cropping."""
    kept: Histogram = NOTHING
    """Cases by the share of voxels that cropping leaves."""
    intensities: Annotated[dict[Channel, Histogram], at_most(MOST_CHANNELS)] = {}
    """Of the voxels inside any class, by channel, in bins of values; each case counts `SAMPLED`."""
    classes: Annotated[dict[Target, ClassVolume], at_most(MOST_CLASSES)] = {}
    """By concept of the experiment's task."""

    def names_only(self, channels: Iterable[str], concepts: Iterable[str]) -> bool:
        """Whether it tells of nothing but these: other names would be a site's own words."""
        return self.intensities.keys() <= set(channels) and self.classes.keys() <= set(concepts)


def pool_fingerprints(parts: Sequence[DataFingerprint]) -> DataFingerprint:
    """All cases together: whole numbers, so that the order of the sites counts for nothing."""
    channels = sorted({name for part in parts for name in part.intensities})
    concepts = sorted({name for part in parts for name in part.classes})
    return DataFingerprint(
        cases=sum(part.cases for part in parts),
        spacing=_pool_axes([part.spacing for part in parts]),
        shape=_pool_axes([part.shape for part in parts]),
        cropped=_pool_axes([part.cropped for part in parts]),
        extent=_pool_axes([part.extent for part in parts]),
        kept=pool_histograms(part.kept for part in parts),
        intensities={
            name: pool_histograms(part.intensities[name] for part in parts if name in part.intensities)
            for name in channels
        },
        classes={name: _pool_class([one.classes[name] for one in parts if name in one.classes]) for name in concepts},
    )


def thin_fingerprint(part: DataFingerprint, kept: int, of: int) -> DataFingerprint:
    """What a site tells, as if only `kept` of each `of` cases had been counted."""

    def thin_axes(axes: ByAxis) -> ByAxis:
        return (axes[0].thin(kept, of), axes[1].thin(kept, of), axes[2].thin(kept, of))

    return DataFingerprint(
        cases=part.cases * kept // of,
        spacing=thin_axes(part.spacing),
        shape=thin_axes(part.shape),
        cropped=thin_axes(part.cropped),
        extent=thin_axes(part.extent),
        kept=part.kept.thin(kept, of),
        intensities={name: one.thin(kept, of) for name, one in part.intensities.items()},
        classes={
            name: ClassVolume(
                cases=one.cases * kept // of, mm3=one.mm3 * kept // of, volumes=one.volumes.thin(kept, of)
            )
            for name, one in part.classes.items()
        },
    )


def count_bins(part: DataFingerprint) -> int:
    """Bins of the histogram that has the most."""
    by_case = (*part.spacing, *part.shape, *part.cropped, *part.extent, part.kept, *part.intensities.values())
    return max(len(one.bins) for one in (*by_case, *(each.volumes for each in part.classes.values())))


def _pool_axes(parts: Sequence[ByAxis]) -> ByAxis:
    one, two, three = (pool_histograms(part[axis] for part in parts) for axis in range(3))
    return (one, two, three)


def _pool_class(parts: Sequence[ClassVolume]) -> ClassVolume:
    return ClassVolume(
        cases=sum(one.cases for one in parts),
        mm3=sum(one.mm3 for one in parts),
        volumes=pool_histograms(one.volumes for one in parts),
    )
