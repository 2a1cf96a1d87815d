"""Bytes that came → a pydicom object, whichever way they came; nothing that they hold raises anything but `Unreadable`.

What a length in them claims is never allocated: they are read out of memory, where pydicom gets no more than is there.
A deflated object is inflated up to a bound. What pydicom reads on access is read here, as far as sources need it.
"""

from __future__ import annotations

import zlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from site_agent.datasets.opening import open_file
from site_agent.dicom.base import Object
from site_agent.dicom.extent import is_cut_off

PREAMBLE, MAGIC = 128, b"DICM"
"""PS3.10, 7.1. Files of the time before it begin with the data set."""
DEFLATED = "1.2.840.10008.1.2.1.99"
MOST_INFLATED = 2**29
"""Bytes that a deflated object may become."""
HEAD = 2**16
"""Bytes of a file that are looked at first, where only its header is wanted."""
HEADER = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "PatientID",
    "IssuerOfPatientID",
    "AccessionNumber",
    "StudyDate",
    "StudyDescription",
)
"""What sources read of an object."""
NAMING = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "IssuerOfPatientID")
"""What says whose an object is, and where it belongs: without a doubt, or the object is not used."""
_LAST = 0x0020000E
"""Series Instance UID, the last of them: behind it nothing is needed of a header."""


class Unreadable(Exception):
    """No DICOM object that can be read. Says nothing of what it holds."""


def read_object(content: bytes, syntax: str | None = None) -> Object:
    """An object with its file meta information.

    Args:
        content: of a file (PS3.10), with or without preamble; or of a data set alone, as a C-STORE request has it.
        syntax: the transfer syntax of such a data set.

    Raises:
        Unreadable: whatever is wrong with it.
    """
    try:
        return _read_whole(content, syntax)
    except Unreadable:
        raise
    except Exception:  # noqa: BLE001 - pydicom raises anything for malformed bytes, and quotes them
        raise Unreadable from None


def read_file(path: Path) -> Object:
    """As `read_object`.

    Raises:
        Unreadable: as well, where the file is gone, may not be read, or is none.
    """
    try:
        content = _read_regular(path)
    except (OSError, MemoryError):
        raise Unreadable from None
    return read_object(content)


def read_header(path: Path) -> Object:
    """A file's elements of `HEADER` and its file meta information; its beginning is read alone where that is enough.

    Raises:
        Unreadable: as `read_file`.
    """
    try:
        content = _read_regular(path, HEAD)
        passed: list[int] = []
        try:
            found = _read_head(_inflate_file(content, HEAD), passed)
        except Exception:  # noqa: BLE001 - as `read_object`; it may be cut off where nothing is wrong with it
            passed = []
        if passed:
            return found
        content = content if len(content) < HEAD else _read_regular(path)
    except (OSError, MemoryError):
        raise Unreadable from None
    return read_object(content)


def _read_regular(path: Path, most: int = -1) -> bytes:
    """A regular file's content, opened without waiting for anybody; OSError where it is none."""
    with open_file(path) as file:
        return file.read(most)


def _read_head(content: bytes, passed: list[int]) -> Object:
    """The elements up to `_LAST`; notes in `passed` that one behind it came, so that none can be missing."""
    from pydicom.filereader import read_partial

    def stop_when(tag: Any, _vr: str | None, _length: int) -> bool:
        if tag > _LAST:
            passed.append(int(tag))
        return bool(tag > _LAST)

    obj = read_partial(BytesIO(content), stop_when, force=True, specific_tags=[*_header_tags()])
    return _settle_object(obj)


def _read_whole(content: bytes, syntax: str | None) -> Object:
    import pydicom
    from pydicom.dataset import FileMetaDataset
    from pydicom.filereader import read_dataset
    from pydicom.uid import UID

    if syntax is None:
        content = _inflate_file(content)
        return _settle_object(pydicom.dcmread(BytesIO(content), force=True))
    uid = UID(syntax)
    if uid == DEFLATED:
        content = _inflate(content)
    implicit, little = (uid.is_implicit_VR, uid.is_little_endian) if uid.is_transfer_syntax else (False, True)
    obj = read_dataset(BytesIO(content), implicit, little)
    obj.file_meta = FileMetaDataset()
    obj.file_meta.TransferSyntaxUID = uid
    return _settle_object(obj)


def _settle_object(obj: Object) -> Object:
    """Read what sources will ask for, and find the transfer syntax where nothing in a file says it."""
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    _require_lengths(obj)
    for tag in _header_tags():
        obj.get(tag)
    for keyword in NAMING:
        if not isinstance(obj.get(keyword), str | None):
            raise Unreadable  # several values where one belongs, or bytes
    if "TransferSyntaxUID" not in obj.file_meta:
        implicit, _ = obj.original_encoding  # as pydicom found it
        obj.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if implicit is False else ImplicitVRLittleEndian
    str(obj.file_meta.TransferSyntaxUID)
    obj.file_meta.get("MediaStorageSOPClassUID")
    if hasattr(obj, "buffer"):
        obj.buffer = None  # the bytes that it was read from
    return obj


def _require_lengths(obj: Object) -> None:
    """Raise Unreadable where an element is shorter than it says. Items are looked at by the door."""
    if any(is_cut_off(element) for element in obj.values()):
        raise Unreadable


def _inflate_file(content: bytes, beginning: int = 0) -> bytes:
    """A deflated object's file as one that is not; another one as it is.

    Args:
        beginning: so many bytes are enough, and they may be cut off.

    Raises:
        Unreadable: it is cut off, damaged, or becomes larger than `MOST_INFLATED`.
    """
    from pydicom.filereader import read_dataset
    from pydicom.uid import ExplicitVRLittleEndian

    if DEFLATED.encode() not in content[:4096]:
        return content
    file = BytesIO(content)
    file.seek(PREAMBLE + len(MAGIC) if content[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC else 0)
    meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    length = meta.get("FileMetaInformationGroupLength")
    if meta.get("TransferSyntaxUID") != DEFLATED:
        return content
    if length is None:
        raise Unreadable
    start = (PREAMBLE + len(MAGIC) if content[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC else 0) + 12 + int(length)
    # A UID of the same length that says: as it is, little endian.
    plain = (ExplicitVRLittleEndian + "\0" * len(DEFLATED))[: len(DEFLATED)].encode()
    return content[:start].replace(DEFLATED.encode(), plain, 1) + _inflate(content[start:], beginning)


def _inflate(content: bytes, beginning: int = 0) -> bytes:
    """RFC 1951, as PS3.5, A.5 has it: a stream without header."""
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = machine.decompress(content, beginning or MOST_INFLATED)
    if not machine.eof and not beginning:
        raise Unreadable
    return inflated


@cache
def _header_tags() -> tuple[Any, ...]:
    """`HEADER` as tags: keywords are looked up anew each time."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    return tuple(Tag(tag_for_keyword(keyword) or 0) for keyword in HEADER)
