"""Real scanner files against the NIfTI that an independent converter (dcm2niix) made of them.

Tolerances: voxels equal; affine within 1e-4 mm after both were brought to RAS order (positions have four decimals).
"""

from __future__ import annotations

from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
from places import TEST_DATA
from pydicom.dataset import Dataset

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused, Volume
from site_agent.dicom.volumes import assembly, mosaic

DICOM = TEST_DATA / "dicom"
pytestmark = [
    pytest.mark.skipif(not DICOM.is_dir(), reason="the shared DICOM files are not here"),
    pytest.mark.filterwarnings("ignore:The value length:UserWarning"),  # they were cleaned by hand, too thoroughly
]
NIH = DICOM / "nih"
MILLIMETRES = 1e-4


def read(folder: Path) -> list[Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def canonical(volume: Volume) -> nib.Nifti1Image:
    return nib.as_closest_canonical(nib.Nifti1Image(volume.voxels, volume.affine))


def agrees(found: list[Volume], reference: Path) -> None:
    expected = nib.as_closest_canonical(nib.load(reference))
    voxels = np.asanyarray(expected.dataobj)
    assert len(found) == voxels.shape[3]
    for t, volume in enumerate(found):
        ours = canonical(volume)
        np.testing.assert_allclose(ours.affine, expected.affine, rtol=0, atol=MILLIMETRES)
        np.testing.assert_array_equal(np.asanyarray(ours.dataobj), voxels[..., t])


@pytest.mark.parametrize("number", [4, 5, 6, 7])
def test_a_run_of_ten_times_in_one_series_becomes_ten_volumes(number: int) -> None:
    objects = read(NIH / "In" / "20180918GE" / f"mr_{number:04d}")
    assert len(objects) == 150
    found = assembly.build_volumes(objects, announced=150)
    assert [volume.part for volume in found] == [f"time {t}" for t in range(1, 11)]
    assert all(volume.extent_verified for volume in found)
    agrees(found, NIH / "Ref" / f"DCM2NIIX_regression_test_{number}.nii")


@pytest.mark.parametrize(("number", "way"), [(3, "AP"), (4, "PA"), (5, "RL"), (6, "LR")])
def test_siemens_mosaics_become_the_volumes_in_them(number: int, way: str) -> None:
    found = assembly.build_volumes(read(NIH / "In" / "20180918Si" / f"mr_{number:04d}"))
    assert [volume.part for volume in found] == ["time 1", "time 2"]
    agrees(found, NIH / "Ref" / f"EPI_PE={way}_{number}.nii")


def test_a_mosaic_whose_scanner_header_is_gone_keeps_its_layout_in_our_note() -> None:
    objects = read(NIH / "In" / "20180918Si" / "mr_0003")
    for obj in objects:
        layout = mosaic.read_layout(obj)
        assert layout == mosaic.MosaicLayout(5, (0.0, 0.0, 1.0))
        obj.remove_private_tags()
        mosaic.keep_layout(obj, layout)
    agrees(assembly.build_volumes(objects), NIH / "Ref" / "EPI_PE=AP_3.nii")


@pytest.fixture(scope="module")
def sagittal() -> list[Dataset]:
    return read(DICOM / "deident_t1" / "In")


def test_a_sagittal_t1_becomes_what_highdicom_makes_of_it(sagittal: list[Dataset]) -> None:
    [volume] = assembly.build_volumes(sagittal)
    theirs = highdicom.get_volume_from_series(sagittal)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ theirs.affine  # highdicom's is LPS
    expected = nib.as_closest_canonical(nib.Nifti1Image(theirs.array.astype(np.float32), affine))
    ours = canonical(volume)
    np.testing.assert_allclose(ours.affine, expected.affine, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(np.asanyarray(ours.dataobj), np.asanyarray(expected.dataobj))
    assert volume.voxels.shape == (256, 256, 196)
    assert volume.extent_verified  # Images in Acquisition says 196


def refused(objects: list[Dataset], announced: int | None = None) -> Reason:
    with pytest.raises(ObjectRefused) as told:
        assembly.build_volumes(objects, announced=announced)
    return told.value.reason


def numbered(objects: list[Dataset], gone: set[int]) -> list[Dataset]:
    return [obj for obj in objects if int(obj.InstanceNumber) not in gone]


def test_four_inner_slices_taken_away_are_missing(sagittal: list[Dataset]) -> None:
    assert refused(numbered(sagittal, {50, 51, 90, 120})) is Reason.MISSING_SLICES


def test_end_slices_taken_away_show_in_the_scanners_count_and_in_the_archives(sagittal: list[Dataset]) -> None:
    ends = numbered(sagittal, {1, 2, 195, 196})
    assert refused(ends) is Reason.INCOMPLETE_SERIES
    assert refused(ends, 192) is Reason.INCOMPLETE_SERIES
    assert refused(ends, 196) is Reason.INCOMPLETE_SERIES


def test_where_nobody_counted_the_extent_is_not_verified(sagittal: list[Dataset]) -> None:
    uncounted = []
    for obj in numbered(sagittal, {1, 2, 195, 196}):
        uncounted.append(Dataset(obj))
        uncounted[-1].file_meta = obj.file_meta
        del uncounted[-1].ImagesInAcquisition
    [volume] = assembly.build_volumes(uncounted)
    assert volume.voxels.shape == (256, 256, 192)
    assert not volume.extent_verified
