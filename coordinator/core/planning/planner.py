"""From a pooled fingerprint to a configuration, by nnU-Net v2's published rules (Isensee et al. 2021, Nature Methods
18:203-211; `ExperimentPlanner` of MIC-DKFZ/nnUNet, its `3d_fullres`). Pure: replay plans again and compares.

What differs from nnU-Net, and why:

- The fingerprint has histograms of each axis and no single cases: medians are right to half a bin (0.25 %).
- A net has 3 levels at least, and an edge of a patch 8 voxels at least (`DynUNet`, `training.patch`).
- Memory is the least that a site declared (`limits` of its site.toml), or what the file says, and not one number of a
  command.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, prod

from coordinator.core.planning.topology import Topology, count_features, find_topology
from messages.experiment import Experiment
from messages.sections import Intensities
from messages.statistics.configuration import Configuration
from messages.statistics.fingerprint import DataFingerprint
from messages.statistics.histograms import size_of_bin, value_of_bin

ANISOTROPY = 3.0
"""How much larger than the others a spacing has to be, and how much fewer voxels its axis, to count as apart."""
CROPPED_LITTLE = 0.75
"""Median share that cropping leaves, from which on z-scores are taken over all voxels."""
CLIPPED = (0.5, 99.5)
"""Percentiles of the foreground to which CT is clipped."""
REFERENCE, REFERENCE_GIB, REFERENCE_BATCH = 560_000_000, 8, 2
"""So many elements of feature maps of one sample (`count_features`) fit so much memory with a batch of so many."""
LEAST_BATCH, MOST_BATCH = 2, 256
COVERED = 0.05
"""A batch covers no more than this share of all voxels."""
LARGEST_CUBE = 256
LEAST_PATCH, LEAST_LEVELS = 8, 3
DEFAULT_MIB = REFERENCE_GIB * 1024
"""Memory where neither a site nor the file says any: nnU-Net's own target."""
_ZYX = (2, 1, 0)
"""nnU-Net reads arrays as (z, y, x); ours are (x, y, z). Its ties go by that order."""


ByEdge = tuple[int, int, int]


class NoConfiguration(ValueError):
    """No net follows from this fingerprint: it is withheld, or the images are too small."""


def plan_configuration(experiment: Experiment, found: DataFingerprint, memory_mib: int | None) -> Configuration:
    """The configuration.

    Args:
        found: pooled. memory_mib: the least that a site declared; None: none did.

    Raises:
        NoConfiguration: it says too little, or the images are too small.
    """
    if not all(one.total for axes in (found.spacing, found.cropped, found.extent) for one in axes):
        raise NoConfiguration("spacings or shapes are withheld")
    wished = experiment.net.parameters.get("memory_gib")
    told = [*([] if memory_mib is None else [memory_mib]), *([] if wished is None else [max(1, floor(wished * 1024))])]
    memory = min(told, default=DEFAULT_MIB)
    spacing = choose_spacing(found)
    median = [found.extent[axis].find_percentile(50, _voxels_at(spacing[axis])) for axis in range(3)]
    order = _order_axes(spacing)
    turned = [spacing[axis] for axis in order], [median[axis] for axis in order]
    levels, batch = choose_topology(*turned, found.cases, memory, len(experiment.task.concepts) + 1)
    return Configuration(
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        normalise=choose_normalisation(found),
        intensities=choose_intensities(experiment.task.channels, found),
        patch=_turn_back(levels.patch, order),
        batch=batch,
        filters=levels.filters,
        strides=tuple(_turn_back(one, order) for one in levels.strides),
        kernels=tuple(_turn_back(one, order) for one in levels.kernels),
        median_shape=_turn_back([max(1, floor(median[axis])) for axis in order], order),
        memory_mib=memory,
    )


def choose_spacing(found: DataFingerprint) -> list[float]:
    """The spacing (x, y, z) to which all cases are resampled: the medians.

    An axis of much larger spacing and much fewer voxels than both others gets the 10th percentile, and no less than the
    others have.
    """
    spacing = [one.find_percentile(50, size_of_bin) for one in found.spacing]
    edges = [one.find_percentile(50, lambda number: round(size_of_bin(number))) for one in found.cropped]
    worst = max(_ZYX, key=lambda axis: spacing[axis])
    others = [axis for axis in range(3) if axis != worst]
    coarsest = max(spacing[axis] for axis in others)
    is_apart = spacing[worst] > ANISOTROPY * coarsest
    if is_apart and edges[worst] * ANISOTROPY < min(edges[axis] for axis in others):
        wanted = found.spacing[worst].find_percentile(10, size_of_bin)
        spacing[worst] = wanted if wanted >= coarsest else coarsest + 1e-5
    return [float(f"{edge:.6g}") for edge in spacing]


def choose_normalisation(found: DataFingerprint) -> str:
    """z-scores over the voxels that are not 0, where cropping takes much away; else over all."""
    kept = found.kept.find_percentile(50, size_of_bin) if found.kept.total else 1.0
    return "zscore-nonzero" if kept < CROPPED_LITTLE else "zscore"


def choose_intensities(channels: Sequence[str], found: DataFingerprint) -> tuple[Intensities, ...]:
    """Channels of CT: clipped to percentiles of the foreground, then brought to its mean and deviation.

    Raises:
        NoConfiguration: a channel of CT is withheld, or has one value.
    """
    made: list[Intensities] = []
    for place, name in enumerate(channels, start=1):
        if not is_ct(name):
            continue
        told = found.intensities.get(name)
        if told is None or not told.total:
            raise NoConfiguration(f"intensities of {name} are withheld")
        low, high = (told.find_percentile(percent, value_of_bin) for percent in CLIPPED)
        mean, deviation = told.find_moments(value_of_bin)
        if low >= high or deviation <= 0:
            raise NoConfiguration(f"{name} has one value")
        numbers = {"low": low, "high": high, "mean": mean, "deviation": deviation}
        made.append(Intensities(channel=place, **{key: float(f"{one:.6g}") for key, one in numbers.items()}))
    return tuple(made)


def is_ct(channel: str) -> bool:
    """Whether a channel's intensities are Hounsfield units, by its name: "CT", "CT-arterial"."""
    name = channel.casefold()
    return name == "ct" or name.startswith(("ct-", "ct_"))


def choose_topology(
    spacing: Sequence[float], median: Sequence[float], cases: int, memory_mib: int, outputs: int
) -> tuple[Topology, int]:
    """The deepest net on the largest patch that memory allows with a batch of two; what is left makes the batch larger.

    Args:
        spacing, median: of the axes in nnU-Net's order: millimetres, and the median case's voxels.

    Raises:
        NoConfiguration: the images are too small, or the memory.
    """
    inverse = [1 / edge for edge in spacing]
    scale = (LARGEST_CUBE**3 / prod(inverse)) ** (1 / 3)
    first = [min(round(one * scale), edge) for one, edge in zip(inverse, median, strict=True)]
    levels = find_topology(spacing, first)
    reference = REFERENCE * memory_mib / 1024 / REFERENCE_GIB
    while (features := count_features(levels, levels.patch, outputs)) > reference * REFERENCE_BATCH / LEAST_BATCH:
        levels = _shrink_patch(spacing, median, levels)
    if len(levels.filters) < LEAST_LEVELS:
        raise NoConfiguration(f"a patch of {_by(levels.patch)} voxels is too small for a net of {LEAST_LEVELS} levels")
    levels = _widen_patch(levels)
    batch = round(reference / features * REFERENCE_BATCH)
    covering = round(prod(median) * cases * COVERED / prod(levels.patch))
    return levels, min(max(min(batch, covering), LEAST_BATCH), MOST_BATCH)


def _shrink_patch(spacing: Sequence[float], median: Sequence[float], levels: Topology) -> Topology:
    """One step smaller along the axis that is largest beside the median case.

    The step is the divisor of the patch that comes out, as in nnU-Net: so no size that a shallower net allows is left
    out.
    """
    patch = list(levels.patch)
    axis = max(range(len(patch)), key=lambda one: (patch[one] / median[one], one))
    tried = list(patch)
    tried[axis] -= levels.divisors[axis]
    if tried[axis] < LEAST_PATCH:
        raise NoConfiguration(f"memory is too small for a patch of {_by(patch)} voxels")
    patch[axis] -= find_topology(spacing, tried).divisors[axis]
    return find_topology(spacing, patch)


def _widen_patch(levels: Topology) -> Topology:
    """An edge below 8 voxels becomes the next multiple that is not; images are padded."""
    patch = tuple(
        max(edge, ceil(LEAST_PATCH / divisor) * divisor)
        for edge, divisor in zip(levels.patch, levels.divisors, strict=True)
    )
    return Topology(levels.strides, levels.kernels, levels.divisors, patch)


def _order_axes(spacing: Sequence[float]) -> tuple[int, ...]:
    """The axes in nnU-Net's order: the one of largest spacing, then the others as arrays have them."""
    first = max(_ZYX, key=lambda axis: spacing[axis])
    return (first, *(axis for axis in _ZYX if axis != first))


def _turn_back(edges: Sequence[int], order: Sequence[int]) -> ByEdge:
    """(x, y, z) out of nnU-Net's order."""
    one, two, three = (edges[order.index(axis)] for axis in range(3))
    return (one, two, three)


def _voxels_at(spacing: float) -> Callable[[int], float]:
    """How many voxels an extent has at a spacing."""
    return lambda number: round(size_of_bin(number) / spacing)


def _by(edges: Sequence[int]) -> str:
    return " × ".join(map(str, edges))
