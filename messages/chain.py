"""The event log's hash chain: entries, how they link, how a copy is verified, and the export file.

Each entry links twice: to the entry before it in its own experiment (`previous`), so that one experiment's log
verifies alone, and to the entry before it in the whole journal (`before`), so that no experiment can be taken out
unnoticed. Hash: SHA-256 over the entry's encoding without the hash (cf. RFC 9162, section 2, for what follows:
signed heads over the entries).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from messages import codec
from messages.ground.durable import writing_beside
from messages.ground.errors import ConfigError, LogBroken, MalformedMessage

ZERO = bytes(32)
VERSION = 1
MAGIC = b"KONSIL-LOG-1\n"
MAX_ENTRY = 64 * 2**20
_WITHOUT_HASH, _ENCODED_HASH = b"\x99", 34
"""How a list of nine begins in msgpack, and bytes of a hash in it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the journal.

    `number` counts the whole journal from 1, `index` the experiment's entries from 1. `time` is the coordinator's
    clock, seconds since 1970. `type` says how to read `body`, which is msgpack.
    """

    number: int
    index: int
    experiment: str
    time: float
    type: str
    body: bytes
    previous: bytes = ZERO
    before: bytes = ZERO
    hash: bytes = field(default=ZERO)

    def _hashed_content(self) -> list[Any]:
        return [
            VERSION,
            self.number,
            self.index,
            self.experiment,
            float(self.time),
            self.type,
            self.body,
            self.previous,
            self.before,
        ]

    def computed_hash(self) -> bytes:
        """What `hash` has to be."""
        return sha256(codec.pack(self._hashed_content())).digest()

    def with_hash(self) -> Entry:
        """The same entry with its hash."""
        return replace(self, hash=self.computed_hash())

    def encode(self) -> bytes:
        """For journal, `audit` stream and export file alike."""
        return codec.pack([*self._hashed_content(), self.hash])


def decode_entry(data: bytes) -> Entry:
    """Read an entry; MalformedMessage where it is none. The hash is not checked here."""
    if not isinstance(data, bytes):  # out of a table that somebody has edited
        raise MalformedMessage("malformed", "not an entry of an event log")
    fields = codec.unpack(data, max_bytes=MAX_ENTRY)
    types = [int, int, int, str, float, str, bytes, bytes, bytes, bytes]
    if not isinstance(fields, list) or [type(item) for item in fields] != types or fields[0] != VERSION:
        raise MalformedMessage("malformed", "not an entry of an event log")
    entry = Entry(*fields[1:])
    if entry.encode() != data:
        # Other bytes of the same content would pass the hash, which is over our own encoding.
        raise MalformedMessage("malformed", "an entry is not encoded as it was written")
    return entry


def hash_encoded(data: bytes) -> bytes:
    """What the hash has to be of an entry that is encoded so (`Entry.encode`): its list without the last item."""
    return sha256(_WITHOUT_HASH + data[1:-_ENCODED_HASH]).digest()


def verify(entries: Iterable[Entry], *, whole_journal: bool = False) -> Iterator[Entry]:
    """Yield each entry once it is known to be as it was written.

    Args:
        whole_journal: the entries are all of a journal, so that the link across experiments is checked too.

    Raises:
        LogBroken: names the first entry whose content, place or link was changed.
    """
    check = ChainCheck(whole_journal=whole_journal)
    for entry in entries:
        check.take_entry(entry)
        yield entry


def name_entry(entry: Entry) -> str:
    """How a person finds it."""
    return f"entry {entry.index} of {entry.experiment} (journal number {entry.number})"


def check_hash(entry: Entry) -> None:
    """LogBroken where an entry's content is not what its hash is of."""
    if entry.computed_hash() != entry.hash:
        raise LogBroken("its content was changed: the hash does not match", where=name_entry(entry))


class ChainCheck:
    """What `verify` checks, entry by entry.

    Args:
        whole_journal: as there.
    """

    def __init__(self, *, whole_journal: bool = False) -> None:
        self._whole = whole_journal
        self._last: dict[str, Entry] = {}
        self._before: Entry | None = None

    def take_entry(self, entry: Entry, *, hash_holds: bool = False) -> None:
        """LogBroken where an entry does not follow from those that were taken. `hash_holds`: its hash was checked."""
        where, before = name_entry(entry), self._before
        if not hash_holds:
            check_hash(entry)
        previous = self._last.get(entry.experiment)
        if entry.index != (previous.index + 1 if previous else 1):
            raise LogBroken(f"entries are missing before it (after {previous.index if previous else 0})", where=where)
        if entry.previous != (previous.hash if previous else ZERO):
            raise LogBroken("it does not follow from the entry before it: that one was replaced", where=where)
        if self._whole:
            if entry.number != (before.number + 1 if before else 1):
                raise LogBroken("entries of the journal are missing before it", where=where)
            if entry.before != (before.hash if before else ZERO):
                raise LogBroken("it does not follow from the journal's entry before it", where=where)
        self._last[entry.experiment] = self._before = entry


def write_export(path: Path, entries: Iterable[Entry]) -> int:
    """Write entries to one file that verifies alone; returns how many. Written beside and moved, never half."""
    count, last = 0, ZERO
    try:
        with writing_beside(path) as part, part.open("wb") as file:
            file.write(MAGIC)
            for entry in entries:
                data = entry.encode()
                file.write(len(data).to_bytes(4, "big") + data)
                count, last = count + 1, entry.hash
            file.write(_closing_record(count, last))
    except OSError as error:
        raise ConfigError(f"cannot be written ({error.strerror})", where=str(path)) from None
    return count


def _closing_record(count: int, last: bytes) -> bytes:
    """What an export ends with, so that a file cut off between two entries is noticed.

    A length of 0 (no entry has it), then the number of entries, the last one's hash, and the place of the signed head.
    """
    return bytes(4) + codec.pack([VERSION, count, last, b""])


def read_export(path: Path) -> Iterator[Entry]:
    """Read an exported log entry by entry.

    Raises:
        ConfigError: the file cannot be read or is no exported log.
        LogBroken: it is cut off, or an entry cannot be read; names its place.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(path)) from None
    with file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ConfigError("is not an exported event log", where=str(path), advice="Use `konsil audit export`")
        position, last = 0, ZERO
        for where, data in read_framed(file, f"{path}, entry", MAX_ENTRY):
            position += 1
            try:
                entry = decode_entry(data)
            except MalformedMessage:
                raise LogBroken("its content was changed: it cannot be read", where=where) from None
            last = entry.hash
            yield entry
        expected = _closing_record(position, last)
        if bytes(4) + file.read(len(expected)) != expected:
            raise LogBroken(
                "the record that closes it was changed, or entries before it were taken out",
                where=f"{path}, after entry {position}",
            )


def read_framed(file: BinaryIO, where: str, most: int) -> Iterator[tuple[str, bytes]]:
    """What an exported log consists of: lengths in four bytes, each with so many bytes; up to a length of 0.

    Yields where each one stands, and its bytes. The record that closes the file is left to the reader.

    Args:
        where: before each one's number, from 1.
        most: bytes of one, at most.

    Raises:
        LogBroken: the file is cut off, or a length was changed.
    """
    place = 0
    while (head := file.read(4)) != bytes(4):
        place += 1
        length = int.from_bytes(head, "big")
        data = file.read(length) if len(head) == 4 and length <= most else b""
        if len(head) < 4 or len(data) < length or not data:
            raise LogBroken("the file is cut off or a length in it was changed", where=f"{where} {place}")
        yield f"{where} {place}", data
