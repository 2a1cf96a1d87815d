"""Real files: a series, and a label on it, mean the same behind the door as before it."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from places import TEST_DATA
from pydicom import dcmread
from pydicom.dataset import Dataset

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused, Volume
from site_agent.dicom.config import Labels
from site_agent.dicom.door import codes
from site_agent.dicom.door import profile_table as table
from site_agent.dicom.door.door import Door
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import encode_object
from site_agent.dicom.labels import segmentations
from site_agent.dicom.volumes import assembly

DATA = TEST_DATA / "dicom"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="real DICOM files are not there")
RULES = Labels.model_validate(
    {"concepts": {"liver": {"codes": ("SCT:10200004",)}, "spine": {"codes": ("SCT:421060004",)}}}
)
PSEUDONYMS = Pseudonyms(b"a secret of the site's own, 32 b")
DOOR = Door(PSEUDONYMS, RULES)


def read(*paths: Path) -> list[Dataset]:
    return [dcmread(path) for path in sorted(paths)]


def series(name: str) -> list[Dataset]:
    return read(*(path for path in (DATA / name).iterdir() if path.suffix in (".dcm", ".seg")))


def behind(objects: Sequence[Dataset]) -> list[Dataset]:
    """As they are read from the spool."""
    return [dcmread(BytesIO(encode_object(DOOR.admit_object(obj).object))) for obj in objects]


@pytest.mark.parametrize(
    "name",
    [
        "nih/In/20180918GE/mr_0004",
        "nih/In/20180918Si/mr_0003",
        "deident_t1/In",
        "seg/ct-3slice",
        "seg/23x38x3/image",
        "seg/24x38x3/multiframe",
    ],
)
def test_a_series_gives_the_same_volumes_behind_the_door(name: str) -> None:
    before = series(name)
    theirs, ours = assembly.build_volumes(before), assembly.build_volumes(behind(before))
    assert [volume.part for volume in ours] == [volume.part for volume in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.voxels, other.voxels)
        np.testing.assert_array_equal(one.affine, other.affine)
        assert one.frames == tuple((PSEUDONYMS.pseudonym_of_uid(sop), number) for sop, number in other.frames)
        assert one.series == PSEUDONYMS.pseudonym_of_uid(other.series)
        assert one.frame_of_reference == PSEUDONYMS.pseudonym_of_uid(other.frame_of_reference)
        assert one.extent_verified == other.extent_verified


@pytest.mark.parametrize("name", ["liver.dcm", "partial_overlaps.dcm", "sparse-labelmap-ppv5.dcm"])
def test_a_segmentation_means_the_same_behind_the_door(name: str) -> None:
    images, label = series("seg/ct-3slice"), dcmread(DATA / "seg" / name)
    [before], [after] = assembly.build_volumes(images), assembly.build_volumes(behind(images))
    expected, found = outcome(label, before), outcome(*behind([label]), after)
    if isinstance(expected, Reason):
        assert found is expected
    else:
        np.testing.assert_array_equal(found, expected)
        assert expected.any()


def outcome(label: Dataset, reference: Volume) -> Reason | npt.NDArray[np.uint8]:
    try:
        return segmentations.read_segmentation(label, reference, RULES).voxels
    except ObjectRefused as error:
        return error.reason


@pytest.mark.parametrize(
    "path",
    [
        "deident_t1/In/00001.dcm",
        "nih/In/20180918GE/mr_0004/axial_epi_fmri_interleaved_i_to_s-00001.dcm",
        "nih/In/20180918Si/mr_0003/epi_pe_ap-00001.dcm",
        "seg/liver.dcm",
        "rtstruct/rt.dcm",
        "rtstruct/ct_1.dcm",
    ],
)
def test_no_text_date_or_uid_of_a_real_file_is_found_in_what_is_written(path: str) -> None:
    obj = dcmread(DATA / path)
    written = encode_object(DOOR.admit_object(obj).object)
    texts = {text for text in _texts(obj) if len(text) >= 6}
    assert texts
    clean = _texts(dcmread(BytesIO(written)))
    assert {text for text in texts - clean if text.encode("utf-8", "replace") in written} == set()
    assert {text for text in texts & clean if not _public(text)} == set()


def _texts(obj: Dataset) -> set[str]:
    found: set[str] = set()
    for element in obj.iterall():
        if element.VR in ("PN", "LO", "SH", "LT", "ST", "UT", "UC", "UR", "DA", "DT", "TM", "AS", "UI", "AE"):
            values = element.value if element.VM > 1 else [element.value]
            found.update(str(value).strip() for value in values if value)
    return found


def _public(text: str) -> bool:
    """Of DICOM's own making: a registered UID, a code or its meaning, a maker's name as we write it."""
    listed = {word for (_, value), meaning in codes._public_codes().items() for word in (value, meaning)}
    ours = {word for method in table.METHODS for word in method} | set(table.MAKERS.values())
    return text.startswith("1.2.840.10008.") or text in listed | ours
