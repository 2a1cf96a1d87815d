"""A NIfTI label beside DICOM is believed no more than one of a NIfTI data set; nothing in an error names its file."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nifti_files import AFFINE, SHAPE, edit_bytes, make_image, make_label, save_image, set_field

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused, Volume
from site_agent.dicom.config import Labels
from site_agent.dicom.labels.nifti import list_label_files, read_nifti_label

RULES = Labels(source="nifti", folder=Path("labels"), values={1: "NCR", 2: "ED", 3: "ET"})
REFERENCE = Volume(make_image().astype(np.float32), AFFINE, "1.2", "1.3", tuple((str(k), 1) for k in range(SHAPE[2])))
NAME = "MUSTER-4711"


def read(path: Path) -> np.ndarray:
    return read_nifti_label(path, REFERENCE, RULES).voxels


def refused(path: Path) -> Reason:
    with pytest.raises(ObjectRefused) as caught:
        read(path)
    assert NAME not in caught.value.what
    return caught.value.reason


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return save_image(tmp_path / f"{NAME}.nii.gz", make_label())


def test_flipped_bits_are_found_by_the_checksum(file: Path) -> None:
    expected = read(file)
    content = bytearray(gzip.compress(gzip.decompress(file.read_bytes()), compresslevel=0))
    file.write_bytes(content)
    np.testing.assert_array_equal(read(file), expected)
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert refused(file) is Reason.UNREADABLE
    file.write_bytes(gzip.compress(gzip.decompress(save_image(file, make_label()).read_bytes()) + b"more"))
    assert refused(file) is Reason.UNREADABLE


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_complex_numbers_and_colours_are_no_label(file: Path, dtype: np.dtype) -> None:
    save_image(file, np.zeros(SHAPE, dtype))
    assert refused(file) is Reason.UNSUPPORTED_IMAGE


@pytest.mark.parametrize(("factor", "unit"), [(1e-3, "meter"), (1e3, "micron")])
def test_its_unit_counts(file: Path, factor: float, unit: str) -> None:
    expected = read(file)
    image = nib.Nifti1Image(make_label(), np.diag([factor, factor, factor, 1.0]) @ AFFINE)
    image.header.set_xyzt_units(unit)
    nib.save(image, file)
    np.testing.assert_array_equal(read(file), expected)


def test_a_label_with_a_scale_of_almost_one_keeps_its_integers(file: Path) -> None:
    expected = read(file)
    set_field(file, 112, "ff", 1.0000001, 0.0)
    np.testing.assert_array_equal(read(file), expected)
    set_field(file, 112, "ff", 2.0, float("nan"))
    assert refused(file) is Reason.UNREADABLE


def test_two_files_of_one_name_have_to_hold_the_same(file: Path) -> None:
    other = file.with_name(f"{NAME}.nii")
    other.write_bytes(gzip.decompress(file.read_bytes()))
    assert list_label_files(file) == list_label_files(other) == [file, other]
    np.testing.assert_array_equal(read(file), read(other))
    edit_bytes(other, lambda content: content.__setitem__(-1, 1))
    assert refused(file) is Reason.SEVERAL_LABELS
    other.write_bytes(b"cut")
    assert refused(file) is Reason.UNREADABLE
