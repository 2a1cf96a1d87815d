"""What a NIfTI file says is checked before it is believed: numbers, length, checksum, units, geometry, values."""

from __future__ import annotations

import gzip
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_files import (
    AFFINE,
    LABELS,
    OTHER,
    SHAPE,
    describe,
    edit_bytes,
    list_datasets,
    make_image,
    make_label,
    save_image,
    save_pair,
    set_field,
    survey,
    write_site,
)

from messages.reasons import Reason
from messages.sections import Preprocessing
from site_agent.datasets.barrier import CaseError
from site_agent.datasets.nifti import read_nifti
from site_agent.datasets.source import load_case, survey_cases

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
RGBA = np.dtype([*RGB.descr, ("A", "u1")])
IMAGE, LABEL = f"{OTHER}-t1c.nii.gz", f"{OTHER}-seg.nii.gz"


def only_reason(data: Path) -> Reason:
    """Why the other case is left out; the good one is used."""
    found = survey(data)
    assert [case.key for case in found.cases] == ["good"]
    assert [one.key for one in found.details] == [OTHER]
    return found.details[0].reason


def structured(kind: np.dtype) -> np.ndarray:
    voxels = np.zeros(SHAPE, kind)
    voxels["R"] = make_image().astype(np.uint8)
    return voxels


@pytest.mark.parametrize("file", [IMAGE, LABEL])
@pytest.mark.parametrize(
    "voxels",
    [make_image() + 1j * make_image(2), (make_image() * 1j).astype(np.complex64), structured(RGB), structured(RGBA)],
    ids=["complex128", "complex64", "rgb", "rgba"],
)
def test_a_file_of_complex_numbers_or_colours_is_no_image_and_no_label(
    tmp_path: Path, file: str, voxels: np.ndarray
) -> None:
    save_image(save_pair(tmp_path / "data") / file, voxels)
    status, told = list_datasets(write_site(tmp_path))
    assert (status, told["used"], told["left_out"]) == (0, 1, {"unsupported-image": 1})
    assert file in told["details"][0]


@pytest.mark.parametrize("file", [IMAGE, LABEL])
def test_bits_that_flipped_in_the_voxels_are_found_by_the_checksum(tmp_path: Path, file: str) -> None:
    path = save_pair(tmp_path) / file
    content = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    content[len(content) // 2] ^= 1  # stored, not compressed: only the checksum can tell
    path.write_bytes(content)
    assert only_reason(tmp_path) is Reason.UNREADABLE


@pytest.mark.parametrize(
    "spoil",
    [
        lambda packed: packed + b"trailing garbage",
        lambda packed: packed + packed,  # two files, one behind the other
        lambda packed: packed[:-5],
        lambda packed: packed[: len(packed) // 2],
        lambda packed: gzip.compress(gzip.decompress(packed)[:-1]),
        lambda packed: gzip.compress(gzip.decompress(packed) + b"more"),
        lambda packed: gzip.compress(gzip.decompress(packed)[:348]),
        lambda packed: gzip.compress(b""),
        lambda _: b"",
    ],
    ids=["garbage", "twice", "no end", "half", "a byte short", "longer", "header only", "empty inside", "empty"],
)
@pytest.mark.parametrize("file", [IMAGE, LABEL])
def test_a_compressed_file_that_is_shorter_or_longer_than_it_says_is_left_out(
    tmp_path: Path, file: str, spoil: Callable[[bytes], bytes]
) -> None:
    path = save_pair(tmp_path) / file
    path.write_bytes(spoil(path.read_bytes()))
    assert only_reason(tmp_path) is Reason.UNREADABLE


@pytest.mark.parametrize("keep", [0, 3, 347, 348, 352, -1])
def test_an_uncompressed_file_that_is_cut_short_is_left_out(tmp_path: Path, keep: int) -> None:
    path = save_pair(tmp_path) / IMAGE
    path.with_name(f"{OTHER}-t1c.nii").write_bytes(gzip.decompress(path.read_bytes())[:keep])
    path.unlink()
    assert only_reason(tmp_path) is Reason.UNREADABLE


def test_a_file_in_several_gzip_members_padding_or_the_wrong_ending_is_the_same_file(tmp_path: Path) -> None:
    path = save_pair(tmp_path) / IMAGE
    whole = gzip.decompress(path.read_bytes())
    expected = read_nifti(path).read_voxels()
    for content in (
        gzip.compress(whole[:500]) + gzip.compress(whole[500:]),  # as bgzip and pigz may write
        gzip.compress(whole + bytes(16)),
        whole,  # decompressed on its way, and the name kept
    ):
        path.write_bytes(content)
        np.testing.assert_array_equal(read_nifti(path).read_voxels(), expected)
        assert len(survey(tmp_path).cases) == 2


@pytest.mark.parametrize(
    ("at", "form", "values"),
    [
        (42, "hhh", (30000, 30000, 30000)),  # 54 TB
        (42, "hhh", (32767, 32767, 2)),  # 4 GiB: more than a gzip of this size can hold
        (40, "h", (0,)),
        (40, "h", (8,)),
        (42, "h", (-25536,)),  # 40,000 in an int16
        (42, "h", (0,)),
        (70, "h", (9999,)),
        (108, "f", (float("nan"),)),
        (108, "f", (1e30,)),
        (108, "f", (100.0,)),
        (112, "ff", (float("inf"), 0.0)),
        (112, "ff", (2.0, float("nan"))),
        (344, "4s", (b"ni1\0",)),
        (344, "4s", (b"\0\0\0\0",)),
        (0, "i", (347,)),
    ],
)
@pytest.mark.parametrize("file", [IMAGE, LABEL])
def test_a_header_that_cannot_be_true_leaves_out_its_case_alone(
    tmp_path: Path, file: str, at: int, form: str, values: tuple[object, ...]
) -> None:
    set_field(save_pair(tmp_path) / file, at, form, *values)
    refused = {Reason.UNREADABLE, Reason.UNSUPPORTED_IMAGE, Reason.EMPTY_IMAGE}
    assert only_reason(tmp_path) in refused | ({Reason.SHAPE_MISMATCH} if file == IMAGE else set())


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_a_slope_of_nothing_means_no_scale(tmp_path: Path, slope: float) -> None:
    path = save_image(tmp_path / "a.nii.gz", make_image())
    set_field(path, 112, "ff", slope, 7.0)
    np.testing.assert_array_equal(read_nifti(path).read_voxels(), make_image())


def test_values_are_scaled_as_nibabel_scales_them_in_both_byte_orders_and_versions(tmp_path: Path) -> None:
    for kind in (nib.Nifti1Image, nib.Nifti2Image):
        for dtype in (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64, np.int64):
            for order in "<>":
                made = kind(make_image().astype(dtype), AFFINE, dtype=dtype)
                made.header.set_slope_inter(0.37, -3.1)
                image = kind(made.dataobj, AFFINE, kind.header_class(endianness=order), dtype=dtype)
                image.header.set_slope_inter(0.37, -3.1)
                path = tmp_path / "a.nii.gz"
                path.write_bytes(gzip.compress(image.to_bytes()))
                read = read_nifti(path)
                theirs = nib.load(path)
                np.testing.assert_array_equal(read.read_voxels(), np.asarray(theirs.dataobj, dtype=np.float32))
                np.testing.assert_array_equal(read.affine, theirs.affine)


def in_unit(path: Path, factor: float, unit: str) -> None:
    affine = np.diag([factor, factor, factor, 1.0]) @ AFFINE
    image = nib.Nifti1Image(np.asarray(nib.load(path).dataobj), affine)
    image.header.set_xyzt_units(unit)
    nib.save(image, path)


@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "meter"), (1e3, "micron"), (1.0, "mm"), (1.0, "unknown")])
def test_lengths_are_millimetres_whatever_unit_the_header_has(tmp_path: Path, factor: float, unit: str) -> None:
    other = save_pair(tmp_path)
    for file in (IMAGE, LABEL):
        in_unit(other / file, factor, unit)
    good, spoilt = survey(tmp_path).cases
    np.testing.assert_allclose(
        load_case(spoilt, describe(tmp_path)).affine, load_case(good, describe(tmp_path)).affine, rtol=1e-5
    )


def test_an_image_in_metres_and_its_label_in_millimetres_lie_on_one_grid(tmp_path: Path) -> None:
    in_unit(save_pair(tmp_path) / IMAGE, 1e-3, "meter")
    assert len(survey(tmp_path).cases) == 2
    in_unit(tmp_path / OTHER / IMAGE, 1e-3, "mm")  # and without the unit they do not
    assert only_reason(tmp_path) is Reason.AFFINE_MISMATCH


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_spacing_that_no_body_has_leaves_out_the_case_and_names_it(tmp_path: Path, factor: float) -> None:
    other = save_pair(tmp_path / "data")
    for file in (IMAGE, LABEL):
        in_unit(other / file, factor, "unknown")
    status, told = list_datasets(write_site(tmp_path))
    assert (status, told["used"], told["left_out"]) == (0, 1, {"missing-geometry": 1})
    assert "xyzt_units" in told["details"][0]


@pytest.mark.parametrize(("spacing", "reason"), [(0.01, "unsupported-image"), (80.0, "missing-geometry")])
def test_resampling_to_more_voxels_than_the_bound_or_to_one_leaves_out_that_case(
    tmp_path: Path, spacing: float, reason: str
) -> None:
    save_pair(tmp_path)
    wanted = Preprocessing(spacing_mm=(spacing, spacing, spacing))
    assert survey_cases(describe(tmp_path), ["T1c"], ["NCR"], preprocessing=wanted).left_out == {reason: 2}
    fine = Preprocessing(spacing_mm=(1.0, 1.0, 1.0))
    assert len(survey_cases(describe(tmp_path), ["T1c"], ["NCR"], preprocessing=fine).cases) == 2


def both(folder: Path, affine: np.ndarray) -> None:
    save_image(folder / IMAGE, make_image(), affine)
    save_image(folder / LABEL, make_label(), affine)


@pytest.mark.parametrize("lean", [0.1, 0.02])
def test_axes_that_lean_are_told_and_rounding_is_not(tmp_path: Path, lean: float) -> None:
    other = save_pair(tmp_path)
    affine = AFFINE.copy()
    affine[1, 2] = 3.0 * lean * 5
    both(other, affine)
    for file in (IMAGE, LABEL):  # as the sform alone can say: nibabel would write a qform without it
        set_field(other / file, 252, "h", 0)
    assert only_reason(tmp_path) is Reason.TILTED
    affine[1, 2] = 1e-4
    both(other, affine)
    assert len(survey(tmp_path).cases) == 2


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 0.0])
def test_an_affine_that_is_no_grid_leaves_out_its_case(tmp_path: Path, number: float) -> None:
    other = save_pair(tmp_path)
    for file in (IMAGE, LABEL):
        set_field(other / file, 252, "h", 0)
        set_field(other / file, 280, "ffff", number, number, number, number)
    assert only_reason(tmp_path) is Reason.MISSING_GEOMETRY


@pytest.mark.parametrize("size", [-1.5, 0.0, float("nan")])
def test_a_voxel_of_no_size_leaves_out_its_case_where_nothing_else_says_one(tmp_path: Path, size: float) -> None:
    other = save_pair(tmp_path)
    for file in (IMAGE, LABEL):
        set_field(other / file, 254, "h", 0)
        set_field(other / file, 80, "f", size)
    assert only_reason(tmp_path) is Reason.MISSING_GEOMETRY


def test_an_sform_and_a_qform_that_contradict_each_other_leave_out_their_case(tmp_path: Path) -> None:
    other = save_pair(tmp_path)
    moved, scaled = AFFINE.copy(), AFFINE @ np.diag([1.1, 1.1, 1.1, 1.0])
    moved[0, 3] += 4.0
    for qform in (moved, scaled):
        for file in (IMAGE, LABEL):
            image = nib.load(other / file)
            made = nib.Nifti1Image(np.asarray(image.dataobj), AFFINE)
            made.set_sform(AFFINE, code=4)
            made.set_qform(qform, code=1)
            nib.save(made, other / file)
        assert only_reason(tmp_path) is Reason.AFFINE_MISMATCH


def test_pixdim_and_an_sform_of_other_voxels_leave_out_their_case(tmp_path: Path) -> None:
    other = save_pair(tmp_path)
    for file in (IMAGE, LABEL):
        set_field(other / file, 252, "h", 0)  # no qform
        set_field(other / file, 80, "fff", 0.5, 0.5, 3.0)
    assert only_reason(tmp_path) is Reason.AFFINE_MISMATCH
    for file in (IMAGE, LABEL):
        set_field(other / file, 80, "fff", 1.0, 1.0, 1.0)  # never set: the sform alone counts
    assert len(survey(tmp_path).cases) == 2


@pytest.mark.parametrize(("lost", "used"), [((4,), False), ((3, 4), False), ((0, 1), True), ((6, 7), True)])
def test_slices_that_were_lost_inside_and_filled_up_leave_out_their_case(
    lost: tuple[int, ...], used: bool, tmp_path: Path
) -> None:
    other = save_pair(tmp_path)
    voxels = make_image()
    voxels[..., list(lost)] = 0
    save_image(other / IMAGE, voxels)
    found = survey(tmp_path)
    assert (OTHER in [case.key for case in found.cases]) is used
    assert used or found.left_out == {Reason.MISSING_SLICES: 1}
    assert used or f"slice {lost[0] + 1} of 8" in found.details[0].text


def test_a_mask_that_thins_out_to_nothing_and_begins_again_has_lost_no_slice(tmp_path: Path) -> None:
    other = save_pair(tmp_path)
    voxels = make_image() + 1
    voxels[..., 3] = 0
    for beside in (2, 4):
        voxels[1:, :, beside] = 0
    save_image(other / IMAGE, voxels)
    assert OTHER in [case.key for case in survey(tmp_path).cases]


def test_a_file_without_sform_and_qform_is_as_large_as_pixdim_says(tmp_path: Path) -> None:
    other = save_pair(tmp_path)
    for file in (IMAGE, LABEL):
        set_field(other / file, 252, "hh", 0, 0)
        set_field(other / file, 80, "fff", 0.5, 0.75, 4.0)
    found = survey(tmp_path)
    assert [case.key for case in found.cases] == ["good", OTHER]
    affine = load_case(found.cases[1], describe(tmp_path)).affine
    assert np.allclose(np.abs(np.diag(affine)), (0.5, 0.75, 4.0, 1.0))
    assert np.allclose(affine @ (*((length - 1) / 2 for length in SHAPE), 1), (0, 0, 0, 1))  # about its middle


def test_a_label_whose_spacing_differs_a_little_over_many_voxels_is_not_the_images(tmp_path: Path) -> None:
    other = save_pair(tmp_path)
    finer = np.diag([0.02, 0.02, 0.02, 1.0])
    save_image(other / IMAGE, make_image(), finer)
    save_image(other / LABEL, make_label(), np.diag([0.025, 0.02, 0.02, 1.0]))  # 0.005 mm: within rounding of 1 mm
    assert only_reason(tmp_path) is Reason.AFFINE_MISMATCH


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (np.full(SHAPE, 3.4e38, np.float32) * (make_image() > 250), Reason.NOT_FINITE),
        (np.where(make_image() > 398, 3.4e38, make_image()).astype(np.float32), Reason.NOT_FINITE),
        (np.where(make_image() > 398, -1e300, make_image()).astype(np.float64), Reason.NOT_FINITE),
        (make_image().astype(np.float64) * 1e100, Reason.NOT_FINITE),
    ],
)
def test_values_that_no_z_score_can_hold_are_told_where_cases_are_found(
    tmp_path: Path, voxels: np.ndarray, reason: Reason
) -> None:
    save_image(save_pair(tmp_path) / IMAGE, voxels)
    assert only_reason(tmp_path) is reason


def test_an_image_that_normalising_makes_constant_is_left_out(tmp_path: Path) -> None:
    save_image(save_pair(tmp_path) / IMAGE, np.where(make_image() > 300, 7, 0).astype(np.int16))
    found = survey_cases(describe(tmp_path), ["T1c"], ["NCR"], preprocessing=Preprocessing())
    assert found.left_out == {Reason.EMPTY_IMAGE: 1}


@pytest.mark.parametrize("tail", [(1,), (1, 1), (1, 1, 1, 1)])
def test_a_last_axis_of_length_one_is_no_axis(tmp_path: Path, tail: tuple[int, ...]) -> None:
    other = save_pair(tmp_path)
    save_image(other / IMAGE, make_image(2).reshape(*SHAPE, *tail))
    save_image(other / LABEL, make_label().reshape(*SHAPE, *tail))
    good, spoilt = survey(tmp_path).cases
    assert load_case(spoilt, describe(tmp_path)).image.shape == load_case(good, describe(tmp_path)).image.shape
    np.testing.assert_array_equal(load_case(spoilt, describe(tmp_path)).image[0], make_image(2))


@pytest.mark.parametrize("shape", [(12, 10, 1, 8), (1, 12, 10, 8), (12, 10, 8, 2)])
def test_an_axis_of_length_one_elsewhere_is_not_guessed_away(tmp_path: Path, shape: tuple[int, ...]) -> None:
    save_image(save_pair(tmp_path) / IMAGE, np.resize(make_image(), shape))
    assert only_reason(tmp_path) is Reason.SHAPE_MISMATCH


def test_a_label_in_eight_bytes_or_with_a_scale_of_almost_one_keeps_its_integers(tmp_path: Path) -> None:
    path = save_pair(tmp_path) / LABEL
    save_image(path, make_label().astype(np.float64))
    set_field(path, 112, "ff", 1.0000001, 0.0)
    good, spoilt = survey(tmp_path).cases
    np.testing.assert_array_equal(
        load_case(spoilt, describe(tmp_path)).label, load_case(good, describe(tmp_path)).label
    )


def test_more_concepts_than_a_label_map_holds_are_refused(tmp_path: Path) -> None:
    from messages.ground.errors import ConfigError

    with pytest.raises(ConfigError, match="at most 255 concepts"):
        describe(tmp_path, labels={str(value): f"c{value}" for value in range(1, 257)})
    assert describe(tmp_path, labels=LABELS).labels


def test_an_image_that_is_not_on_its_labels_grid_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = save_pair(tmp_path) / IMAGE
    whole = gzip.decompress(path.read_bytes())
    content = bytearray(whole[:352])
    struct.pack_into("<hhh", content, 42, 1290, 1290, 400)
    path.write_bytes(gzip.compress(bytes(content) + b"\1" * 100_000_000, 1))  # says 1.3 GB, unpacks to 100 MB
    assert only_reason(tmp_path) in (Reason.SHAPE_MISMATCH, Reason.UNREADABLE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert survey(tmp_path).left_out == {Reason.SHAPE_MISMATCH: 1}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_labels_of_any_integer_type_map_alike_and_what_has_no_concept_is_named(tmp_path: Path, dtype: type) -> None:
    other = save_pair(tmp_path)
    nib.save(nib.Nifti1Image(make_label().astype(dtype), AFFINE, dtype=dtype), other / LABEL)
    good, spoilt = survey(tmp_path).cases
    config = describe(tmp_path)
    np.testing.assert_array_equal(load_case(spoilt, config).label, load_case(good, config).label)
    odd = make_label().astype(dtype)
    odd[0, 0, 0] = np.iinfo(dtype).max
    nib.save(nib.Nifti1Image(odd, AFFINE, dtype=dtype), other / LABEL)
    (detail,) = survey(tmp_path).details
    assert f"[{np.iinfo(dtype).max}]" in detail.text


def test_a_single_byte_of_a_header_never_ends_a_survey(tmp_path: Path) -> None:
    path = save_pair(tmp_path) / IMAGE
    whole = gzip.decompress(path.read_bytes())
    rng = np.random.default_rng(5)
    plain = path.with_name(f"{OTHER}-t1c.nii")
    path.unlink()
    for at in range(0, 348, 3):
        content = bytearray(whole)
        content[at] ^= int(rng.integers(1, 256))
        plain.write_bytes(content)
        try:
            read_nifti(plain).read_voxels()
        except CaseError as error:
            assert error.what  # noqa: PT017
    edit_bytes(plain, lambda content: struct.pack_into("<h", content, 42, 1))
    assert survey(tmp_path).found == 2
