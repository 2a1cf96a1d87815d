"""An object's pixels as they may lie on disk: every value, and not a byte beside them.

Compressed frames carry comments (`codestream`), and pixels have unused bits in which retired overlays lie. JPEG,
JPEG-LS and JPEG 2000 stay compressed, since decoders of other people's bytes belong into processes that may die
(`pool`); all else becomes Explicit VR Little Endian.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from messages.reasons import Reason
from site_agent.dicom.base import Object, ObjectRefused
from site_agent.dicom.door import codestream
from site_agent.dicom.extent import BIG_ENDIAN, NATIVE, Extent, read_extent, require_exact

_WORDS = {8: "u1", 16: "<u2", 32: "<u4"}
_JPEG = (codestream.strip_jpeg, codestream.measure_jpeg)
_JPEG_2000 = (codestream.jpeg_2000, codestream.measure_jpeg_2000)
_STREAMS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], codestream.Size]]] = {
    **{f"1.2.840.10008.1.2.4.{kind}": _JPEG for kind in (50, 51, 57, 70, 80, 81)},
    **{f"1.2.840.10008.1.2.4.{kind}": _JPEG_2000 for kind in (90, 91, 201, 202, 203)},
}
"""Transfer syntax (PS3.5, A.4) → what keeps of a frame only what a decoder needs, and what reads its size."""
_RLE_MOST = 64
"""Two bytes of RLE stand for 128 at the most (PS3.5, G.3.1): more is claimed than can be there."""


def put_pixels(obj: Object, clean: Object) -> None:
    """Give a cleaned object the pixels of the one it came from, and the transfer syntax in which they are then.

    Args:
        obj: as it came. It is not changed.
        clean: has the image pixel attributes (PS3.3, C.7.6.3) already.

    Raises:
        Refused: UNREADABLE, UNSUPPORTED_IMAGE: as `extent.read_extent`, and bits that nothing explains.
            UNDECODABLE_PIXELS: not exactly those that it says, damaged, or compressed in another way.
    """
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    extent = read_extent(clean)
    if any(name in obj for name in ("FloatPixelData", "DoubleFloatPixelData")):
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "floating point pixels beside others")
    content = require_exact(obj, extent)
    syntax = str(obj.file_meta.TransferSyntaxUID)
    if syntax in _STREAMS:
        return _put_compressed(obj, clean, content, extent)
    if syntax == RLELossless:
        content = _unpack_rle(clean, content, extent)
    elif syntax not in NATIVE:
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "compressed in a way that is not supported")
    bits = extent.allocated
    if syntax == BIG_ENDIAN:
        content = _swap_bytes(content, bits, str(obj["PixelData"].VR))
    content = content[: extent.length]
    if bits in _WORDS:
        content = _used_bits(content, extent, _overlay_inside(obj))
    clean.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    clean.add_new("PixelData", "OB" if bits <= 8 else "OW", content + b"\0" * (len(content) % 2))
    return None


def _swap_bytes(content: bytes, bits: int, vr: str) -> bytes:
    """Big endian pixels as little endian ones; bytes in words of 16 bits (VR OW) are swapped too (PS3.5, A.3)."""
    word = bits if bits > 8 else 16 if vr == "OW" else 8
    if word == 8:
        return content
    even = content + b"\0" * (-len(content) % (word // 8))
    return np.frombuffer(even, dtype=_WORDS[word]).byteswap().tobytes()


def _put_compressed(obj: Object, clean: Object, content: bytes, extent: Extent) -> None:
    from pydicom.encaps import encapsulate, generate_frames

    if _overlay_inside(obj):
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, "an overlay in compressed pixels")
    syntax = str(obj.file_meta.TransferSyntaxUID)
    strip, measure = _STREAMS[syntax]
    try:
        kept = [strip(frame) for frame in generate_frames(content, number_of_frames=extent.frames)]
        sizes = {measure(frame) for frame in kept}
    except Exception:  # noqa: BLE001 - `Malformed`, and whatever pydicom makes of broken fragments
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "compressed frames that are damaged") from None
    if len(kept) != extent.frames:
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, f"{len(kept)} compressed frames of {extent.frames}")
    if sizes != {(extent.rows, extent.columns, 1)}:
        # What a decoder allocates is what the frame says of itself.
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "compressed frames of another size than the image says")
    clean.file_meta.TransferSyntaxUID = syntax
    clean.add_new("PixelData", "OB", encapsulate(kept))
    clean["PixelData"].is_undefined_length = True


def _unpack_rle(clean: Object, content: bytes, extent: Extent) -> bytes:
    """RLE frames (PS3.5, annex G), native. pydicom's own decoder is Python and cannot take the process down."""
    from pydicom.pixels.utils import decompress
    from pydicom.uid import RLELossless

    if extent.length > _RLE_MOST * len(content):
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "compressed pixels that cannot be as many as the image says")
    clean.add_new("PixelData", "OB", content)
    clean["PixelData"].is_undefined_length = True
    clean.file_meta.TransferSyntaxUID = RLELossless
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of bytes behind a frame: they are left behind
            decompress(clean, as_rgb=False, generate_instance_uid=False, decoding_plugin="pydicom")
    except Exception:  # noqa: BLE001 - a decoder may raise anything, and its words may quote the object
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "compressed pixels that cannot be decoded") from None
    unpacked = bytes(clean["PixelData"].value)
    if len(unpacked) not in (extent.length, extent.length + extent.length % 2):
        raise ObjectRefused(Reason.UNDECODABLE_PIXELS, "compressed pixels of another number than the image says")
    return unpacked


def _overlay_inside(obj: Object) -> bool:
    """Whether an overlay lies in the pixels' unused bits: one with a bit position and no data (PS3.3 2004, C.9.2)."""
    groups = {tag.group for tag in obj.keys() if 0x6000 <= tag.group <= 0x601E}  # noqa: SIM118 - iterating reads values
    return any((group, 0x0102) in obj and (group, 0x3000) not in obj for group in groups)


def _used_bits(content: bytes, extent: Extent, overlay: bool) -> bytes:
    """Pixels of which only the stored bits are set, or, where signed, the sign's copies."""
    bits, stored = extent.allocated, extent.stored
    if stored == bits:
        return content
    words = np.frombuffer(content, dtype=_WORDS[bits])
    kept = words & words.dtype.type((1 << stored) - 1)
    if extent.signed:
        signed = kept.view(words.dtype.str.replace("u", "i"))
        kept = ((signed << (bits - stored)) >> (bits - stored)).view(words.dtype)
    if not overlay and not np.array_equal(kept, words) and not _lacks_sign_extension(words, stored):
        raise ObjectRefused(Reason.UNSUPPORTED_IMAGE, f"pixels use more than the {stored} bits that they say they do")
    return bytes(kept.tobytes())


def _lacks_sign_extension(words: npt.NDArray[np.unsignedinteger], stored: int) -> bool:
    """Whether no word has a bit above the stored ones: signed pixels written without their sign's copies."""
    return not bool(np.any(words >> words.dtype.type(stored)))
