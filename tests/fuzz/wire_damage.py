"""Real messages and files of kept formats, damaged: their bytes, or the values inside them, written out whole again."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack

from messages.log import exports
from messages.log.examining import find_event

FORMATS = Path(__file__).parents[1] / "audit"
LOG = next(iter(sorted((FORMATS / "signed_formats").glob("*/log.konsil"), reverse=True)))
WORDS = sorted((FORMATS / "formats").glob("*/wire.zip"))[-1]
FILES = sorted(WORDS.parent.joinpath("experiments").glob("*.toml"))
ODD: tuple[Any, ...] = (
    None, True, 0, 1, -1, 31, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.0, -0.0, 1e308, float("nan"),
    float("inf"), "", "a", "../../etc/passwd", "\x1b[31mred", "\x00", "a" * 300, "é" * 40, "<script>alert(1)</script>",
    "site-a", "exp-1", "__class__", "0" * 64, b"", b"\x00", bytes(32), bytes(64), b"\xff" * 65, [], {}, [[]], [{}],
    [0] * 70, ["site-a"] * 70, {"a": 1}, {"": 0}, {str(n): n for n in range(40)},
)  # fmt: skip
NAMED = ("experiment", "round", "kind", "sender", "attempt")
"""What an event's id is of (`messages.envelope.event_id`)."""
BYTES = (b"\x00", b"\xff", b"\x80", b"\x90", b"\xc1", b"\xc4\xff", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff",
         b"\xdf\xff\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x91" * 40, b"\xcb\x7f\xf8",
         b"\n", b"\xe2\x80\x94 ", b"\xc7\xff\x01")  # fmt: skip


@cache
def read_words(suffix: str) -> tuple[bytes, ...]:
    """Messages of a kept format whose names end so; events of a signed log among them."""
    with zipfile.ZipFile(WORDS) as file:
        words = [file.read(name) for name in file.namelist() if name.endswith(suffix)]
    if suffix == ".event":
        words += [msgpack.packb([found[1], found[2]]) for one in read_log() if (found := find_event(_body_of(one)))]
    if suffix == ".entry":
        words += list(read_log())
    return tuple(words)


@cache
def read_log() -> tuple[bytes, ...]:
    """The entries of a signed log."""
    return tuple(one.data for one in exports.read_records(LOG) if one.entry is not None)


@cache
def read_notes() -> tuple[bytes, ...]:
    """Its heads, and the operator's register."""
    heads = [one.data for one in exports.read_records(LOG) if one.type == exports.HEAD]
    return (*heads, *(note for one in read_log() if isinstance(note := _body_of(one).get("note"), bytes)))


def _body_of(entry: bytes) -> dict[str, Any]:
    body: dict[str, Any] = msgpack.unpackb(msgpack.unpackb(entry)[6])
    return body


def damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """Some bytes changed, taken out, put in, doubled or cut off."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        at = rng.randrange(len(content) + 1)
        how = rng.randrange(7)
        if how == 0:
            del content[at:]
        elif how == 1:
            del content[at : at + rng.randint(1, 8)]
        elif how == 2:
            content[at:at] = rng.choice(BYTES)
        elif how == 3:
            content[at:at] = content[at : at + rng.randint(1, 64)]
        elif how == 4:
            content[at : at + 4] = rng.randbytes(4)
        elif at < len(content):
            content[at] = content[at] ^ 1 << rng.randrange(8) if how == 5 else rng.randrange(256)
    return bytes(content)


def damage_value(rng: random.Random, plain: Any) -> Any:
    """Plain types with one value somewhere exchanged, removed, doubled, renamed, nested, or damaged as bytes."""
    inside = isinstance(plain, dict | list) and plain and rng.random() < 0.9
    if inside and isinstance(plain, dict):
        key = rng.choice(list(plain))
        changed = dict(plain)
        how = rng.random()
        if how < 0.85:
            changed[key] = damage_value(rng, changed[key])
        elif how < 0.92:
            del changed[key]
        else:
            changed[rng.choice((f"{key}s", "new", "", "\x1b]0;x\x07"))] = changed[key]
        return changed
    if inside:
        at = rng.randrange(len(plain))
        how = rng.random()
        if how < 0.8:
            return [*plain[:at], damage_value(rng, plain[at]), *plain[at + 1 :]]
        return plain[:at] + plain[at + 1 :] if how < 0.9 else plain[: at + 1] * rng.choice((2, 2, 100))
    how = rng.random()
    if how < 0.3 and isinstance(plain, bytes):
        return damage_bytes(rng, plain)
    if how < 0.3 and isinstance(plain, int | float) and not isinstance(plain, bool):
        return -plain if how < 0.1 else plain + rng.choice((1, -1, 2**32))
    if how < 0.35:
        return nest(plain, rng.choice((1, 2, 40, 2000)))
    return rng.choice(ODD)


def nest(plain: Any, levels: int) -> Any:
    """A value inside so many lists."""
    for _ in range(levels):
        plain = [plain]
    return plain


def pack(plain: Any) -> bytes:
    """As msgpack, without our bounds; what is no msgpack (too deep, too large a number) as it can be."""
    try:
        return bytes(msgpack.packb(plain))
    except (ValueError, OverflowError):
        return b"\x91" * 600 + b"\xc0"


def inside(damage: Callable[[random.Random, Any], Any] = damage_value) -> Callable[[random.Random, bytes], bytes]:
    """Damage to the values in a msgpack message."""
    return lambda rng, data: pack(damage(rng, msgpack.unpackb(data, strict_map_key=False)))


def damage_event(rng: random.Random, data: bytes) -> bytes:
    """An event whose payload says something else, under the id of what it says: as an author can write it."""
    payload, signature = msgpack.unpackb(data)
    content = msgpack.unpackb(payload)
    if rng.random() < 0.8:
        content = {**content, "body": damage_value(rng, content["body"])}
    else:
        content = damage_value(rng, content)
    named = [content.get(word) for word in NAMED] if isinstance(content, dict) else []
    if named and all(isinstance(one, str | int) for one in named):
        content = {**content, "id": sha256("|".join(map(str, named)).encode("utf-8", "replace")).hexdigest()[:32]}
    return pack([pack(content), damage_bytes(rng, signature) if rng.random() < 0.1 else signature])


def damage_json(rng: random.Random, data: bytes) -> bytes:
    """JSON, whose values are damaged; or bytes of it."""
    if rng.random() < 0.3:
        return damage_bytes(rng, data)
    try:
        return json.dumps(_as_json(damage_value(rng, json.loads(data)))).encode()
    except RecursionError:
        return b"[" * 5000


def damage_note(rng: random.Random, data: bytes) -> bytes:
    """A note; of a register, values of its JSON."""
    heading, brace, rest = data.partition(b"\n{")
    if not brace or rng.random() < 0.4:
        return damage_bytes(rng, data)
    text, gap, marks = (b"{" + rest).partition(b"\n\n")
    return heading + b"\n" + damage_json(rng, text) + b"\n" + gap[1:] + marks


def damage_container(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file: its header's JSON, its length, or any bytes."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.4:
        return damage_bytes(rng, data)
    header = damage_json(rng, data[8 : 8 + size])
    said = len(header) if rng.random() < 0.8 else rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(header) + 1))
    return said.to_bytes(8, "little") + header + data[8 + size :]


def damage_export(rng: random.Random, data: bytes) -> bytes:
    """An exported log: a record with damaged values, moved, or any bytes."""
    if rng.random() < 0.4:
        return damage_bytes(rng, data)
    file, records = io.BytesIO(data[len(exports.MAGIC) :]), list[bytes]()
    while size := int.from_bytes(file.read(4), "big"):
        records.append(file.read(size))
    at, to = rng.randrange(len(records)), rng.randrange(len(records))
    if rng.random() < 0.7:
        records[at] = inside()(rng, records[at]) or b"\xc0"
    else:
        records[at], records[to] = records[to], records[at]
    return exports.MAGIC + b"".join(len(one).to_bytes(4, "big") + one for one in records) + bytes(4) + file.read()


def _as_json(plain: Any) -> Any:
    if isinstance(plain, bytes):
        return plain.hex()
    if isinstance(plain, list):
        return [_as_json(one) for one in plain] if len(plain) != 1 else plain
    return {key: _as_json(one) for key, one in plain.items()} if isinstance(plain, dict) else plain
