"""How much of pixels an object says that it holds, and whether just that lies there: decided here, for every object.

Native pixels have exactly the length that the object says, and at most the one byte of padding that makes it even
(PS3.5, 8.1.1). Pixels of undefined length are encapsulated, whatever the transfer syntax claims, and encapsulated ones
are of undefined length (PS3.5, A.4). Nothing is allocated that an object merely claims to need.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from messages.reasons import Reason
from site_agent.dicom.base import Object, ObjectRefused

BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = frozenset(
    {
        "1.2.840.10008.1.2",  # Implicit VR Little Endian
        "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
        "1.2.840.10008.1.2.1.99",  # the same, deflated as a whole
        BIG_ENDIAN,  # Explicit VR Big Endian
    }
)
"""Transfer syntaxes whose pixels are not encapsulated (PS3.5, annex A). All others are taken for encapsulated ones."""
MOST_VALUES = 2**30
"""Pixel values of one object, and of one series, at the most: 4 GiB as float32."""
ALLOCATED = (1, 8, 16, 32)
"""Bits Allocated that are read: 1 is a segmentation's."""
_ITEM, _END, _UNDEFINED = 0xFFFEE000, 0xFFFEE0DD, 0xFFFFFFFF
"""Tags of an item and of a sequence's end, and the length of what ends by such a tag (PS3.5, 7.5)."""
_FLOATS = ("FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, slots=True)
class Extent:
    """What an object says of its pixels (PS3.3, C.7.6.3).

    Attributes:
        allocated, stored: bits of a value.
        signed: Pixel Representation.
    """

    rows: int
    columns: int
    frames: int
    allocated: int
    stored: int
    signed: bool

    @property
    def values(self) -> int:
        """Pixel values of all frames."""
        return self.rows * self.columns * self.frames

    @property
    def length(self) -> int:
        """Bytes of all frames; those of one bit follow each other without a gap (PS3.5, 8.1.1)."""
        return -(-self.values * self.allocated // 8)


def read_extent(obj: Object) -> Extent:
    """What an object with pixels says of them.

    Raises:
        Refused: UNREADABLE: something of it is not said, or cannot be read. UNSUPPORTED_IMAGE: bits that contradict
            each other, several samples a pixel, floating point pixels, or more than `MOST_VALUES`.
    """
    rows, columns = _require_whole(obj, "Rows"), _require_whole(obj, "Columns")
    frames = _require_whole(obj, "NumberOfFrames", 1)
    allocated = _require_whole(obj, "BitsAllocated")
    stored = _require_whole(obj, "BitsStored", allocated)
    high = _require_whole(obj, "HighBit", stored - 1)
    # Segmentations of one bit leave it out at times; a sign they cannot have.
    signed = _require_whole(obj, "PixelRepresentation", 0 if allocated == 1 else None)
    if rows < 1 or columns < 1 or frames < 1:
        raise ObjectRefused(Reason.UNREADABLE, f"an image of {frames} frames of {rows} × {columns} pixels")
    if _require_whole(obj, "SamplesPerPixel", 1) != 1:
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "not a greyscale image")
    if allocated not in ALLOCATED or not 0 < stored <= allocated or high != stored - 1 or signed not in (0, 1):
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, f"{stored} of {allocated} bits up to bit {high}")
    if any(name in obj for name in _FLOATS):
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "floating point pixels")
    found = Extent(rows, columns, frames, allocated, stored, bool(signed))
    if found.values > MOST_VALUES:
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, f"more than {MOST_VALUES} pixels")
    return found


def require_exact(obj: Object, extent: Extent) -> bytes:
    """The content of Pixel Data, once it is known to be what the object says; of encapsulated ones only that they are.

    Raises:
        Refused: UNDECODABLE_PIXELS.
    """
    element = _read_element(obj)
    content = element.value
    if not isinstance(content, bytes | bytearray) or not content:
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "an image without pixels")
    if is_native(obj) is bool(element.is_undefined_length):
        what = "in items" if element.is_undefined_length else "in one piece"
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, f"pixels {what} under a transfer syntax that has them otherwise")
    if is_native(obj):
        _require_length(content, extent)
        if _tell_syntax(obj) != BIG_ENDIAN:  # there it may be another byte (VR OW)
            _require_ended(content, extent)
    return bytes(content)


def lacks_pixels(obj: Object) -> bool:
    """Whether an object came with fewer native pixels than it says: so it may come whole another time.

    False where it cannot be told: the door will.
    """
    try:
        if not obj.get("Rows") or any(name in obj for name in _FLOATS):
            return False  # no image: RTSTRUCT
        content = obj.get("PixelData")
        if not content:
            return True
        return is_native(obj) and len(content) < read_extent(obj).length
    except Exception:  # noqa: BLE001 - pydicom raises anything for a malformed object
        return False


def is_cut_off(element: Any) -> bool:
    """Whether an element that pydicom has not converted yet is shorter than it says: its object's end is missing."""
    length = getattr(element, "length", None)
    if length in (None, 0, _UNDEFINED) or element.value is None:
        return False
    return bool(len(element.value) != length)


def is_torn(element: Any) -> bool:
    """Whether a sequence that pydicom has not converted yet holds anything but items that follow each other to its end.

    pydicom takes whatever lies there for an item, and a few bytes of it for a whole object in memory.
    """
    content = getattr(element, "value", None)
    if not isinstance(content, bytes) or not content or element.VR not in (None, "SQ", "UN"):
        return False
    order: Literal["little", "big"] = "little" if element.is_little_endian else "big"
    at = 0
    while at < len(content):
        tag = int.from_bytes(content[at : at + 2], order) << 16 | int.from_bytes(content[at + 2 : at + 4], order)
        length = int.from_bytes(content[at + 4 : at + 8], order)
        if tag != _ITEM and not (tag == _END and length == 0):
            return True
        if length == _UNDEFINED:
            return False  # its end is found by what is in it
        at += 8 + length
    return at != len(content)


def is_native(obj: Object) -> bool:
    """Whether its transfer syntax has pixels in one piece."""
    return _tell_syntax(obj) in NATIVE


def _tell_syntax(obj: Object) -> str:
    try:
        return str(obj.file_meta.TransferSyntaxUID)
    except Exception:  # noqa: BLE001 - missing (AttributeError), or malformed in any way
        return ""


def _require_length(content: bytes | bytearray, extent: Extent) -> None:
    if not 0 <= len(content) - extent.length <= 1:
        what = f"{len(content)} bytes of pixels where {extent.length} belong"
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, what)


def _require_ended(content: bytes | bytearray, extent: Extent) -> None:
    unused = 8 * extent.length - extent.values * extent.allocated
    # Frames that were each filled up to a byte can be as long as frames without a gap, but end elsewhere.
    if unused and content[extent.length - 1] >> (8 - unused):
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "bits behind the last pixel")


def _read_element(obj: Object) -> Any:
    try:
        return obj["PixelData"]
    except Exception:  # noqa: BLE001 - missing (KeyError), or malformed in any way
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "an image without pixels") from None


def _require_whole(obj: Object, keyword: str, missing: int | None = None) -> int:
    """A whole number; `missing` where the object does not say it, if it may leave it out."""
    try:
        value = obj.get(keyword)
        if value in (None, "") and missing is not None:
            return missing
        if float(value) == int(value):
            return int(value)
    except Exception:  # noqa: BLE001, S110 - pydicom raises anything for a malformed value, and quotes it
        pass
    raise ObjectRefused(Reason.UNREADABLE, f"an image whose {keyword} cannot be read")
