"""The file of an exported log, form 2: entries of one experiment, the heads that prove them, and what lies between.

    KONSIL-LOG-2
    ["log", experiment, origin]
    ["entry", gap, entry]      an entry of the experiment
    ["beside", gap, entry]     a start of the coordinator, with its version and term; or the operator's register
    ["head", gap, note]        a signed head with its cosignatures, behind the last entry that it covers
    0, [2, entries, hash of the last one, size of the newest head]

Each record is its length in four bytes and msgpack. Records stand in the journal's order. `gap` is the hashes of the
complete subtrees (RFC 9162) that stand for the entries of others since the record before: so one pass, in little
memory, comes to the root of each head. Behind the newest head gaps are empty. Form 1 (`messages.chain`) has no heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from messages import chain, codec
from messages.chain import MAX_ENTRY, Entry, decode_entry
from messages.ground.durable import writing_beside
from messages.ground.errors import ConfigError, LogBroken, MalformedMessage

MAGIC = b"KONSIL-LOG-2\n"
FORM = 2
MAX_RECORD = MAX_ENTRY + 2**20
LOG, ENTRY, BESIDE, HEAD = "log", "entry", "beside", "head"
_MOST_CLOSING = 128
"""Bytes; what closes a file has fewer."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record. `entry` of entries, `data` their bytes, or a head's note. `place`: number in the file, from 1."""

    type: str
    place: int
    gap: bytes = b""
    entry: Entry | None = None
    data: bytes = b""
    experiment: str = ""
    origin: str = ""

    def pack(self) -> bytes:
        """As it lies in the file, without its length."""
        if self.type == LOG:
            return codec.pack([LOG, self.experiment, self.origin])
        return codec.pack([self.type, self.gap, self.data or (b"" if self.entry is None else self.entry.encode())])


def write_records(path: Path, records: Iterable[LogRecord], newest: int) -> int:
    """Write a file of form 2; returns how many entries of the experiment it holds. Written beside and moved.

    Args:
        newest: size of the newest head.

    Raises:
        ConfigError: the file cannot be written.
    """
    count, last = 0, chain.ZERO
    try:
        with writing_beside(path) as part, part.open("wb") as file:
            file.write(MAGIC)
            for record in records:
                data = record.pack()
                file.write(len(data).to_bytes(4, "big") + data)
                if record.type == ENTRY and record.entry is not None:
                    count, last = count + 1, record.entry.hash
            file.write(bytes(4) + codec.pack([FORM, count, last, newest]))
    except OSError as error:
        raise ConfigError(f"cannot be written ({error.strerror})", where=str(path)) from None
    return count


def read_form(path: Path) -> int:
    """1 or 2: the form of an exported log; 0: the file is none.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(path)) from None
    return {chain.MAGIC: 1, MAGIC: 2}.get(magic, 0)


class FramedRecord(NamedTuple):
    """A record's bytes as they lie in a file. `place`: number in the file, from 1; 0: what closes the file. `where`:
    how a person finds it. `broken`: why there are no more, instead of bytes."""

    place: int
    where: str
    data: bytes = b""
    broken: str = ""


def read_frames(path: Path, form: int) -> Iterator[FramedRecord]:
    """The records of an exported log as bytes; the last frame is what closes the file, or why it cannot be read on."""
    place, name = 0, "record" if form == FORM else "entry"
    with path.open("rb") as file:
        file.seek(len(MAGIC))
        try:
            for where, data in chain.read_framed(file, f"{path}, {name}", MAX_RECORD if form == FORM else MAX_ENTRY):
                place += 1
                yield FramedRecord(place, where, data)
        except LogBroken as error:
            yield FramedRecord(0, error.where, broken=error.what)
        else:
            yield FramedRecord(0, f"{path}, after {name} {place}", file.read(_MOST_CLOSING))


def read_record(frame: FramedRecord, form: int) -> LogRecord:
    """One record; of form 1 all are entries.

    Raises:
        LogBroken: it cannot be read; names its place.
    """
    if frame.broken:
        raise LogBroken(frame.broken, where=frame.where)
    try:
        if form != FORM:
            return LogRecord(ENTRY, frame.place, entry=decode_entry(frame.data))
        record = _read_record(frame.data, frame.place)
    except (MalformedMessage, ValueError, TypeError, LookupError):
        raise LogBroken("its content was changed: it cannot be read", where=frame.where) from None
    if (record.type == LOG) != (frame.place == 1):
        raise LogBroken("the file's first record, and no other, says what it is", where=frame.where)
    return record


class ClosingCheck:
    """What the record that closes a file has to say, by the records before it."""

    def __init__(self, form: int) -> None:
        self._form, self._count, self._last, self._newest = form, 0, chain.ZERO, 0

    def note_record(self, record: LogRecord) -> None:
        """Take the next record into account."""
        if record.type == ENTRY and record.entry is not None:
            self._count, self._last = self._count + 1, record.entry.hash
        elif record.type == HEAD:
            self._newest = size_of(record.data)

    def check_closing(self, frame: FramedRecord) -> None:
        """LogBroken where the file ends otherwise."""
        newest = self._newest if self._form == FORM else b""
        if frame.data != codec.pack([self._form, self._count, self._last, newest]):
            what = "records" if self._form == FORM else "entries"
            raise LogBroken(
                f"the record that closes it was changed, or {what} before it were taken out", where=frame.where
            )


def read_records(path: Path) -> Iterator[LogRecord]:
    """Read an exported log of either form, record by record; of form 1 all are entries.

    Raises:
        ConfigError: it cannot be read or is no exported log.
        LogBroken: it is cut off, or a record cannot be read; names its place.
    """
    form = require_form(path)
    closing = ClosingCheck(form)
    for frame in read_frames(path, form):
        if frame.place or frame.broken:
            record = read_record(frame, form)
            closing.note_record(record)
            yield record
        else:
            closing.check_closing(frame)


def require_form(path: Path) -> int:
    """1 or 2: the form of an exported log.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    if not (form := read_form(path)):
        raise ConfigError("is not an exported event log", where=str(path), advice="Use `konsil audit export`")
    return form


def _read_record(data: bytes, place: int) -> LogRecord:
    plain = codec.unpack(data, max_bytes=MAX_RECORD)
    if plain[0] == LOG:
        _log, experiment, origin = plain
        record = LogRecord(LOG, place, experiment=str(experiment), origin=str(origin))
    else:
        type_, gap, content = plain
        if type_ not in (ENTRY, BESIDE, HEAD) or type(gap) is not bytes or type(content) is not bytes:
            raise ValueError("not a record of an exported log")
        entry = None if type_ == HEAD else decode_entry(content)
        record = LogRecord(type_, place, gap, entry, content)
    if record.pack() != data:
        raise ValueError("a record is not encoded as it was written")
    return record


def size_of(note: bytes) -> int:
    """The size that a head's note says; 0 where it says none."""
    lines = note.split(b"\n", 2)
    return int(lines[1]) if len(lines) == 3 and lines[1].isdigit() and len(lines[1]) <= 16 else 0


def read_entries(path: Path) -> Iterator[Entry]:
    """The experiment's entries of an exported log of either form; raises as `read_records`."""
    for record in read_records(path):
        if record.type == ENTRY and record.entry is not None:
            yield record.entry
