"""Names, dates and numbers planted in every place that DICOM has for them, and the search for them.

`plant` fills an object; `traces` looks through bytes, in the encodings in which a text may lie somewhere. What is
planted where says `MARKS`: each VR has values of its own, so that a trace tells what let it through.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Iterator
from io import BytesIO
from pathlib import Path

from pydicom import config, dcmwrite
from pydicom._dicom_dict import DicomDictionary, RepeatersDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

MARKS = {
    "PN": "Qzname^Müller-Qz^Änne",
    "LO": "QzLong Straße 7",
    "SH": "QzShort-Ü",
    "LT": "QzText Jürgen\r\nsecond line Qzb",
    "ST": "QzStext Größe",
    "UT": "QzUnlimited Ægir",
    "UC": "QzUc Ångström",
    "UR": "https://qzhospital.example/patient/4711",
    "DA": "19481122",
    "DT": "19481122101530.250",
    "TM": "101530.250",
    "AS": "077Y",
    "UI": "1.9.8765432101",
    "AE": "QZSTATION",
    "CS": "QZWORD",
    "IS": "987654321",
}
"""VR → what is planted in elements of it."""
ALSO = ("QzPreamble", "QzPrivate", "QzBytes", "QzTrailing", "QzOverlay", "QzMeta")
TRACES = (
    *MARKS.values(),
    *ALSO,
    "Qzname",
    "QzLong",
    "QzShort",
    "QzText",
    "QzStext",
    "QzUnlim",
    "qzhosp",
    "Müller",
    "Jürgen",
)
"""What is looked for: all of it, and beginnings, in capitals or not; none so short that chance would write it."""
KEPT = {
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "BurnedInAnnotation",
    "ConversionType",
    "SpecificCharacterSet",
}
"""Not planted in at the top level: what makes it an image that passes. Its UIDs and Patient ID are looked for too."""
FULL = ("SharedFunctionalGroupsSequence", "SegmentedPropertyTypeCodeSequence", "StructureSetROISequence")
_SKIPPED = (0x0000, 0x0002, 0x0004, 0xFFFE)
"""Groups of commands, file meta information (which has its own), directories and delimiters."""


def tags(*vrs: str) -> Iterator[tuple[int, str, str]]:
    """Tag, VR and keyword of every element of PS3.6 with one of these VRs, repeating groups too."""
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in vrs and tag >> 16 not in _SKIPPED:
            yield tag, vr, keyword
    for mask, (vr, _, _, _, keyword) in RepeatersDictionary.items():
        for digit in ("0", "2"):
            if vr in vrs:
                yield int(mask.replace("x", digit), 16), vr, keyword


def everything() -> Dataset:
    """An item with something planted in each element of every VR of `MARKS`, private ones among them."""
    item = Dataset()
    for tag, vr, keyword in tags(*MARKS):
        if keyword != "NumberOfFrames":  # refused at the door where it is no number
            _add(item, tag, vr, MARKS[vr])
    _private(item)
    return item


def plant(obj: Dataset, *, but: Container[str] = ()) -> bytes:
    """A DICOM file: the image with something planted everywhere, in its transfer syntax (implicit or explicit VR).

    Not in the elements of `but` (keywords), and in none at the top level that the image has already.
    """
    full, small = everything(), Dataset()
    for vr, value in MARKS.items():
        tag = next(tag for tag, found, _ in tags(vr) if found == vr)
        _add(small, tag, vr, value)
    planted = Dataset()
    planted.update({tag: obj[tag] for tag in obj.keys()})  # noqa: SIM118 - elements, not values
    for tag, vr, keyword in tags(*MARKS, "SQ", "OB", "OW", "UN", "OD", "OF", "OL", "OV"):
        if (
            keyword in KEPT
            or keyword in but
            or keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
            or tag in obj
        ):
            continue
        if keyword == "ModalityLUTSequence":
            continue  # refused at the door
        if vr == "SQ":
            # Everything where sequences are followed in each of the ways there are; something in every other one.
            planted.add(DataElement(Tag(tag), "SQ", Sequence([full if keyword in FULL else small])))
        else:
            _add(planted, tag, vr, MARKS.get(vr, b"QzBytes."))
    # A sequence that is followed, in itself: what is planted lies deep.
    inner = Dataset()
    inner.add(DataElement(Tag("ReferencedInstanceSequence"), "SQ", Sequence([full])))
    planted.ReferencedSeriesSequence = Sequence([inner])
    for group in range(0x6000, 0x6004, 2):
        _add(planted, group << 16 | 0x3000, "OW", b"QzOverlay.")
    _private(planted)
    planted.SpecificCharacterSet = "ISO_IR 100"
    planted.add(DataElement(Tag(0xFFFCFFFC), "OB", b"QzTrailing"))
    planted.file_meta = FileMetaDataset()
    planted.file_meta.update(obj.file_meta)
    for keyword in ("SourceApplicationEntityTitle", "SendingApplicationEntityTitle", "ReceivingApplicationEntityTitle"):
        setattr(planted.file_meta, keyword, "QZSTATION")
    planted.file_meta.ImplementationVersionName = "QzMeta"
    planted.file_meta.PrivateInformationCreatorUID = MARKS["UI"]
    planted.file_meta.PrivateInformation = b"QzMeta"
    planted.preamble = b"QzPreamble".ljust(128, b"\0")
    buffer = BytesIO()
    with config.disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a character set that is none is planted, too
        dcmwrite(buffer, planted, enforce_file_format=True)
    return buffer.getvalue()


def traces(content: bytes, *more: str) -> set[str]:
    """What of all that was planted (and of `more`) lies in some bytes, as text of any usual encoding."""
    found, small = set(), content.lower()
    for text in {*TRACES, *more}:
        for encoding in ("utf-8", "latin-1", "utf-16-le", "utf-16-be"):
            sought = text.encode(encoding)
            if sought in content or sought.lower() in small:
                found.add(text)
    return found


def traces_below(folder: Path, *more: str) -> dict[str, set[str]]:
    """File below a folder → what lies in its content or its name."""
    found = {}
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if seen := traces(str(path.relative_to(folder)).encode() + b"\n" + content, *more):
            found[str(path.relative_to(folder))] = seen
    return found


def _add(item: Dataset, tag: int, vr: str, value: object) -> None:
    item.add(DataElement(Tag(tag), vr, value, validation_mode=config.IGNORE))


def _private(item: Dataset) -> None:
    """Private blocks: one of nobody's, and those in which scanners say what volumes need."""
    for group, creator in (
        (0x0009, "QzPrivate"),
        (0x0019, "SIEMENS MR HEADER"),
        (0x0021, "GEMS_RELA_01"),
        (0x0029, "SIEMENS CSA HEADER"),
        (0x0043, "GEMS_PARM_01"),
        (0x0071, "KONSIL MOSAIC"),
        (0x2001, "Philips Imaging DD 001"),
        (0x2005, "Philips MR Imaging DD 001"),
    ):
        block = item.private_block(group, creator, create=True)
        for offset in range(0x01, 0x60):
            vr = ("LO", "UT", "OB", "PN", "UN")[offset % 5]
            value = b"QzPrivate." if vr in ("OB", "UN") else "QzPrivate"
            block.add_new(offset, vr, value)
