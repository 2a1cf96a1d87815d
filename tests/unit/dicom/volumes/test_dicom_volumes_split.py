"""What is told apart within one series, what is refused because nothing tells it apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from series_rig import slices, truth, world_agrees

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused
from site_agent.dicom.volumes import assembly


def refused(objects: list[Dataset], **more: int) -> Reason:
    with pytest.raises(ObjectRefused) as told:
        assembly.build_volumes(objects, **more)
    return told.value.reason


def sets(**values: object) -> Callable[[Dataset, int], None]:
    def change(obj: Dataset, _: int) -> None:
        for keyword, value in values.items():
            setattr(obj, keyword, value)

    return change


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ({"EchoTime": 4.6, "EchoNumbers": 1}, {"EchoTime": 9.2, "EchoNumbers": 2}, "echo"),
        ({"EchoTime": 4.6}, {"EchoTime": 9.2}, "echo"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}, "kind"),
        ({"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}, "time"),
        ({"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}, "diffusion"),
        ({"StackID": "1"}, {"StackID": "2"}, "stack"),
        ({"AcquisitionNumber": 3}, {"AcquisitionNumber": 7}, "acquisition"),
        ({"InversionTime": 700}, {"InversionTime": 2500}, "inversion"),
        ({"FlipAngle": 5}, {"FlipAngle": 26}, "flip angle"),
        ({"TriggerTime": 0}, {"TriggerTime": 45.5}, "trigger"),
    ],
)
def test_images_at_one_place_that_differ_in_a_parameter_become_a_volume_each(
    one: dict[str, object], other: dict[str, object], name: str
) -> None:
    first, second = truth(seed=1), truth(seed=2)
    objects = [*slices(second, first=1, change=sets(**other)), *slices(first, first=7, change=sets(**one))]
    found = assembly.build_volumes(objects, announced=12)
    assert [volume.part for volume in found] == [f"{name} 1", f"{name} 2"]
    assert all(volume.extent_verified for volume in found)
    for volume, expected in zip(found, (first, second), strict=True):
        world_agrees(volume.voxels, volume.affine, expected)


@pytest.mark.parametrize("times", [(2.949, 2.951), (89.96, 90.1), (2.9, 2.949), (0.07, 0.1)])
@pytest.mark.parametrize("numbered", [True, False])
def test_echo_times_that_differ_by_rounding_are_one_echo(times: tuple[float, float], numbered: bool) -> None:
    expected = truth()

    def jitter(obj: Dataset, k: int) -> None:
        obj.EchoTime = times[k % 2]
        obj.SpacingBetweenSlices = obj.SliceThickness
        if numbered:
            obj.EchoNumbers = 1

    [found] = assembly.build_volumes(slices(expected, change=jitter))
    world_agrees(found.voxels, found.affine, expected)


@pytest.mark.parametrize("keyword", ["TriggerTime", "InversionTime", "FlipAngle"])
def test_times_that_jitter_from_slice_to_slice_still_tell_volumes_apart_where_they_keep_clear_of_each_other(
    keyword: str,
) -> None:
    first, second = truth(seed=1), truth(seed=2)

    def around(time: float, spread: float) -> Callable[[Dataset, int], None]:
        def change(obj: Dataset, k: int) -> None:
            setattr(obj, keyword, time + spread * (k % 3))
            obj.RepetitionTime = 800 + k  # plays no part

        return change

    def both(late: float, spread: float) -> list[Dataset]:
        one, other = around(20.0, spread), around(late, spread)
        return [*slices(first, first=1, change=one), *slices(second, first=7, change=other)]

    found = assembly.build_volumes(both(60.0, 4.5), announced=12)
    for volume, expected in zip(found, (first, second), strict=True):
        world_agrees(volume.voxels, volume.affine, expected)
    with pytest.raises(ObjectRefused) as told:
        assembly.build_volumes(both(35.0, 4.5), announced=12)  # 29 and 35: as near as slices of one volume
    assert told.value.reason is Reason.DUPLICATE_SLICES


def test_echo_times_that_differ_among_the_slices_of_one_volume_are_told() -> None:
    def vary(obj: Dataset, k: int) -> None:
        obj.EchoTime = (2.9, 4.6)[k % 2]

    with pytest.raises(ObjectRefused, match=r"echo time varies .* from 2\.9 to 4\.6 ms") as told:
        assembly.build_volumes(slices(truth(), change=vary))
    assert told.value.reason is Reason.AMBIGUOUS_SERIES


def test_two_echoes_whose_times_jitter_are_two_volumes() -> None:
    first, second = truth(seed=1), truth(seed=2)

    def echo(time: float) -> Callable[[Dataset, int], None]:
        return lambda obj, k: setattr(obj, "EchoTime", time + 0.01 * (k % 3))

    objects = [*slices(second, first=1, change=echo(9.2)), *slices(first, first=7, change=echo(4.6))]
    assert [volume.part for volume in assembly.build_volumes(objects)] == ["echo 1", "echo 2"]


def test_a_number_that_does_not_sort_every_place_is_passed_over_for_one_that_does() -> None:
    def change(trigger: float) -> Callable[[Dataset, int], None]:
        def apply(obj: Dataset, k: int) -> None:
            obj.AcquisitionNumber, obj.TriggerTime = k % 2 + 1, trigger  # two interleaved acquisitions of slices

        return apply

    runs = [truth(seed=1), truth(seed=2)]
    objects = [*slices(runs[0], change=change(0.0)), *slices(runs[1], first=7, change=change(45.0))]
    found = assembly.build_volumes(objects)
    assert [volume.part for volume in found] == ["trigger 1", "trigger 2"]
    for volume, expected in zip(found, runs, strict=True):
        world_agrees(volume.voxels, volume.affine, expected)


def test_what_differs_in_two_ways_is_named_by_both() -> None:
    objects = []
    for echo in (1, 2):
        for kind in ("M", "P"):
            change = sets(EchoTime=4.0 * echo, ImageType=["ORIGINAL", "PRIMARY", kind])
            objects += slices(truth(seed=len(objects)), first=len(objects) + 1, change=change)
    names = [volume.part for volume in assembly.build_volumes(objects)]
    assert names == ["kind 1, echo 1", "kind 1, echo 2", "kind 2, echo 1", "kind 2, echo 2"]


def test_a_mark_that_differs_between_slices_never_mixes_them_into_one_volume() -> None:
    def change(obj: Dataset, k: int) -> None:
        obj.EchoTime = 4.6 if k < 3 else 9.2

    found = assembly.build_volumes(slices(truth(), change=change))
    assert [(volume.part, volume.voxels.shape[2]) for volume in found] == [("echo 1", 3), ("echo 2", 3)]


@settings(deadline=None, max_examples=40)
@given(times=st.integers(2, 5), places=st.integers(2, 6), by_place=st.booleans(), data=st.data())
def test_a_run_that_says_how_many_times_it_has_is_sorted_by_its_instance_numbers(
    times: int, places: int, by_place: bool, data: st.DataObject
) -> None:
    runs = [truth((3, 2, places), seed=t) for t in range(times)]
    objects = []
    for t, run in enumerate(runs):
        made = slices(
            run, first=t * places + 1, change=sets(NumberOfTemporalPositions=times, ImagesInAcquisition=places)
        )
        for k, obj in enumerate(made):
            obj.InstanceNumber = k * times + t + 1 if by_place else t * places + k + 1
        objects += made
    found = assembly.build_volumes(data.draw(st.permutations(objects)))
    assert [volume.part for volume in found] == [f"time {t + 1}" for t in range(times)]
    assert all(volume.extent_verified for volume in found)
    for volume, expected in zip(found, runs, strict=True):
        world_agrees(volume.voxels, volume.affine, expected)


def run_of_three(**more: object) -> list[Dataset]:
    return [
        obj
        for t in range(3)
        for obj in slices(truth(seed=t), first=6 * t + 1, change=sets(NumberOfTemporalPositions=3, **more))
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda objects: [delattr(obj, "NumberOfTemporalPositions") for obj in objects],
        lambda objects: [setattr(obj, "NumberOfTemporalPositions", 2) for obj in objects],
        lambda objects: [setattr(obj, "InstanceNumber", 1) for obj in objects],
        lambda objects: [setattr(obj, "InstanceNumber", n % 6 + 1) for n, obj in enumerate(objects)],
        lambda objects: [delattr(obj, "InstanceNumber") for obj in objects],
        lambda objects: setattr(objects[0], "InstanceNumber", 18) or setattr(objects[17], "InstanceNumber", 1),
        lambda objects: objects.pop(4),
    ],
)
def test_a_run_that_leaves_doubt_about_its_times_is_refused(spoil: Callable[[list[Dataset]], object]) -> None:
    objects = run_of_three()
    assert len(assembly.build_volumes(objects)) == 3
    spoil(objects)
    assert refused(objects) is Reason.DUPLICATE_SLICES


@pytest.mark.parametrize("gone", [5, 11, 2])
def test_a_volume_with_fewer_slices_than_its_siblings_makes_the_series_incomplete(gone: int) -> None:
    objects = [
        *slices(truth(seed=1), change=sets(EchoTime=1)),
        *slices(truth(seed=2), first=7, change=sets(EchoTime=2)),
    ]
    del objects[gone]
    assert refused(objects) is Reason.INCOMPLETE_SERIES


def test_an_image_of_another_size_or_direction_among_the_slices_is_refused() -> None:
    turned = np.asarray([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    for stray in (truth((6, 4, 1)), truth((5, 4, 1), turned), truth((5, 4, 1), spacing=(0.8, 1.1, 2.5))):
        assert refused([*slices(truth()), *slices(stray, first=20)]) is Reason.MIXED_GEOMETRY


def test_a_localizer_of_three_directions_is_no_volume() -> None:
    turned = np.asarray([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    directions = (np.eye(3), turned, turned @ turned)
    objects = [slices(truth((4, 4, 1), r), first=n)[0] for n, r in enumerate(directions, 1)]
    assert refused(objects) is Reason.MIXED_GEOMETRY


def test_two_whole_stacks_of_two_directions_become_two_volumes() -> None:
    turned = truth((4, 5, 3), np.asarray([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), seed=3)
    found = assembly.build_volumes([*slices(truth()), *slices(turned, first=7)])
    assert [volume.part for volume in found] == ["geometry 1", "geometry 2"]
    for volume, expected in zip(found, (truth(), turned), strict=True):
        world_agrees(volume.voxels, volume.affine, expected)


def test_a_rotating_projection_of_many_directions_is_refused() -> None:
    objects = []
    for n in range(40):
        angle = np.radians(9 * n)
        turn = np.asarray([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        objects += slices(truth((4, 4, 2), turn), first=2 * n + 1)
    assert refused(objects) is Reason.MIXED_GEOMETRY


def test_frames_of_reference_are_not_mixed() -> None:
    objects = slices(truth())
    objects[2].FrameOfReferenceUID = "2.25.99"
    assert refused(objects) is Reason.MIXED_GEOMETRY
