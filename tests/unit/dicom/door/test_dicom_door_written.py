"""What the door writes alike into each object, and that it is written as pydicom would write it unaided."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from dicom_rig import SECRET, settings, write
from planted import plant
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from site_agent.dicom.door.door import Door
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import encode_object

METHODS = ["113100", "113105"]


@pytest.fixture(scope="module")
def door() -> Door:
    return Door(Pseudonyms(SECRET), settings(Path("unused")).labels)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One object a series of a patient, and one in which something is planted everywhere."""
    [study] = write(tmp_path_factory.mktemp("export"), [0])
    found = {str(obj.SeriesInstanceUID): obj for obj in map(dcmread, sorted(study.folder.iterdir()))}
    named = {str(obj.get("SeriesDescription", obj.Modality)): obj for obj in found.values()}
    assert len(named) == 6
    return named | {"planted": dcmread(BytesIO(plant(next(iter(named.values())))))}


def afresh(clean: Dataset) -> Dataset:
    """The same elements, read, in data sets of which pydicom knows nothing."""
    new = Dataset()
    for element in clean:
        new.add(element)
        if element.VR == "SQ":
            new[element.tag].value = Sequence([afresh(item) for item in element.value])
    return new


def test_an_object_is_written_to_the_bytes_that_pydicom_would_write_if_it_settled_everything_itself(
    door: Door, objects: dict[str, Any]
) -> None:
    for name, obj in objects.items():
        clean = door.admit_object(obj).object
        written = encode_object(clean)
        slow = afresh(clean)
        slow.file_meta = clean.file_meta
        buffer = BytesIO()
        dcmwrite(buffer, slow, enforce_file_format=True)
        assert written == buffer.getvalue(), name


def test_what_is_alike_in_each_object_is_there_and_can_be_changed_in_one_alone(
    door: Door, objects: dict[str, Any]
) -> None:
    first, second = (door.admit_object(obj).object for obj in list(objects.values())[:2])
    first.DeidentificationMethodCodeSequence[0].CodeMeaning = "another"
    first.PatientIdentityRemoved = "NO"
    read = dcmread(BytesIO(encode_object(second)))
    assert read.PatientIdentityRemoved == "YES"
    assert [item.CodeValue for item in read.DeidentificationMethodCodeSequence][:2] == METHODS
    assert "another" not in str(read)
    assert (read.PatientName, read.StudyDate, read.AccessionNumber) == ("", "", "")
    assert dcmread(BytesIO(encode_object(first))).DeidentificationMethodCodeSequence[0].CodeMeaning == "another"
