"""What proves one experiment's log: out of the whole journal, as the records of an export (`messages.log.exports`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.record.heads import HEAD, PublishedHead, mark_of, read_published, read_witnessed
from messages import chain, codec
from messages.chain import MAX_ENTRY, Entry
from messages.ground.errors import MalformedMessage
from messages.kinds import HeadWitnessed
from messages.log import exports
from messages.log.examining import REGISTER, TERM, register_in
from messages.log.exports import LogRecord
from messages.log.heads import add_cosignatures, check_cosignature
from messages.log.tree import Tree, hash_leaf
from messages.trust.notes import NoteSignature, read_note
from messages.trust.register import Register, parse_register


@dataclass
class JournalEvidence:
    """One pass over a journal's entries.

    Attributes:
        entries: of the experiment.
        beside: starts of the coordinator, and the operator's registers.
        heads: all that were published, by size.
        marks: size of a head → site and key → its cosignature.
        whole: whether no entry of the journal is missing from the first on, so that its tree is known.
    """

    experiment: str
    entries: list[Entry] = field(default_factory=list)
    beside: list[Entry] = field(default_factory=list)
    heads: dict[int, PublishedHead] = field(default_factory=dict)
    marks: dict[int, dict[tuple[str, bytes], NoteSignature]] = field(default_factory=dict)
    tree: Tree = field(default_factory=Tree)
    whole: bool = True
    register: Register | None = None

    def note_mark(self, site: str, body: HeadWitnessed, time: float) -> None:
        """Keep a site's cosignature, where it holds."""
        head, mark = self.heads.get(body.size), mark_of(site, body)
        if head is None or self.register is None:
            return
        if check_cosignature(read_note(head.note).text, mark, self.register.keys_of(site, time)) is not None:
            self.marks.setdefault(body.size, {})[site, mark.key_id] = mark

    def list_marks(self, head: PublishedHead, register: Register | None, time: float) -> list[NoteSignature]:
        """The cosignatures under a head that hold by the register and the time at its place: one of a site."""
        text, found = read_note(head.note).text, dict[str, NoteSignature]()
        for (site, _key), mark in self.marks.get(head.size, {}).items():
            keys = () if register is None else register.keys_of(site, time)
            if check_cosignature(text, mark, keys) is not None:
                found[site] = mark
        return list(found.values())

    @property
    def proves(self) -> bool:
        """Whether heads cover something of the experiment."""
        return self.whole and bool(self.entries) and any(size >= self.entries[0].number for size in self.heads)


def gather_evidence(entries: Iterable[Entry], experiment: str) -> JournalEvidence:
    """What the journal's entries, in their order, hold of an experiment and of the heads."""
    found = JournalEvidence(experiment)
    for entry in entries:
        found.whole = found.whole and entry.number == found.tree.size + 1
        found.tree.append_leaf(hash_leaf(entry.encode()))
        if entry.experiment == experiment:
            found.entries.append(entry)
        elif entry.type in (TERM, REGISTER):
            found.beside.append(entry)
            found.register = read_register_of(entry) or found.register
        elif entry.type == HEAD and (head := read_published(entry)) is not None:
            found.heads[head.size] = head
        elif (said := read_witnessed(entry)) is not None:
            found.note_mark(*said, entry.time)
    return found


def read_register_of(entry: Entry) -> Register | None:
    """The register that an entry brought, as it stands there; None: it brought none."""
    try:
        data = register_in(entry.type, codec.unpack(entry.body, max_bytes=MAX_ENTRY))
        return None if data is None else parse_register(read_note(data))
    except (MalformedMessage, AttributeError):
        return None


def list_records(found: JournalEvidence, origin: str) -> Iterator[LogRecord]:
    """The records of an export, the newest head last that covers an entry, or begins behind the last one."""
    yield LogRecord(exports.LOG, 1, experiment=found.experiment, origin=origin)
    newest, reached = max(found.heads), 0
    first = found.entries[0].number
    # What was in force as the experiment began, and what came later.
    began = {one.type: one for one in found.beside if one.number < first}
    beside = [*began.values(), *(one for one in found.beside if one.number > first)]
    items: list[tuple[int, int, Entry | PublishedHead]] = [(one.number, 0, one) for one in found.entries]
    items += [(one.number, 0, one) for one in beside if one.number <= newest]
    items += [(size, 1, head) for size, head in found.heads.items() if size >= first]
    own = {one.number for one in found.entries}
    register: Register | None = None
    time = 0.0
    for place, (number, _order, item) in enumerate(sorted(items, key=lambda one: one[:2]), 2):
        start = number if isinstance(item, PublishedHead) else number - 1
        gap = b"".join(found.tree.hash_gap(reached, start)) if number <= newest else b""
        reached = number
        if isinstance(item, PublishedHead):
            note = add_cosignatures(read_note(item.note), found.list_marks(item, register, time))
            yield LogRecord(exports.HEAD, place, gap, data=note.encode())
        else:
            type_ = exports.ENTRY if number in own else exports.BESIDE
            if type_ == exports.BESIDE:
                register = read_register_of(item) or register
            time = item.time
            yield LogRecord(type_, place, gap, item)


def write_evidence(out: Path, entries: Iterable[Entry], experiment: str) -> tuple[int, int, Entry | None]:
    """Write one experiment's log to a file, with the heads that prove it where the journal has such.

    Args:
        entries: the journal's, in their order.

    Returns:
        How many entries it has, the size of its newest head (0: none), and its last entry (None: nothing was written).

    Raises:
        LogBroken: an entry was changed or is missing.
    """
    found = gather_evidence(entries, experiment)
    if not found.entries:
        return 0, 0, None
    own, newest = list(chain.verify(found.entries)), max(found.heads, default=0)
    if not found.proves:
        return chain.write_export(out, own), 0, own[-1]
    origin = found.heads[newest].note.split(b"\n", 1)[0].decode()
    return exports.write_records(out, list_records(found, origin), newest), newest, own[-1]
