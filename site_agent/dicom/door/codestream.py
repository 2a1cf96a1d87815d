"""JPEG, JPEG-LS and JPEG 2000 frames without what lies in them beside the image: comments, application data, a tail.

Marker segments are walked and only those written again that a decoder needs; nothing is decoded, so that no decoder
runs where objects come in. Sources: ITU-T T.81 (JPEG), annex B; T.87 (JPEG-LS), annex C; T.800 (JPEG 2000), annex A.
"""

from __future__ import annotations

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_JPEG = frozenset({*range(0xC0, 0xC8), *range(0xC9, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD, 0xF7, 0xF8})
"""Frame headers, Huffman and arithmetic tables, SOS, DQT, DNL, DRI; JPEG-LS's SOF55 and LSE. Not APPn, COM, JPGn."""
_FRAME_HEADERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""SOF0 to SOF15 and SOF55; among them are DHT, JPG and DAC."""
_SIZ = 0x51
_SOC, _SOT, _SOD, _EOC = 0x4F, 0x90, 0x93, 0xD9
_JPEG_2000 = frozenset({0x50, 0x51, 0x52, 0x53, 0x59, 0x5C, 0x5D, 0x5E, 0x5F, 0x60, 0x61, 0x63})
"""CAP, SIZ, COD, COC, CPF, QCD, QCC, RGN, POC, PPM, PPT, CRG. Not COM, nor TLM, PLM, PLT: lengths, which may change."""


Size = tuple[int, int, int]
"""Rows, columns, components."""


class Malformed(ValueError):
    """No code stream of this kind."""


def strip_jpeg(frame: bytes) -> bytes:
    """A JPEG or JPEG-LS frame, from SOI to EOI.

    Raises:
        Malformed: a marker or its length is wrong, the end is missing, or another image follows.
    """
    if frame[:2] != bytes((0xFF, _SOI)):
        raise Malformed("no start of image")
    kept, at = [frame[:2]], 2
    while True:
        marker, at = _read_marker(frame, at)
        if marker == _EOI:
            _require_last(frame, at, bytes((0xFF, _SOI, 0xFF)))
            return b"".join((*kept, bytes((0xFF, _EOI))))
        segment, at = _read_segment(frame, at)
        if marker in _JPEG:
            kept.append(bytes((0xFF, marker)) + segment)
        if marker == _SOS:
            end = _scan_end(frame, at)
            kept.append(frame[at:end])
            at = end


def jpeg_2000(frame: bytes) -> bytes:
    """A JPEG 2000 code stream, from SOC to EOC.

    Raises:
        Malformed: as `strip_jpeg`; or the code stream is wrapped in boxes (JP2), which may hold anything.
    """
    if frame[:2] != bytes((0xFF, _SOC)):
        raise Malformed("no start of code stream")
    kept, at = [frame[:2]], 2
    while True:
        start = at
        marker, at = _read_marker(frame, at)
        if marker == _EOC:
            _require_last(frame, at, bytes((0xFF, _SOC, 0xFF, _SIZ)))
            return b"".join((*kept, bytes((0xFF, _EOC))))
        if marker == _SOT:
            part, at = _tile_part(frame, start)
            kept.append(part)
            continue
        segment, at = _read_segment(frame, at)
        if marker in _JPEG_2000:
            kept.append(bytes((0xFF, marker)) + segment)


def _require_last(frame: bytes, end: int, start: bytes) -> None:
    """Raises Malformed where another image follows: more frames are there than the object says."""
    if frame.find(start, end) >= 0:
        raise Malformed("a second image behind the first")


def measure_jpeg(frame: bytes) -> Size:
    """The size that a frame which `strip_jpeg` made says of itself (T.81, B.2.2; T.87, C.2.2).

    Raises:
        Malformed: it says none before its first scan.
    """
    at = 2
    while True:
        marker, at = _read_marker(frame, at)
        if marker in (_SOS, _EOI):
            raise Malformed("no frame header")
        segment, at = _read_segment(frame, at)
        if marker in _FRAME_HEADERS and len(segment) >= 8:
            return int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[5:7], "big"), segment[7]


def measure_jpeg_2000(frame: bytes) -> Size:
    """The size that a code stream which `jpeg_2000` made says of itself (T.800, A.5.1).

    Raises:
        Malformed: it says none.
    """
    at = 2
    while True:
        marker, at = _read_marker(frame, at)
        if marker in (_SOT, _EOC):
            raise Malformed("no size")
        segment, at = _read_segment(frame, at)
        if marker == _SIZ and len(segment) >= 38:
            columns, rows, left, top = (int.from_bytes(segment[4 * n : 4 * n + 4], "big") for n in range(1, 5))
            return rows - top, columns - left, int.from_bytes(segment[36:38], "big")


def _read_marker(frame: bytes, at: int) -> tuple[int, int]:
    """The marker that begins here, after any fill bytes, and where it ends."""
    if frame[at : at + 1] != b"\xff":
        raise Malformed("no marker where one belongs")
    while frame[at : at + 1] == b"\xff":
        at += 1
    if at >= len(frame):
        raise Malformed("cut short")
    return frame[at], at + 1


def _read_segment(frame: bytes, at: int) -> tuple[bytes, int]:
    """A marker segment, its length first, and where it ends."""
    length = int.from_bytes(frame[at : at + 2], "big")
    if length < 2 or at + length > len(frame):
        raise Malformed("a segment of impossible length")
    return frame[at : at + length], at + length


def _scan_end(frame: bytes, at: int) -> int:
    """Where entropy-coded data ends: at a marker that is neither stuffing (FF00; in JPEG-LS FF00 to FF7F) nor RSTn."""
    while True:
        at = frame.find(b"\xff", at)
        if at < 0 or at + 1 >= len(frame):
            raise Malformed("no end of image")
        after = frame[at + 1]
        if after >= 0x80 and after != 0xFF and not 0xD0 <= after <= 0xD7:
            return at
        at += 1 if after == 0xFF else 2


def _tile_part(frame: bytes, start: int) -> tuple[bytes, int]:
    """A tile-part from its SOT on, with its length (Psot) as it is then, and where it ends (T.800, A.4.2)."""
    sot, at = _read_segment(frame, start + 2)
    if len(sot) != 10:
        raise Malformed("a tile-part without its header")
    said = int.from_bytes(sot[4:8], "big")
    header = []
    while True:
        marker, at = _read_marker(frame, at)
        if marker == _SOD:
            break
        segment, at = _read_segment(frame, at)
        if marker in _JPEG_2000:
            header.append(bytes((0xFF, marker)) + segment)
    # Psot of 0: the last one, up to EOC; packets hold no FF90 to FFFF, so its marker is the first such (A.1.2).
    end = start + said if said else frame.find(bytes((0xFF, _EOC)), at)
    if not at <= end <= len(frame):
        raise Malformed("a tile-part of impossible length")
    body = b"".join((*header, bytes((0xFF, _SOD)), frame[at:end]))
    length = (2 + len(sot) + len(body)).to_bytes(4, "big")
    return bytes((0xFF, _SOT)) + sot[:4] + length + sot[8:] + body, end
