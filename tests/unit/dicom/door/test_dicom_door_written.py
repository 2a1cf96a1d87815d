"""What the door writes alike into each object, and that it is written as pydicom would write it unaided."""

from __future__ import annotations

from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from dicom_rig import SECRET, settings, write
from planted import plant
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from deploy.demo.phantoms.dicom import encode_dataset
from site_agent.dicom.base import ObjectRefused
from site_agent.dicom.door.door import Door
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import encode_object
from site_agent.dicom.reading import read_object
from tests.fuzz.dicom_studies import ENCODINGS, study_files

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


def test_what_the_door_remembers_of_one_object_changes_no_other(door: Door, objects: dict[str, Any]) -> None:
    """The same bytes in other elements, VRs and encodings: as a door that has seen nothing else writes them."""
    planned = [one for encoding in range(len(ENCODINGS)) for one in study_files("2.25.4711.7", encoding, "seg")[:2]]
    planned += [study_files("2.25.4711.7", encoding, "rtstruct")[-1] for encoding in range(2)]
    found = [*objects.values(), *map(read_object, planned)]
    for vr, value in (("DS", "5"), ("US", 0x2035), ("CS", "5"), ("LO", "5")):  # of the echo time: the same two bytes
        found.append(dcmread(BytesIO(encode_dataset(next(iter(objects.values()))))))
        found[-1].add_new(0x00180081, vr, value)
        found[-1] = dcmread(BytesIO(encode_dataset(found[-1])))
    for obj in found:
        for one in (deepcopy(obj), deepcopy(obj)):  # the second as it is remembered
            assert outcome(door, one) == outcome(
                Door(Pseudonyms(SECRET), settings(Path("unused")).labels), deepcopy(obj)
            )


def outcome(door: Door, obj: Any) -> bytes | str:
    try:
        return encode_object(door.admit_object(obj).object)
    except ObjectRefused as error:
        return str(error)
