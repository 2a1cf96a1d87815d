"""Nothing that was planted in an object, wherever DICOM has a place for it, passes the door."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from dicom_files import image
from planted import ALSO, KEPT, MARKS, plant, tags, traces, traces_below
from pydicom import config, dcmread, dcmwrite
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused
from site_agent.dicom.config import Labels
from site_agent.dicom.door import profile_table as table
from site_agent.dicom.door.door import Door
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import Spool, encode_object
from site_agent.dicom.roles.assignment import Facts

SECRET = b"a secret of the site's own, 32 b"
PSEUDONYMS = Pseudonyms(SECRET)
RULES = Labels.model_validate({"concepts": {"ET": {"codes": ("SCT:86049000",), "names": ("Enhancing",)}}})
IDENTITY = ("P1", "Test^Patient", "20240115", "BRAIN TUMOUR", "1.2.826.0.1.3680043.8.498.4711")


@pytest.fixture
def door() -> Door:
    return Door(PSEUDONYMS, RULES)


@cache
def planted_file(syntax: str = ExplicitVRLittleEndian) -> bytes:
    obj = image()
    obj.file_meta.TransferSyntaxUID = syntax
    return plant(obj)


def refused(door: Door, obj: Dataset) -> ObjectRefused:
    with pytest.raises(ObjectRefused) as told:
        door.admit_object(obj)
    return told.value


def rewritten(obj: Dataset) -> bytes:
    buffer = BytesIO()
    with config.disable_value_validation():
        dcmwrite(buffer, obj, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_nothing_that_is_planted_anywhere_in_an_object_is_written_to_disk(
    door: Door, tmp_path: Path, syntax: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    before = planted_file(syntax)
    planted = dcmread(BytesIO(before))
    assert {*MARKS.values(), *ALSO} <= traces(before)  # the search finds what is there
    with caplog.at_level(logging.DEBUG):
        admitted = door.admit_object(planted)
        with Spool(tmp_path / "spool", PSEUDONYMS) as spool:
            spool.put_object(admitted)
    # "P1" alone is too short to look for among bytes, and its digits are those of many numbers.
    assert traces_below(tmp_path, *IDENTITY[1:]) == {}
    assert traces(json.dumps(admitted.facts.as_plain()).encode(), *IDENTITY[1:]) == set()
    said = capfd.readouterr()
    assert traces((caplog.text + said.out + said.err).encode(), *IDENTITY[1:]) == set()
    assert rewritten(planted) == rewritten(dcmread(BytesIO(before)))  # the source's object is not changed


@pytest.mark.parametrize("keyword", sorted(k for k in KEPT if k.endswith("UID") or k == "PatientID"))
def test_what_identifies_the_object_itself_is_replaced_in_the_file(door: Door, keyword: str) -> None:
    admitted = door.admit_object(image(FrameOfReferenceUID="1.9.8765432101.1", PatientID="1.9.8765432101.2"))
    if keyword != "SOPClassUID":
        assert "1.9.8765432101" not in str(admitted.object[keyword].value)
        assert admitted.object[keyword].value
    assert b"1.2.826.0.1.3680043.8.498.4711" not in encode_object(admitted.object)


def test_an_element_of_each_kind_that_passes_is_held_to_its_kind() -> None:
    """Every element of the dictionary, with a text in it whatever its VR is: an attacker's file is not bound to VRs."""
    obj = image()
    for tag, vr, keyword in tags(
        "US", "SS", "UL", "SL", "FD", "FL", "DS", "IS", "AT", "CS", "UI", "SQ", "US or SS", "OW"
    ):
        if keyword not in KEPT | table.ESSENTIAL | {"ModalityLUTSequence", "PixelData"} and Tag(tag) not in obj:
            obj.add(DataElement(Tag(tag), "LO", f"QzLong {vr}", validation_mode=config.IGNORE))
    door, planted = Door(PSEUDONYMS, RULES, (), lambda obj, overrides: Facts()), dcmread(BytesIO(rewritten(obj)))
    assert traces(encode_object(planted))
    assert traces(encode_object(door.admit_object(planted).object)) == set()


def test_file_meta_information_and_preamble_are_written_anew(door: Door) -> None:
    written = dcmread(BytesIO(encode_object(door.admit_object(dcmread(BytesIO(planted_file()))).object)))
    assert written.preamble == bytes(128)
    assert {element.keyword for element in written.file_meta} == {
        "FileMetaInformationGroupLength",
        "FileMetaInformationVersion",
        "MediaStorageSOPClassUID",
        "MediaStorageSOPInstanceUID",
        "TransferSyntaxUID",
        "ImplementationClassUID",
        "ImplementationVersionName",
    }
    assert written.file_meta.MediaStorageSOPInstanceUID == written.SOPInstanceUID


def test_a_clean_object_says_how_it_was_cleaned(door: Door) -> None:
    clean = door.admit_object(image()).object
    assert clean.PatientIdentityRemoved == "YES"
    assert clean.LongitudinalTemporalInformationModified == "REMOVED"
    methods = {(item.CodingSchemeDesignator, item.CodeValue) for item in clean.DeidentificationMethodCodeSequence}
    assert methods == {("DCM", "113100"), ("DCM", "113105")}
    assert (clean.PatientName, clean.StudyDate, clean.AccessionNumber) == ("", "", "")  # type 2: there, and empty


def test_private_numbers_that_volumes_need_stay_and_the_object_says_so(door: Door) -> None:
    obj = image()
    block = obj.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x0E, "FD", [0.0, 0.6, 0.8])
    block.add_new(0x08, "CS", "QZWORD")
    clean = dcmread(BytesIO(encode_object(door.admit_object(obj).object)))
    kept = clean.private_block(0x0019, "SIEMENS MR HEADER")
    assert (int(kept[0x0C].value), list(kept[0x0E].value), 0x08 in kept) == (1000, [0.0, 0.6, 0.8], False)
    assert "113111" in {item.CodeValue for item in clean.DeidentificationMethodCodeSequence}


@pytest.mark.parametrize("value", ["QzLong", "19481122", "1948-11-22", ""])
def test_private_text_does_not_pass_for_a_number(door: Door, value: str) -> None:
    obj = image()
    block = obj.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "LO", value)
    clean = door.admit_object(obj).object
    assert not [element for element in clean if element.tag.is_private]
    assert "113111" not in {item.CodeValue for item in clean.DeidentificationMethodCodeSequence}


def test_facts_are_taken_down_before_descriptors_are_removed(door: Door) -> None:
    admitted = door.admit_object(image(SeriesDescription="ax t1 post gad", RepetitionTime="500", EchoTime="10"))
    assert "after" in admitted.facts.words
    assert "SeriesDescription" not in admitted.object


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, Reason.BURNED_IN_ANNOTATION),
        ({"BurnedInAnnotation": "MAYBE"}, Reason.BURNED_IN_ANNOTATION),
        ({"ConversionType": "WSD"}, Reason.BURNED_IN_ANNOTATION),
        ({"ConversionType": "DF", "BurnedInAnnotation": "NO"}, Reason.SECONDARY_CAPTURE),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, Reason.SECONDARY_CAPTURE),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, Reason.SECONDARY_CAPTURE),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.2"}, Reason.SECONDARY_CAPTURE),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, Reason.UNSUPPORTED_IMAGE),  # encapsulated PDF
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, Reason.UNSUPPORTED_IMAGE),  # structured report
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}, Reason.UNSUPPORTED_IMAGE),  # presentation state
        ({"SOPClassUID": "1.3.12.2.1107.5.9.1"}, Reason.UNSUPPORTED_IMAGE),  # Siemens' own
        ({"PhotometricInterpretation": "RGB"}, Reason.UNSUPPORTED_IMAGE),
        ({"ModalityLUTSequence": Sequence([Dataset()])}, Reason.UNSUPPORTED_IMAGE),
        ({"SOPInstanceUID": ""}, Reason.UNREADABLE),
        ({"StudyInstanceUID": ""}, Reason.UNREADABLE),
    ],
)
def test_what_may_show_or_hold_a_name_in_its_content_is_refused(
    door: Door, change: dict[str, object], reason: Reason
) -> None:
    told = refused(door, image(**change))
    assert told.reason is reason
    assert traces(str(told).encode(), *IDENTITY) == set()


def test_a_workstations_image_that_says_that_nothing_is_burned_in_passes(door: Door) -> None:
    assert door.admit_object(image(ConversionType="WSD", BurnedInAnnotation="NO")).object.SOPClassUID


def test_an_image_without_pixels_is_refused(door: Door) -> None:
    obj = image()
    del obj.PixelData
    assert refused(door, obj).reason is Reason.UNSUPPORTED_IMAGE


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SeriesInstanceUID"])
def test_an_object_that_does_not_say_what_it_is_is_refused(door: Door, keyword: str) -> None:
    obj = image()
    delattr(obj, keyword)
    assert refused(door, obj).reason is Reason.UNREADABLE


def test_an_error_of_a_library_is_told_without_its_words() -> None:
    def quotes(obj: Dataset, overrides: object) -> None:
        raise ValueError(f"cannot classify {obj.PatientName}")

    door = Door(PSEUDONYMS, RULES, (), quotes)
    told = refused(door, image())
    assert (told.reason, traces(str(told).encode(), "Test^Patient")) == (Reason.UNREADABLE, set())
    assert told.__cause__ is None
    assert told.__suppress_context__


def test_objects_of_one_study_keep_their_references_to_each_other(door: Door) -> None:
    first, second = image(1, 1, 1, FrameOfReferenceUID="1.2.3.4"), image(1, 2, 1, FrameOfReferenceUID="1.2.3.4")
    reference, series = Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = first.SOPClassUID, first.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedInstanceSequence = first.SeriesInstanceUID, Sequence([reference])
    second.ReferencedSeriesSequence = Sequence([series])
    one, two = door.admit_object(first), door.admit_object(second)
    clean = two.object.ReferencedSeriesSequence[0]
    assert clean.SeriesInstanceUID == one.series == one.object.SeriesInstanceUID
    assert clean.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == one.sop == one.object.SOPInstanceUID
    assert clean.ReferencedInstanceSequence[0].ReferencedSOPClassUID == first.SOPClassUID
    assert one.object.FrameOfReferenceUID == two.object.FrameOfReferenceUID != "1.2.3.4"
    assert one.study == two.study == PSEUDONYMS.pseudonym_of_case(first.StudyInstanceUID)
    assert one.object.PatientID == two.object.PatientID == PSEUDONYMS.pseudonym_of_patient("P1")


@pytest.mark.parametrize("number", ["", None])
def test_studies_that_name_no_patient_are_not_taken_for_one_patients(door: Door, number: str | None) -> None:
    one, two = (door.admit_object(image(study, PatientID=number)).object.PatientID for study in (1, 2))
    assert one != two
    assert one == door.admit_object(image(1, 2, PatientID=number)).object.PatientID


def test_another_sites_pseudonyms_are_others(door: Door) -> None:
    other = Door(Pseudonyms(b"another secret of another site.."), RULES)
    one, two = door.admit_object(image()), other.admit_object(image())
    assert not {one.study, one.series, one.sop, one.object.PatientID} & {
        two.study,
        two.series,
        two.sop,
        two.object.PatientID,
    }


@pytest.fixture
def words(door: Door) -> Callable[[list[str]], list[str]]:
    return lambda given: list(door.admit_object(image(ImageType=given)).object.ImageType)


def test_words_that_dicom_does_not_define_stay_apart_without_being_legible(
    words: Callable[[list[str]], list[str]],
) -> None:
    assert words(["ORIGINAL", "PRIMARY", "M", "ND"]) == ["ORIGINAL", "PRIMARY", "M", "ND"]
    one, other = words(["ORIGINAL", "PRIMARY", "JONES"]), words(["ORIGINAL", "PRIMARY", "SMITH"])
    assert one[2] != other[2]
    assert one == words(["ORIGINAL", "PRIMARY", "JONES"])
    assert not {"JONES", "SMITH"} & {*one, *other}
