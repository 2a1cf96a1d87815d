"""Labels behind the door: geometry, numbers and known codes come through; free text does not."""

from __future__ import annotations

from io import BytesIO

import pytest
from dicom_files import image
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused
from site_agent.dicom.config import Labels
from site_agent.dicom.door.door import Door
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import encode_object

RULES = Labels.model_validate(
    {
        "concepts": {
            "ET": {"codes": ("SCT:86049000", "99LOCAL:enh"), "names": ("Enhancing",)},
            "ED": {"codes": ("SCT:79654002",)},
        }
    }
)
DOOR = Door(Pseudonyms(b"a secret of the site's own, 32 b"), RULES)


def code(scheme: str, value: str, meaning: str = "Jones, tumour", **more: object) -> Dataset:
    item = Dataset()
    item.CodingSchemeDesignator, item.CodeValue, item.CodeMeaning = scheme, value, meaning
    for keyword, content in more.items():
        setattr(item, keyword, content)
    return item


def segment(label: str, kind: Dataset) -> Dataset:
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel, item.SegmentAlgorithmType = 1, label, "MANUAL"
    item.SegmentDescription, item.TrackingID = "Jones", "Jones 3"
    item.SegmentedPropertyCategoryCodeSequence = Sequence([code("SCT", "49755003")])
    item.SegmentedPropertyTypeCodeSequence = Sequence([kind])
    return item


def admitted(obj: Dataset) -> Dataset:
    content = encode_object(DOOR.admit_object(obj).object)
    assert b"Jones" not in content
    return dcmread(BytesIO(content))


def of_segment(label: str, kind: Dataset) -> Dataset:
    item = admitted(image(modality="SEG", SegmentSequence=Sequence([segment(label, kind)]))).SegmentSequence[0]
    assert isinstance(item, Dataset)
    return item


@pytest.mark.parametrize(
    ("scheme", "value", "meaning"),
    [
        ("SCT", "86049000", "ET"),  # the operator's
        ("99LOCAL", "enh", "ET"),
        ("SCT", "10200004", "Liver"),  # DICOM's own context groups
        ("SRT", "T-62000", "Liver"),  # the same, of old
        ("DCM", "113037", "Lesion Denoted by Lesion"),
    ],
)
def test_a_code_that_is_known_from_elsewhere_stays_with_a_meaning_of_our_own(
    scheme: str, value: str, meaning: str
) -> None:
    [item] = of_segment("", code(scheme, value)).SegmentedPropertyTypeCodeSequence
    assert (item.CodingSchemeDesignator, item.CodeValue) == (scheme, value)
    assert item.CodeMeaning
    if meaning in ("ET", "Liver"):
        assert item.CodeMeaning.startswith(meaning)


@pytest.mark.parametrize(
    ("scheme", "value"), [("99JONES", "1"), ("SCT", "4711"), ("99LOCAL", "enhancing"), ("", "86049000"), ("SCT", "")]
)
def test_any_other_code_is_withheld_and_still_a_code(scheme: str, value: str) -> None:
    [item] = of_segment("Enhancing", code(scheme, value)).SegmentedPropertyTypeCodeSequence
    withheld = "withheld private" if scheme.startswith("99") else "withheld"
    assert (item.CodingSchemeDesignator, item.CodeValue, item.CodeMeaning) == ("99KONSIL", withheld, "Withheld")


def test_modifiers_of_a_code_stay_with_it() -> None:
    kind = code("SCT", "86049000", SegmentedPropertyTypeModifierCodeSequence=Sequence([code("SCT", "24028007")]))
    [item] = of_segment("", kind).SegmentedPropertyTypeCodeSequence
    assert item.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "24028007"


@pytest.mark.parametrize(
    ("label", "left"), [("Enhancing", "Enhancing"), ("ED", "ED"), ("Jones 1948", ""), ("enhancing", "")]
)
def test_a_name_stays_where_the_operators_labels_give_it(label: str, left: str) -> None:
    assert of_segment(label, code("SCT", "86049000")).SegmentLabel == left
    roi = Dataset()
    roi.ROINumber, roi.ROIName, roi.ROIDescription, roi.ROIGenerationAlgorithm = 3, label, "Jones", "MANUAL"
    roi.ReferencedFrameOfReferenceUID = "1.2.3"
    clean = admitted(image(modality="RTSTRUCT", StructureSetROISequence=Sequence([roi])))
    [item] = clean.StructureSetROISequence
    assert (item.ROIName, item.ROINumber, item.ROIGenerationAlgorithm) == (left, 3, "MANUAL")


def test_contours_come_through_to_the_last_digit() -> None:
    contour = Dataset()
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 3
    contour.ContourData = ["-12.3456789012345", "1e-05", "+.5", "0", "10.", "2.000", "7", "8", "-9.25"]
    roi = Dataset()
    roi.ReferencedROINumber, roi.ContourSequence = 3, Sequence([contour])
    clean = admitted(image(modality="RTSTRUCT", ROIContourSequence=Sequence([roi])))
    [found] = clean.ROIContourSequence[0].ContourSequence
    assert [str(getattr(v, "original_string", v)) for v in found.ContourData] == [
        str(v.original_string) for v in contour.ContourData
    ]
    assert found.NumberOfContourPoints == 3


def said(keyword: str, value: str) -> Dataset:
    """An image in which an element's bytes say something that pydicom would not write."""
    obj, raw = image(), value.encode()
    obj._dict[Tag(keyword)] = RawDataElement(Tag(keyword), "DS", len(raw), raw, 0, False, True)
    return obj


NO_NUMBERS = ["1_000", "nan", "inf", "0x10", "12 34", "Jones", "1" * 40, "19481122"]


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_only_python_takes_for_a_number_is_none(value: str) -> None:
    assert "SliceThickness" not in DOOR.admit_object(said("SliceThickness", value)).object


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_scale_that_is_no_number_is_not_taken_for_none(keyword: str, value: str) -> None:
    with pytest.raises(ObjectRefused) as told:
        DOOR.admit_object(said(keyword, value))
    assert told.value.reason is Reason.UNSUPPORTED_IMAGE
    assert value not in str(told.value)


def test_an_empty_scale_is_none() -> None:
    assert "RescaleSlope" not in DOOR.admit_object(said("RescaleSlope", "")).object


def test_a_number_as_long_as_a_hospitals_is_no_counter() -> None:
    assert "InstanceNumber" not in admitted(image(InstanceNumber=19481122))
    assert admitted(image(InstanceNumber=19481)).InstanceNumber == 19481
