"""What lies in a folder of DICOM: whether a file is some, what it was meant to be, whether two hold the same."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from site_agent.datasets.opening import NotRegular, open_file
from site_agent.dicom import reading
from site_agent.dicom.base import Object
from site_agent.dicom.reading import HEAD, MAGIC, PREAMBLE

DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_SHOWN = (
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames"),
    *("RescaleSlope", "RescaleIntercept", "SegmentSequence", "PerFrameFunctionalGroupsSequence", "ROIContourSequence"),
)
"""What says, beside the pixels, what an object shows and where."""
_SUFFIXES = (".dcm", ".dicom", ".ima")
_OF_OTHERS = (
    *(".nii.gz", ".img.gz", ".mgz", ".mha.gz", ".csv.gz", ".log.gz", ".npz", ".img", ".raw", ".bin"),
    *(".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".jar", ".whl"),
)
"""Packed, or beginning with zeros, as they have to be: nobody took them for DICOM."""
_ARCHIVES = (
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
)


def sniff_dicom(path: Path) -> bool | None:
    """Whether a file is DICOM: True by the magic word (PS3.10, 7.1), False where it may be without, None: it is not."""
    try:
        with open_file(path) as file:
            start = file.read(PREAMBLE + len(MAGIC))
    except NotRegular:  # a pipe, a socket, a device
        return None
    except OSError:
        return True  # it cannot be told: reading it will fail, and count
    if start[PREAMBLE:] == MAGIC:
        return True
    # a data set begins with group 0002 or 0008, little endian, its VR in letters or its length below 64 KiB
    group, element, rest = start[0:2], start[2:4], start[4:8]
    plausible = len(rest) == 4 and ((rest[:2].isalpha() and rest[:2].isupper()) or rest[2:] == b"\0\0")
    return False if group in (b"\x02\0", b"\x08\0") and element[1:] == b"\0" and plausible else None


def name_stranger(path: Path) -> str:
    """Why a file that is no DICOM may have been meant to be some; "" where nothing speaks for it."""
    if path.name.lower().endswith(_OF_OTHERS):
        return ""
    try:
        with open_file(path) as file:
            start = file.read(HEAD)
    except OSError:
        return ""
    archive = next((what for magic, what in _ARCHIVES if start.startswith(magic)), "")
    if archive:
        return f"is {archive}, which nobody looks into: unpack it"
    named = path.suffix.lower() in _SUFFIXES
    if not start:
        return "is empty" if named else ""
    if not start.strip(b"\0"):
        return "holds zeros alone: copy it again" if len(start) < HEAD else "begins with zeros alone: copy it again"
    return "is named like DICOM, and is none" if named else ""


def holds_same(one: Object, other: Object) -> bool:
    """Whether two objects of one UID show the same at the same place.

    Two that are compressed otherwise pass where all else agrees: nothing is decoded outside of a process of its own.
    """
    try:
        if any(one.get(keyword) != other.get(keyword) for keyword in _SHOWN):
            return False
        alike = one.file_meta.get("TransferSyntaxUID") == other.file_meta.get("TransferSyntaxUID")
        return not alike or bool(one.get("PixelData") == other.get("PixelData"))
    except Exception:  # noqa: BLE001 - pydicom raises anything for what is damaged; the door tells what it is
        return True


def is_dicomdir(header: Any) -> bool:
    """Whether a file is a DICOMDIR (PS3.3, annex F)."""
    return bool(header.file_meta.get("MediaStorageSOPClassUID") == DICOMDIR_CLASS)


def read_dicomdir(path: Path) -> Counter[str]:
    """How many objects a DICOMDIR lists, by Series Instance UID (PS3.3, F.3); nothing where it is damaged."""
    listed: Counter[str] = Counter()
    try:
        index = reading.read_file(path)
        records = {record.seq_item_tell: record for record in index.DirectoryRecordSequence}
        todo = [(int(index.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity), "")]
        while todo:
            place, series = todo.pop()
            record = records.pop(place, None)  # each once: a damaged one may go round in circles
            if record is None:
                continue
            todo.append((int(record.OffsetOfTheNextDirectoryRecord), series))
            within = str(record.SeriesInstanceUID) if record.DirectoryRecordType == "SERIES" else series
            todo.append((int(record.OffsetOfReferencedLowerLevelDirectoryEntity), within))
            listed[series] += "ReferencedSOPInstanceUIDInFile" in record
    except Exception:  # noqa: BLE001 - pydicom raises anything for a damaged one
        return Counter()
    return listed
