"""An object's pixels as they may lie on disk: every value, and not a byte beside them.

Compressed frames carry comments (`codestream`), pixels have unused bits in which retired overlays lie, and a Pixel Data
element may be longer than its frames. JPEG, JPEG-LS and JPEG 2000 stay compressed, since decoders of other people's
bytes belong into processes that may die (`pool`); all else becomes Explicit VR Little Endian.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from messages.reasons import Reason
from site_agent.dicom.base import Object, ObjectRefused
from site_agent.dicom.door import codestream

_WORDS = {8: "u1", 16: "<u2", 32: "<u4"}
_STREAMS: dict[str, Callable[[bytes], bytes]] = {
    **{f"1.2.840.10008.1.2.4.{kind}": codestream.strip_jpeg for kind in (50, 51, 57, 70, 80, 81)},
    **{f"1.2.840.10008.1.2.4.{kind}": codestream.jpeg_2000 for kind in (90, 91, 201, 202, 203)},
}
"""Transfer syntax (PS3.5, A.4) → what keeps of a frame only what a decoder needs."""


def put_pixels(obj: Object, clean: Object) -> None:
    """Give a cleaned object the pixels of the one it came from, and the transfer syntax in which they are then.

    Args:
        obj: as it came. It is not changed.
        clean: has the image pixel attributes (PS3.3, C.7.6.3) already.

    Raises:
        Refused: UNDECODABLE_PIXELS: damaged, too short, or compressed in another way; UNSUPPORTED_IMAGE: bits that
            nothing explains.
    """
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        RLELossless,
    )

    native = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian)
    syntax = obj.file_meta.TransferSyntaxUID
    content = obj["PixelData"].value
    if not isinstance(content, bytes | bytearray) or not content:
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "an image without pixels")
    content = bytes(content)
    try:
        rows, columns, bits = int(clean.Rows), int(clean.Columns), int(clean.BitsAllocated)
        frames, samples = int(clean.get("NumberOfFrames") or 1), int(clean.get("SamplesPerPixel") or 1)
    except (AttributeError, TypeError, ValueError):
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "an image that does not say how large it is") from None
    if syntax in _STREAMS:
        return _put_compressed(obj, clean, content, frames)
    if syntax == RLELossless:
        content = _unpack_rle(clean, content)
    elif syntax not in native:
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "compressed in a way that is not supported")
    expected = -(-rows * columns * frames * samples * bits // 8)
    if expected <= 0 or len(content) < expected:
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, f"{len(content)} bytes of pixels where {expected} belong")
    content = content[:expected]
    if bits in (16, 32) and syntax == ExplicitVRBigEndian:
        content = np.frombuffer(content, dtype=_WORDS[bits]).byteswap().tobytes()
    if bits in _WORDS:
        content = _used_bits(content, bits, clean, _overlay_inside(obj))
    clean.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    clean.add_new("PixelData", "OB" if bits <= 8 else "OW", content + b"\0" * (len(content) % 2))
    return None


def _put_compressed(obj: Object, clean: Object, content: bytes, frames: int) -> None:
    from pydicom.encaps import encapsulate, generate_frames

    if _overlay_inside(obj):
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "an overlay in compressed pixels")
    syntax = obj.file_meta.TransferSyntaxUID
    try:
        kept = [_STREAMS[syntax](frame) for frame in generate_frames(content, number_of_frames=frames)]
    except Exception:  # noqa: BLE001 - `Malformed`, and whatever pydicom makes of broken fragments
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "compressed frames that are damaged") from None
    if len(kept) != frames:
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, f"{len(kept)} compressed frames of {frames}")
    clean.file_meta.TransferSyntaxUID = syntax
    clean.add_new("PixelData", "OB", encapsulate(kept))
    clean["PixelData"].is_undefined_length = True


def _unpack_rle(clean: Object, content: bytes) -> bytes:
    """RLE frames (PS3.5, annex G), native. pydicom's own decoder is Python and cannot take the process down."""
    from pydicom.pixels.utils import decompress
    from pydicom.uid import RLELossless

    clean.add_new("PixelData", "OB", content)
    clean["PixelData"].is_undefined_length = True
    clean.file_meta.TransferSyntaxUID = RLELossless
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of bytes behind a frame: they are left behind
            decompress(clean, as_rgb=False, generate_instance_uid=False, decoding_plugin="pydicom")
    except Exception:  # noqa: BLE001 - a decoder may raise anything, and its words may quote the object
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "compressed pixels that cannot be decoded") from None
    return bytes(clean["PixelData"].value)


def _overlay_inside(obj: Object) -> bool:
    """Whether an overlay lies in the pixels' unused bits: one with a bit position and no data (PS3.3 2004, C.9.2)."""
    groups = {tag.group for tag in obj.keys() if 0x6000 <= tag.group <= 0x601E}  # noqa: SIM118 - iterating reads values
    return any((group, 0x0102) in obj and (group, 0x3000) not in obj for group in groups)


def _used_bits(content: bytes, bits: int, clean: Object, overlay: bool) -> bytes:
    """Pixels of which only the stored bits are set, or, where signed, the sign's copies."""
    stored = int(clean.get("BitsStored") or bits)
    high = int(clean.get("HighBit") or stored - 1)
    if stored == bits:
        return content
    if not 0 < stored < bits or high != stored - 1:
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, f"{stored} bits up to bit {high} of {bits}")
    words = np.frombuffer(content, dtype=_WORDS[bits])
    kept = words & words.dtype.type((1 << stored) - 1)
    if int(clean.get("PixelRepresentation") or 0):
        signed = kept.view(words.dtype.str.replace("u", "i"))
        kept = ((signed << (bits - stored)) >> (bits - stored)).view(words.dtype)
    if not overlay and not np.array_equal(kept, words) and not _lacks_sign_extension(words, stored):
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, f"pixels use more than the {stored} bits that they say they do")
    return bytes(kept.tobytes())


def _lacks_sign_extension(words: npt.NDArray[np.unsignedinteger], stored: int) -> bool:
    """Whether no word has a bit above the stored ones: signed pixels written without their sign's copies."""
    return not bool(np.any(words >> words.dtype.type(stored)))
