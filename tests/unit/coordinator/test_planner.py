"""The planner against nnU-Net v2's own, whose answers are written here (nnunetv2 from PyPI, `ExperimentPlanner`)."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import plain

from coordinator.core.planning.planner import NoConfiguration, choose_spacing, choose_topology, plan_configuration
from messages.experiment import Experiment
from messages.statistics.configuration import configure_experiment
from messages.statistics.fingerprint import ByAxis, DataFingerprint
from messages.statistics.histograms import Histogram, bin_of_size, bin_of_value
from nets import registry

GIB = 1024
LEVELS = [(2, 2, 2)] * 5


def sizes(*values: float) -> Histogram:
    counts: dict[int, int] = {}
    for value in values:
        counts[bin_of_size(value)] = counts.get(bin_of_size(value), 0) + 1
    return Histogram.of_counts(counts)


def fingerprint(spacings: list[tuple[float, ...]], shapes: list[tuple[float, ...]], **more: Any) -> DataFingerprint:
    """Of cases by spacing and shape, (x, y, z)."""

    def by_axis(read: Any) -> ByAxis:
        one, two, three = (sizes(*(read(place, axis) for place in range(len(spacings)))) for axis in range(3))
        return (one, two, three)

    return DataFingerprint(
        cases=len(spacings),
        spacing=by_axis(lambda place, axis: spacings[place][axis]),
        cropped=by_axis(lambda place, axis: shapes[place][axis]),
        extent=by_axis(lambda place, axis: spacings[place][axis] * shapes[place][axis]),
        kept=sizes(*[1.0] * len(spacings)),
        **more,
    )


def experiment(*channels: str, **net: Any) -> Experiment:
    task = {"kind": "segmentation", "channels": list(channels or ("T1",)), "regions": {"A": ["ED"], "B": ["ET"]}}
    return Experiment.model_validate(plain(net={"name": "auto", **net}, task=task))


@pytest.mark.parametrize(
    ("spacing", "median", "cases", "gib", "patch", "batch", "strides", "kernels"),
    [
        ((1, 1, 1), (36, 50, 35), 260, 8, (40, 56, 40), 9, [(2, 2, 2)] * 3, [(3, 3, 3)] * 4),
        (
            (5, 0.8, 0.8), (20, 300, 300), 100, 8, (20, 320, 256), 2,
            [(1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)],
            [(1, 3, 3), (1, 3, 3), *[(3, 3, 3)] * 5],
        ),
        ((1, 1, 1), (140, 170, 138), 500, 8, (128, 128, 128), 2, LEVELS, [(3, 3, 3)] * 6),
        (
            (10, 1.5, 1.5), (9, 250, 220), 200, 11, (10, 256, 224), 9,
            [(1, 2, 2), (1, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2)],
            [(1, 3, 3), (1, 3, 3), *[(3, 3, 3)] * 4],
        ),
    ],
)  # fmt: skip
def test_patch_batch_and_depth_are_those_of_nnu_net(
    spacing: Any, median: Any, cases: int, gib: int, patch: Any, batch: int, strides: Any, kernels: Any
) -> None:
    levels, found = choose_topology(spacing, median, cases, gib * GIB, 3)
    assert (levels.patch, found) == (patch, batch)
    assert (list(levels.strides), list(levels.kernels)) == (strides, kernels)


def test_less_memory_makes_a_smaller_patch_and_too_little_none() -> None:
    large, _ = choose_topology((1, 1, 1), (140, 170, 138), 500, 8 * GIB, 3)
    small, batch = choose_topology((1, 1, 1), (140, 170, 138), 500, 1 * GIB, 3)
    assert all(one <= other for one, other in zip(small.patch, large.patch, strict=True))
    assert small.patch != large.patch
    assert batch == 2
    with pytest.raises(NoConfiguration, match=r"memory|too small"):
        choose_topology((1, 1, 1), (140, 170, 138), 500, 1, 3)


def test_a_coarse_axis_of_few_voxels_gets_the_tenth_percentile_of_its_spacings() -> None:
    spacings = [(1.0, 1.0, 10.0)] * 8 + [(1.0, 1.0, 5.0)] * 2
    found = choose_spacing(fingerprint(spacings, [(256.0, 256.0, 12.0)] * 10))
    assert found[:2] == [1.0, 1.0]
    assert found[2] == pytest.approx(5.0, rel=0.005)
    many = choose_spacing(fingerprint(spacings, [(256.0, 256.0, 120.0)] * 10))
    assert many[2] == pytest.approx(10.0, rel=0.005), "an axis of many voxels keeps its median"


def test_ct_is_clipped_to_percentiles_of_its_foreground_and_other_channels_get_z_scores() -> None:
    counts: dict[int, int] = {}
    for value in range(-100, 301):
        counts[bin_of_value(value)] = counts.get(bin_of_value(value), 0) + 100
    values = Histogram.of_counts(counts)
    found = fingerprint([(1.0, 1.0, 1.0)] * 10, [(64.0, 64.0, 64.0)] * 10, intensities={"CT": values, "T1": values})
    made = plan_configuration(experiment("T1", "CT"), found, None)
    (ct,) = made.intensities
    assert ct.channel == 2
    assert (ct.low, ct.high) == (pytest.approx(-98, abs=2), pytest.approx(298, abs=3))
    assert (ct.mean, ct.deviation) == (pytest.approx(100, abs=2), pytest.approx(115.8, abs=2))
    assert made.normalise == "zscore"
    with pytest.raises(NoConfiguration, match="CT are withheld"):
        plan_configuration(experiment("CT"), fingerprint([(1.0, 1.0, 1.0)], [(64.0, 64.0, 64.0)]), None)


def test_z_scores_are_of_what_is_not_zero_where_cropping_takes_much_away() -> None:
    found = fingerprint([(1.0, 1.0, 1.0)] * 10, [(64.0, 64.0, 64.0)] * 10)
    assert plan_configuration(experiment(), found, None).normalise == "zscore"
    cropped = found.model_copy(update={"kept": sizes(*[0.4] * 10)})
    assert plan_configuration(experiment(), cropped, None).normalise == "zscore-nonzero"


def test_the_net_is_made_for_the_least_memory_that_is_declared_or_wished() -> None:
    found = fingerprint([(1.0, 1.0, 1.0)] * 10, [(64.0, 64.0, 64.0)] * 10)
    assert plan_configuration(experiment(), found, None).memory_mib == 8 * GIB
    assert plan_configuration(experiment(), found, 4 * GIB).memory_mib == 4 * GIB
    assert plan_configuration(experiment(memory_gib=2.0), found, 4 * GIB).memory_mib == 2 * GIB


def test_what_is_planned_is_an_experiment_with_a_net_that_exists() -> None:
    """The coarse axis lies along x: patches, strides and kernels come back in the order of our axes."""
    found = fingerprint([(5.0, 0.8, 0.8)] * 10, [(20.0, 300.0, 300.0)] * 10)
    made = plan_configuration(experiment(), found, None)
    assert made.patch[0] == 20
    configured = configure_experiment(experiment(), made)
    registry.check_net(configured)
    assert not configured.measures_first
    assert configured.training.patch == made.patch
    assert configured.preprocessing.spacing_mm == made.spacing_mm
    turned = fingerprint([(0.8, 0.8, 5.0)] * 10, [(300.0, 300.0, 20.0)] * 10)
    assert plan_configuration(experiment(), turned, None).patch[2] == 20


def test_nothing_follows_from_what_is_withheld_or_from_images_that_are_too_small() -> None:
    with pytest.raises(NoConfiguration, match="withheld"):
        plan_configuration(experiment(), DataFingerprint(cases=10), None)
    with pytest.raises(NoConfiguration, match="too small for a net"):
        plan_configuration(experiment(), fingerprint([(1.0, 1.0, 1.0)] * 9, [(8.0, 8.0, 8.0)] * 9), None)
