"""Resampling within one frame of reference, and NIfTI labels beside DICOM: exact where grids agree, else refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_labels_rig import RULES, SHAPE, SPACING, rotation, volume
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused, Volume
from site_agent.dicom.config import Labels
from site_agent.dicom.labels import nifti
from site_agent.dicom.volumes import grid

NIFTI = Labels(source="nifti", folder=Path("labels"), values={1: "oedema", 4: "tumour"})


def ramp(on: Volume, slope: tuple[float, float, float] = (2.0, -3.0, 0.5), constant: float = 7.0) -> Volume:
    """The volume with voxels that are linear in the patient's position: trilinear interpolation is exact on them."""
    at = np.stack(np.meshgrid(*(np.arange(n) for n in on.voxels.shape), indexing="ij"), axis=-1)
    ras = at @ on.affine[:3, :3].T + on.affine[:3, 3]
    return replace(on, voxels=(ras @ slope + constant).astype(np.float32))


def test_a_volume_on_the_same_grid_keeps_its_very_voxels() -> None:
    reference = volume()
    other = ramp(replace(volume(series="1.9"), affine=reference.affine + 1e-6))
    moved = grid.resample_onto(other, reference)
    assert moved.voxels is other.voxels
    assert moved.affine is reference.affine


def test_a_linear_volume_is_sampled_exactly_wherever_it_reaches() -> None:
    reference = volume((6, 5, 4), spacing=(2.2, 1.7, 2.5), origin=(-16.0, 14.0, 7.0), turned=rotation(12, 1))
    other = ramp(volume((30, 30, 30), spacing=(1, 1, 1), origin=(-22.0, 8.0, 0.0), series="1.9"))
    moved = grid.resample_onto(other, reference)
    assert moved.voxels.dtype == np.float32
    assert moved.voxels.flags.c_contiguous
    np.testing.assert_allclose(moved.voxels, ramp(reference).voxels, atol=1e-3)
    assert grid.share_outside(other, reference) == 0.0


@settings(deadline=None)
@given(st.permutations((0, 1, 2)), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_the_same_image_stored_along_other_axes_comes_back_voxel_by_voxel(
    order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    rng = np.random.default_rng(3)
    reference = volume(turned=rotation(20, 0) @ rotation(-7, 2))
    voxels = rng.normal(size=SHAPE).astype(np.float32)
    affine = reference.affine.copy()
    stored = voxels
    for axis, flip in enumerate(flips):
        if flip:
            stored = np.flip(stored, axis)
            affine[:3, 3] += affine[:3, axis] * (SHAPE[axis] - 1)
            affine[:3, axis] *= -1
    stored = np.ascontiguousarray(stored.transpose(order))
    affine[:3, :3] = affine[:3, :3][:, list(order)]
    other = replace(reference, voxels=stored, affine=affine, series="1.9")
    np.testing.assert_array_equal(grid.resample_onto(other, reference).voxels, voxels)
    labels = (voxels > 0).astype(np.uint8)
    there = np.ascontiguousarray((stored > 0).astype(np.uint8))
    np.testing.assert_array_equal(grid.resample_nearest(there, affine, reference), labels)


def test_what_a_volume_does_not_reach_is_zero_and_counted_as_a_share() -> None:
    reference = volume()
    whole = ramp(volume(series="1.9"), constant=1000.0)
    half = replace(whole, voxels=np.ascontiguousarray(whole.voxels[:, :, :2]))
    moved = grid.resample_onto(half, reference)
    np.testing.assert_allclose(moved.voxels[:, :, :2], whole.voxels[:, :, :2])
    assert not moved.voxels[:, :, 2:].any()
    assert grid.share_outside(half, reference) == pytest.approx(3 / 5)


def test_an_image_covers_half_a_voxel_beyond_its_outermost_centres() -> None:
    thick = volume((7, 6, 1), spacing=(1.5, 2.0, 9.0), origin=(-20.0, 10.0, 8.0), series="1.9")
    thick = replace(thick, voxels=np.full((7, 6, 1), 5, np.float32))  # slices 0 to 2 lie in its 9 mm, 3 and 4 do not
    moved = grid.resample_onto(thick, volume())
    assert (moved.voxels[:, :, :3] == 5).all()
    assert not moved.voxels[:, :, 3:].any()


def test_a_volume_that_does_not_reach_the_reference_at_all_is_refused() -> None:
    with pytest.raises(ObjectRefused) as refused:
        grid.resample_onto(volume(origin=(500.0, 0.0, 0.0), series="1.9"), volume())
    assert refused.value.reason == Reason.AFFINE_MISMATCH


@pytest.mark.parametrize("frames", [("1.2.3.1", "1.2.3.9"), ("1.2.3.1", ""), ("", "")])
def test_volumes_of_other_or_nameless_frames_of_reference_are_refused(frames: tuple[str, str]) -> None:
    with pytest.raises(ObjectRefused) as refused:
        grid.resample_onto(volume(frame=frames[1], series="1.9"), volume(frame=frames[0]))
    assert refused.value.reason == Reason.OTHER_FRAME_OF_REFERENCE


def test_two_volumes_of_one_series_share_a_frame_of_reference_that_has_no_name() -> None:
    assert grid.resample_onto(volume(frame=""), volume(frame="")).voxels.shape == SHAPE


def label() -> np.ndarray[Any, Any]:
    """Integers as the file has them: 1 oedema, 4 tumour."""
    voxels = np.zeros(SHAPE, np.int16)
    voxels[2:5, 2:4, 1:4] = 1
    voxels[3, 2:4, 2] = 4
    return voxels


def expected() -> np.ndarray[Any, Any]:
    """What `label` is in a label map: positions in ("oedema", "tumour") plus one."""
    return np.where(label() == 4, 2, label()).astype(np.uint8)


def save(path: Path, voxels: Any, affine: Any) -> Path:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def refused(path: Path, reference: Volume, rules: Labels = NIFTI) -> Reason:
    with pytest.raises(ObjectRefused) as error:
        nifti.read_nifti_label(path, reference, rules)
    assert path.name not in str(error.value)
    return error.value.reason


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_a_nifti_label_on_the_images_grid_is_taken_voxel_by_voxel(tmp_path: Path, dtype: Any) -> None:
    reference = volume(turned=rotation(9, 1))
    path = save(tmp_path / "a.nii.gz", label().astype(dtype), reference.affine)
    found = nifti.read_nifti_label(path, reference, NIFTI)
    assert found.concepts == ("oedema", "tumour")
    assert found.voxels.dtype == np.uint8
    np.testing.assert_array_equal(found.voxels, expected())


def test_a_nifti_label_that_is_stored_in_another_direction_comes_to_the_same_place(tmp_path: Path) -> None:
    reference = volume()
    canonical = nib.as_closest_canonical(nib.Nifti1Image(label(), reference.affine))
    assert not np.allclose(canonical.affine, reference.affine)
    nib.save(canonical, tmp_path / "a.nii")
    np.testing.assert_array_equal(nifti.read_nifti_label(tmp_path / "a.nii", reference, NIFTI).voxels, expected())


def test_a_nifti_label_on_a_finer_grid_is_sampled_at_the_nearest_voxel(tmp_path: Path) -> None:
    reference = volume()
    finer = reference.affine.copy()
    finer[:3, :3] /= 2
    path = save(tmp_path / "a.nii.gz", label().repeat(2, 0).repeat(2, 1).repeat(2, 2), finer)
    half = reference.affine @ [-0.25, -0.25, -0.25, 1]
    finer[:3, 3] = half[:3]  # its cells are the halves of the reference's
    save(path, label().repeat(2, 0).repeat(2, 1).repeat(2, 2), finer)
    np.testing.assert_array_equal(nifti.read_nifti_label(path, reference, NIFTI).voxels, expected())


def test_a_nifti_label_outside_the_image_is_refused(tmp_path: Path) -> None:
    reference = volume()
    away = reference.affine.copy()
    away[:3, 3] += 40
    assert refused(save(tmp_path / "a.nii", label(), away), reference) == Reason.AFFINE_MISMATCH


def test_a_nifti_label_without_foreground_is_an_empty_label(tmp_path: Path) -> None:
    reference = volume()
    path = save(tmp_path / "a.nii", np.zeros(SHAPE, np.uint8), reference.affine)
    assert not nifti.read_nifti_label(path, reference, NIFTI).voxels.any()


def test_a_nifti_label_that_does_not_say_where_it_lies_or_says_it_twice_is_refused(tmp_path: Path) -> None:
    reference = volume()
    silent = nib.Nifti1Image(label(), None)
    silent.header.set_sform(None, 0)
    silent.header.set_qform(None, 0)
    nib.save(silent, tmp_path / "silent.nii")
    guessed = replace(reference, affine=silent.header.get_base_affine())  # where readers put such files
    assert refused(tmp_path / "silent.nii", guessed) == Reason.AFFINE_MISMATCH
    twice = nib.Nifti1Image(label(), reference.affine)
    other = reference.affine.copy()
    other[:3, 3] += SPACING
    twice.header.set_qform(other, 1)
    nib.save(twice, tmp_path / "twice.nii")
    assert refused(tmp_path / "twice.nii", reference) == Reason.AFFINE_MISMATCH


def test_a_nifti_label_with_values_that_nobody_named_is_refused(tmp_path: Path) -> None:
    reference = volume()
    odd = label()
    odd[0, 0, 0] = 3
    assert refused(save(tmp_path / "a.nii", odd, reference.affine), reference) == Reason.UNKNOWN_LABEL_VALUE
    part = label().astype(np.float32)
    part[0, 0, 0] = 0.5
    assert refused(save(tmp_path / "b.nii", part, reference.affine), reference) == Reason.UNKNOWN_LABEL_VALUE
    part[0, 0, 0] = np.nan
    assert refused(save(tmp_path / "c.nii", part, reference.affine), reference) == Reason.NOT_FINITE


def test_a_nifti_label_that_cannot_be_read_is_refused_without_its_name(tmp_path: Path) -> None:
    reference = volume()
    (tmp_path / "Beeblebrox.nii.gz").write_bytes(b"\x1f\x8b\x08\x00nothing")
    assert refused(tmp_path / "Beeblebrox.nii.gz", reference) == Reason.UNREADABLE
    assert refused(tmp_path / "missing.nii.gz", reference) == Reason.UNREADABLE
    good = save(tmp_path / "cut.nii.gz", label(), reference.affine)
    good.write_bytes(good.read_bytes()[:-40])
    assert refused(good, reference) == Reason.UNREADABLE
    four = save(tmp_path / "four.nii", np.stack([label(), label()], axis=-1), reference.affine)
    assert refused(four, reference) == Reason.SHAPE_MISMATCH


def test_a_nifti_label_with_a_fourth_dimension_of_one_is_three_dimensional(tmp_path: Path) -> None:
    reference = volume()
    path = save(tmp_path / "a.nii", label()[..., None], reference.affine)
    np.testing.assert_array_equal(nifti.read_nifti_label(path, reference, NIFTI).voxels, expected())


def test_the_values_of_a_label_map_are_positions_in_the_sorted_concepts() -> None:
    assert RULES.names == ("oedema", "tumour")
    assert NIFTI.names == ("oedema", "tumour")
