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
from site_agent.dicom.extent import is_cut_off, is_torn

PREAMBLE, MAGIC = 128, b"DICM"
"""PS3.10, 7.1. Files of the time before it begin with the data set."""
DEFLATED = "1.2.840.10008.1.2.1.99"
MOST_INFLATED = 2**28
"""Bytes that a deflated object may become."""
FEW_ELEMENTS = 10_000
"""Elements that a deflated object may have, and one more for each byte that came: pixels shrink to nothing, elements
do not."""
HEAD = 2**16
"""Bytes of a file that are looked at first, where only its header is wanted."""
UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""VRs whose length has four bytes, after two that are reserved (PS3.5, 7.1.2)."""
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
        _require_data_set(content)
        return _settle_object(pydicom.dcmread(BytesIO(content), force=True))
    uid = UID(syntax)
    if uid == DEFLATED:
        packed, content = len(content), _inflate(content)
        _require_elements(content, FEW_ELEMENTS + packed)
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
    """Raise Unreadable where an element is shorter than it says, or a sequence is none. The door looks into items."""
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    for element in obj.values():
        if is_cut_off(element):
            raise Unreadable
        vr = getattr(element, "VR", None)
        if vr in (None, "UN") and dictionary_has_tag(element.tag):
            vr = dictionary_VR(element.tag)
        if vr == "SQ" and is_torn(element):
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
    file.seek(_skip_preamble(content))
    meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    length = meta.get("FileMetaInformationGroupLength")
    if meta.get("TransferSyntaxUID") != DEFLATED:
        return content
    if length is None:
        raise Unreadable
    start = _skip_preamble(content) + 12 + int(length)
    # A UID of the same length that says: as it is, little endian.
    plain = (ExplicitVRLittleEndian + "\0" * len(DEFLATED))[: len(DEFLATED)].encode()
    body = _inflate(content[start:], beginning)
    _require_elements(body, FEW_ELEMENTS + len(content) - start)
    return content[:start].replace(DEFLATED.encode(), plain, 1) + body


def _skip_preamble(content: bytes) -> int:
    return PREAMBLE + len(MAGIC) if content[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC else 0


def _require_data_set(content: bytes) -> None:
    """Raise Unreadable where commands (group 0000) follow the meta group: pydicom would read each, zeros among them."""
    start = _skip_preamble(content)
    if content[start : start + 4] == b"\x02\0\0\0":
        start += 12 + int.from_bytes(content[start + 8 : start + 12], "little")
    if content[start : start + 2] == b"\0\0":
        raise Unreadable


def _require_elements(body: bytes, most: int) -> None:
    """Raise Unreadable where there are more elements and items than `most`; explicit VR little endian."""
    at = 0
    for _ in range(most):
        if at + 8 > len(body):
            return
        vr = body[at + 4 : at + 6]
        if body[at : at + 2] == b"\xfe\xff":
            at += 8  # an item, or the end of one: what is in it follows
        elif vr in _LONG_VRS:
            length = int.from_bytes(body[at + 8 : at + 12], "little")
            at += 12
            if vr != b"SQ" and length != UNDEFINED:
                at += length
        else:
            at += 8 + int.from_bytes(body[at + 6 : at + 8], "little")
    raise Unreadable


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
