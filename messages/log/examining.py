"""What one record of an exported log shows by itself: its form, its hash, its body, the signature of the event in it.

Nothing here knows the records before it, so records are examined in any process and in any order. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgpack

from messages import codec
from messages.chain import MAX_ENTRY, Entry, hash_encoded
from messages.ground.errors import LogBroken, MalformedMessage
from messages.log import exports
from messages.log.exports import FramedRecord, LogRecord
from messages.log.tree import hash_leaf
from messages.log.views import SaidView, ShownOpening, read_view
from messages.trust.register import Register
from messages.trust.verifier import is_as_taken

Body = dict[str, Any]
TERM, REGISTER = "term", "register"
"""Types of entries beside an experiment's: a coordinator's start, and the operator's register."""
Extract = Callable[[Entry, Body, Body | None], Any]
"""(entry, its body, payload of the event in it) → what the caller wants of it; a function of a module, which raises
nothing: it may be called in another process."""


def extract_nothing(entry: Entry, body: Body, payload: Body | None) -> None:
    """For who wants nothing of the entries."""


class Examined(NamedTuple):
    """What was found of one record.

    Attributes:
        record: its entry without its body; None where it cannot be read, or is what closes the file.
        broken: what cannot be read, and where; nothing else is known of such a record.
        leaf: of the entry, in the tree.
        hash_holds: whether the entry's hash is that of its content.
        note: of an entry beside an experiment's: the register that it brings.
        term: of an entry beside an experiment's: the coordinator's term that begins.
        problem: what is wrong with body or signature; "": nothing.
        sender, signed: of the event in it, and whether it has a signature; "": it holds no event.
        view: what it says of what was shown to whom.
        extracted: what the caller wants of it.
    """

    record: LogRecord | None
    broken: tuple[str, str] = ("", "")
    leaf: bytes = b""
    hash_holds: bool = True
    note: bytes | None = None
    term: int | None = None
    problem: str = ""
    sender: str = ""
    signed: bool = False
    view: ShownOpening | SaidView | None = None
    extracted: Any = None


def examine_frames(
    frames: Sequence[FramedRecord], form: int, register: Register | None, extract: Extract = extract_nothing
) -> list[Examined]:
    """Examine each record; nothing is raised.

    Args:
        form: of the file.
        register: in force at all of them; None: signatures are not checked.
    """
    return [_examine_frame(frame, form, register, extract) for frame in frames]


def _examine_frame(frame: FramedRecord, form: int, register: Register | None, extract: Extract) -> Examined:
    if not frame.place and not frame.broken:
        return Examined(None)
    try:
        record = exports.read_record(frame, form)
    except LogBroken as error:
        return Examined(None, broken=(error.what, error.where))
    entry = record.entry
    if entry is None:
        return Examined(record)
    data = record.data or frame.data
    leaf, holds = hash_leaf(data), hash_encoded(data) == entry.hash
    slim = _without_body(record, entry)
    body = _read_map(entry) if holds else {}
    if body is None:
        return Examined(slim, leaf=leaf, problem="its body cannot be read")
    if record.type == exports.BESIDE:
        note, term = register_in(entry.type, body), _term_in(entry.type, body)
        return Examined(slim, leaf=leaf, hash_holds=holds, note=note, term=term)
    found = find_event(body)
    problem, sender, signed, payload = "", "", False, None
    if found is not None:
        sender, data, signature, payload = found
        signed = bool(signature)
        if register is not None and not is_as_taken(register, sender, data, signature, payload.get("time"), entry.time):
            problem = f"the signature of {sender} in it is missing or does not hold"
    if not holds or problem:
        return Examined(slim, leaf=leaf, hash_holds=holds, problem=problem, sender=sender, signed=signed)
    view = read_view(entry.type, body, payload if signed else None)
    return Examined(slim, leaf=leaf, sender=sender, signed=signed, view=view, extracted=extract(entry, body, payload))


def _without_body(record: LogRecord, entry: Entry) -> LogRecord:
    links = (entry.previous, entry.before, entry.hash)
    bare = Entry(entry.number, entry.index, entry.experiment, entry.time, entry.type, b"", *links)
    return LogRecord(record.type, record.place, record.gap, bare)


def register_in(type_: str, body: Body) -> bytes | None:
    """The operator's register in an entry beside an experiment's, as a note; None: it brings none."""
    data = body.get("note")
    return data if type_ == REGISTER and isinstance(data, bytes) else None


def _term_in(type_: str, body: Body) -> int | None:
    term = body.get("term")
    return term if type_ == TERM and type(term) is int else None


def _read_map(entry: Entry) -> Body | None:
    try:
        body = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
    except MalformedMessage:
        return None
    return body if isinstance(body, dict) else None


def find_event(body: Body) -> tuple[str, bytes, bytes, Body] | None:
    """Of the event in an entry's body: sender, payload as it was on the wire, signature, and what the payload says;
    None: there is none."""
    given = body.get("input")
    raw = given.get("raw") if isinstance(given, dict) else None
    if not isinstance(raw, bytes):
        return None
    try:
        data, signature = codec.unpack(raw, max_bytes=MAX_ENTRY)
        payload = msgpack.unpackb(data, raw=False)
        sender = payload["sender"]
    except (MalformedMessage, msgpack.UnpackException, KeyError, TypeError, ValueError):
        return None
    if not isinstance(sender, str) or not isinstance(signature, bytes):
        return None
    return sender, data, signature, payload
