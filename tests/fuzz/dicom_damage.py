"""One DICOM file damaged: an element's VR, length or value, the meta group, pixels, sequences, the end.

Bytes in, bytes out, by a generator: elements are found by a scan of our own, as far as it understands what it sees.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

LONG = (b"OB", b"OD", b"OF", b"OL", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"OV", b"SV", b"UV")
VRS = (
    b"US",
    b"SS",
    b"UL",
    b"SL",
    b"DS",
    b"IS",
    b"FD",
    b"FL",
    b"CS",
    b"LO",
    b"UI",
    b"PN",
    b"AT",
    b"DA",
    *LONG,
    b"??",
    b"\0\0",
)
SYNTAXES = (
    "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.8.1", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.100", "1.2.840.113619.5.2", "1.2.3", "",
    "1.2.840.10008.1.1", "x" * 64,
)  # fmt: skip
TEXTS = (
    b"", b"\0\0", b"nan", b"inf", b"-inf", b"1e999", b"1e-999", b"-0", b"0", b"-1", b"1", b"9" * 40, b"\\" * 9, b"1\\2",
    b"0x10", b"1.5.5", b"\xff\xfe\xfd\xfc", b"\xc3\x28", b"A" * 5000, b"2.25." + b"9" * 80, b"\r\n\x1b[0m", b"../../x",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 7, 8, 9, 16, 32, 64, 255, 256, 0x7FFF, 0x8000, 0xFFFF)
UNDEFINED = 0xFFFFFFFF
_DEPTH = 6


@dataclass(frozen=True)
class Element:
    """Where an element lies in a file's bytes: its tag, VR (-1: implicit), length, value; the length's own bytes."""

    start: int
    vr: int
    length: int
    width: int
    value: int
    end: int
    tag: int


@dataclass(frozen=True)
class Layout:
    """A file: the bytes before its data set, and how that is encoded."""

    head: bytes
    body: bytes
    explicit: bool
    little: bool
    deflated: bool

    def join(self, body: bytes, head: bytes | None = None) -> bytes:
        """The file with another data set."""
        return (self.head if head is None else head) + (deflate(body) if self.deflated else body)


def deflate(body: bytes) -> bytes:
    """As PS3.5, A.5."""
    machine = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = machine.compress(body) + machine.flush()
    return packed + b"\0" * (len(packed) % 2)


def split_file(content: bytes) -> Layout:
    """A whole file's parts."""
    start = 144 + struct.unpack("<I", content[140:144])[0]
    syntax = content[content.index(b"\x02\0\x10\0UI", 132) + 8 : start].split(b"\x02\0")[0].strip(b"\0").decode()
    deflated = syntax == "1.2.840.10008.1.2.1.99"
    body = zlib.decompress(content[start:], -zlib.MAX_WBITS) if deflated else content[start:]
    return Layout(content[:start], body, syntax != "1.2.840.10008.1.2", syntax != "1.2.840.10008.1.2.2", deflated)


def scan(body: bytes, explicit: bool, little: bool) -> list[Element]:
    """Every element that is found, those in sequences too."""
    found: list[Element] = []
    _scan(body, 0, len(body), explicit, "<" if little else ">", 0, found)
    return found


def _scan(body: bytes, at: int, end: int, explicit: bool, order: str, depth: int, found: list[Element]) -> int:
    while at + 8 <= end:
        group, number = struct.unpack(order + "HH", body[at : at + 4])
        tag = group << 16 | number
        if tag in (0xFFFEE00D, 0xFFFEE0DD):
            return at + 8
        if tag == 0xFFFEE000:
            (length,) = struct.unpack(order + "I", body[at + 4 : at + 8])
            inner = end if length == UNDEFINED else min(end, at + 8 + length)
            at = _scan(body, at + 8, inner, explicit, order, depth, found)
            continue
        vr = body[at + 4 : at + 6] if explicit else b""
        if vr in LONG:
            if at + 12 > end:
                break
            place, width = at + 8, 4
        else:
            place, width = (at + 6, 2) if explicit else (at + 4, 4)
        (length,) = struct.unpack(order + ("I" if width == 4 else "H"), body[place : place + width])
        value = place + width
        stop = end if length == UNDEFINED else min(end, value + length)
        found.append(Element(at, at + 4 if explicit else -1, place, width, value, stop, tag))
        sequence = vr == b"SQ" or (not explicit and body[value : value + 4] == b"\xfe\xff\x00\xe0")
        if sequence and depth < _DEPTH and tag != 0x7FE00010:
            after = _scan(body, value, stop, explicit, order, depth + 1, found)
            at = after if length == UNDEFINED else stop
        else:
            at = stop
    return max(at, end) if depth == 0 else at


Change = Callable[[random.Random, bytes, Element, str], bytes]


def _change_vr(rng: random.Random, body: bytes, one: Element, _order: str) -> bytes:
    if one.vr < 0:
        return body[: one.start] + rng.randbytes(4) + body[one.start + 4 :]
    vr = rng.choice(VRS) if rng.random() < 0.7 else bytes([body[one.vr] ^ 1 << rng.randrange(8), body[one.vr + 1]])
    return body[: one.vr] + vr + body[one.vr + 2 :]


def _change_length(rng: random.Random, body: bytes, one: Element, order: str) -> bytes:
    most = 256**one.width - 1
    said = int.from_bytes(body[one.length : one.length + one.width], "little" if order == "<" else "big")
    length = rng.choice(
        (0, 1, 2, said + 1, said + 2, said - 1, said - 2, 2 * said, most, most - 1, most // 2, rng.randrange(most))
    )
    content = (length % (most + 1)).to_bytes(one.width, "little" if order == "<" else "big")
    return body[: one.length] + content + body[one.length + one.width :]


def _put(body: bytes, one: Element, value: bytes, order: str) -> bytes:
    """Another value, with its length; what is too long for it is cut. Sequences around it keep theirs."""
    value = value[: 256**one.width - 2]
    value += b"\0" * (len(value) % 2)
    length = len(value).to_bytes(one.width, "little" if order == "<" else "big")
    return body[: one.length] + length + value + body[one.end :]


def _change_value(rng: random.Random, body: bytes, one: Element, order: str) -> bytes:
    old = body[one.value : one.end]
    kind = rng.randrange(6)
    if kind == 0:
        return _put(body, one, rng.choice(TEXTS), order)
    if kind == 1:
        return _put(body, one, struct.pack(order + "H", rng.choice(NUMBERS)) * rng.choice((1, 1, 1, 2, 3)), order)
    if kind == 2 and old:
        at = rng.randrange(len(old))
        return body[: one.value + at] + bytes([old[at] ^ 1 << rng.randrange(8)]) + body[one.value + at + 1 :]
    if kind == 3:
        return body[: one.value] + rng.choice((b"\0", b"\xff", b" ", b"9")) * len(old) + body[one.end :]
    if kind == 4:
        return _put(body, one, rng.randbytes(rng.choice((0, 1, 2, 4, 8, 100, 3000))), order)
    return _put(body, one, old + old, order)


def _move(rng: random.Random, body: bytes, one: Element, _order: str) -> bytes:
    content = body[one.start : one.end]
    kind = rng.randrange(3)
    rest = body[: one.start] + body[one.end :]
    if kind == 0:
        return rest
    if kind == 1:
        return body[: one.end] + content + body[one.end :]
    at = rng.randrange(len(rest) + 1)
    return rest[:at] + content + rest[at:]


def _nest(rng: random.Random, body: bytes, one: Element, order: str) -> bytes:
    """Sequences in sequences, or items that do not end."""
    head = struct.pack(order + "HH", 0x0008, 0x1140) + (b"SQ\0\0" if one.vr >= 0 else b"")
    open_, close = head + struct.pack(order + "I", UNDEFINED), struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0)
    start, stop = struct.pack(order + "HHI", 0xFFFE, 0xE000, UNDEFINED), struct.pack(order + "HHI", 0xFFFE, 0xE00D, 0)
    depth = rng.choice((1, 3, 20, 300, 1500))
    kind = rng.randrange(3)
    inner = (open_ + start) * depth + (stop + close) * (depth if kind == 0 else rng.randrange(depth + 1))
    if kind == 2:
        inner = head + struct.pack(order + "I", 0x7FFFFFFE) + start * depth
    return body[: one.start] + inner + body[one.start :]


def _change_pixels(rng: random.Random, body: bytes, one: Element, order: str) -> bytes:
    """Pixel Data in items, of other lengths, or of undefined length."""
    old = body[one.value : one.end]
    part = struct.pack(order + "HH", 0xFFFE, 0xE000)
    end = struct.pack(order + "HHI", 0xFFFE, 0xE0DD, 0)

    def piece(content: bytes) -> bytes:
        return part + struct.pack(order + "I", len(content)) + content

    kind = rng.randrange(6)
    if kind == 0:
        value = piece(b"") + piece(old) + end
    elif kind == 1:
        value = piece(rng.randbytes(8)) + piece(b"") * 3 + piece(old[: len(old) // 2]) + piece(old[len(old) // 2 :])
    elif kind == 2:
        value = piece(b"") + part + struct.pack(order + "I", rng.choice((UNDEFINED, 0x7FFFFFFF, 3))) + old + end
    elif kind == 3:
        return _put(body, one, old[: rng.randrange(len(old) + 1)], order)
    elif kind == 4:
        return _put(body, one, old + rng.randbytes(rng.choice((1, 2, 3, 50))), order)
    else:
        value = old
    size = struct.pack(order + "I", UNDEFINED)
    return body[: one.length] + (size if one.width == 4 else size[:2]) + value + body[one.end :]


IMAGE = {
    0x00280010: (0, 1, 7, 9, 255, 20000, 65535), 0x00280011: (0, 1, 8, 10, 20000, 65535), 0x00280002: (0, 2, 3, 4),
    0x00280100: (0, 1, 8, 12, 24, 32, 64), 0x00280101: (0, 1, 8, 16, 17, 33), 0x00280102: (0, 7, 12, 15, 40),
    0x00280103: (1, 2, 255),
}  # fmt: skip
"""Values that contradict the others, by tag (PS3.3, C.7.6.3)."""


def _contradict(rng: random.Random, body: bytes, one: Element, order: str) -> bytes:
    if one.tag in IMAGE:
        return _put(body, one, struct.pack(order + "H", rng.choice(IMAGE[one.tag])), order)
    if one.tag == 0x00280008:
        return _put(body, one, rng.choice((b"0", b"1", b"-1", b"3", b"10000", b"9999999", b"2 ")), order)
    return _put(body, one, rng.choice((b"0", b"1", b"1e300", b"-1", b"1\\0\\0", b"1e-30\\1e-30")), order)


def damage_file(rng: random.Random, content: bytes) -> bytes:
    """One or a few changes of a whole file."""
    layout = split_file(content)
    kind = rng.random()
    if kind < 0.08:
        return content[: rng.randrange(len(content))]
    if kind < 0.14:
        return _flip(rng, content)
    if kind < 0.24:
        return _damage_head(rng, layout)
    body = layout.body
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        body = _damage_body(rng, body, layout)
    return layout.join(body)


def _damage_body(rng: random.Random, body: bytes, layout: Layout) -> bytes:
    order = "<" if layout.little else ">"
    try:
        found = scan(body, layout.explicit, layout.little)
    except (struct.error, RecursionError):
        found = []
    if not found:
        return _flip(rng, body)
    pixels = [one for one in found if one.tag == 0x7FE00010]
    image = [one for one in found if one.tag >> 16 in (0x0028, 0x0020) or one.tag in (0x30060050, 0x00180050)]
    if pixels and rng.random() < 0.12:
        return _change_pixels(rng, body, pixels[0], order)
    if image and rng.random() < 0.2:
        return _contradict(rng, body, rng.choice(image), order)
    change: Change = rng.choice(
        (_change_vr, _change_vr, _change_length, _change_length, _change_value, _change_value, _move, _nest)
    )
    return change(rng, body, rng.choice(found), order)


def _flip(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _damage_head(rng: random.Random, layout: Layout) -> bytes:
    """Preamble, magic word, meta group; the transfer syntax."""
    head = layout.head
    kind = rng.randrange(6)
    if kind == 0:
        head = _flip(rng, head)
    elif kind == 1:
        head = head[: rng.randrange(len(head))]
    elif kind == 2:
        head = b""
    elif kind == 3:
        head = head[:140] + struct.pack("<I", rng.choice((0, 1, 10, 1000, UNDEFINED))) + head[144:]
    elif kind == 4:
        at = head.index(b"\x02\0\x10\0UI", 132)
        (length,) = struct.unpack("<H", head[at + 6 : at + 8])
        syntax = rng.choice(SYNTAXES).encode()
        syntax += b"\0" * (len(syntax) % 2)
        head = head[: at + 6] + struct.pack("<H", len(syntax)) + syntax + head[at + 8 + length :]
        head = head[:140] + struct.pack("<I", len(head) - 144) + head[144:]
    else:
        bomb = deflate(b"\0" * rng.choice((10**6, 10**8)) + layout.body)
        return head.replace(b"1.2.840.10008.1.2.1\0\x02", b"1.2.840.10008.1.2.1\0\x02") + bomb
    return layout.join(layout.body, head)
