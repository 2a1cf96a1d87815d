"""Whether an exported log is as it was written: chain, tree, heads, witnesses, and the signatures of events in it.

One pass, in little memory. The first entry that does not hold is named; where only a head does not fit, the entries
between the last head that fits and this one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing as closed_at_end
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from messages.chain import ChainCheck, Entry, name_entry
from messages.ground.errors import LogBroken, MalformedMessage, RequestError
from messages.log import exports
from messages.log.cores import count_processes, examine_in_order
from messages.log.examining import REGISTER, TERM, Examined, Extract, extract_nothing
from messages.log.exports import LogRecord
from messages.log.heads import Head, check_cosignature, origin_of, read_head
from messages.log.tree import Frontier
from messages.log.views import SaidView, ShownOpening, SplitView, ViewCheck
from messages.names import COORDINATOR
from messages.trust.notes import Note, read_note
from messages.trust.register import Register, check_successor, parse_register, read_register

Look = Callable[[Entry, Any], None]


@dataclass(frozen=True, slots=True)
class HeadCheck:
    """A head that holds, and who cosigned it, when by their clocks."""

    head: Head
    witnesses: dict[str, int]


@dataclass(frozen=True, slots=True)
class TermJump:
    """A term that does not follow from the one before: the journal was restored, or cut, or somebody else wrote on.

    `entry`: journal number of the entry with which it begins.
    """

    entry: int
    before: int
    term: int


@dataclass(frozen=True, slots=True)
class Revocation:
    """A key that the operator revoked: from this journal number on nothing is believed that it signs after a moment.

    `entry`: journal number of the register that says so; `key`: 64 hex digits; `since`: the moment.
    """

    entry: int
    name: str
    key: str
    since: float


@dataclass
class LogVerdict:
    """What a verification found; a log that does not hold raises instead.

    Attributes:
        counts: experiment → its entries.
        last: without its body.
        heads: all of them, the newest last; none in a file of form 1.
        uncovered: the experiment's entries behind the newest head, which only the chain links.
        by_party: sender → its events with a signature, which was checked, and without one.
        jumps: terms in it that do not follow.
        revoked: keys that a register in it revoked which an earlier one did not.
        views: words of sites that were shown something else than the log has.
        roster: sites that joined, by their signed word.
        register: the newest one in the log; None: there is none.
        pinned: whether the registers were held against the operator's key that the caller named.
    """

    counts: dict[str, int] = field(default_factory=dict)
    last: Entry | None = None
    heads: list[HeadCheck] = field(default_factory=list)
    uncovered: int = 0
    by_party: dict[str, tuple[int, int]] = field(default_factory=dict)
    jumps: list[TermJump] = field(default_factory=list)
    revoked: list[Revocation] = field(default_factory=list)
    views: list[SplitView] = field(default_factory=list)
    roster: set[str] = field(default_factory=set)
    register: Register | None = None
    pinned: bool = False

    @property
    def signed(self) -> int:
        """Events with a signature."""
        return sum(one for one, _other in self.by_party.values())

    @property
    def unsigned(self) -> int:
        """Events without one."""
        return sum(other for _one, other in self.by_party.values())

    @property
    def behind(self) -> dict[str, int]:
        """Sites of the roster that have not witnessed the newest head that one of them did → the last that each did, by
        its size; 0: none."""
        last = {
            site: max((one.head.size for one in self.heads if site in one.witnesses), default=0) for site in self.roster
        }
        return {site: size for site, size in sorted(last.items()) if size < max(last.values())}

    @property
    def newest(self) -> HeadCheck | None:
        """The newest head."""
        return self.heads[-1] if self.heads else None


def verify_export(
    path: Path,
    operator: bytes | None = None,
    kept: Note | None = None,
    look: Look = lambda entry, extracted: None,
    extract: Extract = extract_nothing,
    processes: int | None = None,
    verdict: LogVerdict | None = None,
) -> LogVerdict:
    """Check an exported log of either form.

    Args:
        operator: the operator's public key, known from elsewhere; None: registers are taken as they stand in the log.
        kept: a head that somebody kept, a site for example; the log must not contradict it, nor be shorter.
        look: is given each entry of the experiment once it holds, without its body, and what `extract` made of it.
        extract: what `look` wants of an entry.
        processes: that examine records; None: as many as the file and the machine are good for.
        verdict: an empty one to be filled: where the log does not hold, it says what was found before.

    Raises:
        ConfigError: the file cannot be read, or is no exported log.
        LogBroken: it was altered; names the first entry concerned.
        RequestError: the kept head is none of this log.
        WorkFailed: a process that examined records ended.
    """
    form = exports.require_form(path)
    check, closing = ExportCheck(str(path), form, operator, kept, look, verdict), exports.ClosingCheck(form)
    frames = exports.read_frames(path, form)
    processes = count_processes(path) if processes is None else processes
    with closed_at_end(examine_in_order(frames, form, lambda: check.verdict.register, extract, processes)) as found:
        for frame, one in found:
            if any(one.broken):
                what, where = one.broken
                raise LogBroken(what, where=where)
            if one.record is None:
                closing.check_closing(frame)
            else:
                closing.note_record(one.record)
                check.take_record(one.record, one)
    return check.finish()


class ExportCheck:
    """The pass over the records; arguments as in `verify_export`."""

    def __init__(
        self,
        where: str,
        form: int,
        operator: bytes | None,
        kept: Note | None,
        look: Look,
        verdict: LogVerdict | None = None,
    ) -> None:
        self._where, self._form, self._operator, self._kept, self._look = where, form, operator, kept, look
        self.verdict = LogVerdict() if verdict is None else verdict
        self.verdict.pinned = operator is not None
        self._chain, self._tree, self._views = ChainCheck(), Frontier(), ViewCheck()
        self._experiment, self._origin = "", ""
        self._number = 0
        self._term: int | None = None
        self._since: list[Entry] = []
        """The first and the last entry since the last head."""
        self._time = 0.0
        self._behind = False
        """Whether the newest head is passed: what follows is not in any tree."""

    def take_record(self, record: LogRecord, found: Examined) -> None:
        """The next record; LogBroken where it does not hold."""
        if record.type == exports.LOG:
            self._experiment, self._origin = record.experiment, record.origin
        elif record.type == exports.HEAD:
            self._take_head(record)
        elif record.entry is not None:
            self._take_entry(record, record.entry, found)

    def _take_entry(self, record: LogRecord, entry: Entry, found: Examined) -> None:
        beside = record.type == exports.BESIDE
        if not found.hash_holds:  # what it says of itself may be what was changed
            where = f"{self._where}, record {record.place}: {name_entry(entry)}"
            raise LogBroken("its content was changed: the hash does not match", where=where)
        if self._form == exports.FORM and entry.number <= self._number:
            raise LogBroken("it does not stand where it was written", where=name_entry(entry))
        if not beside:
            self._chain.take_entry(entry, hash_holds=True)
        if self._form == exports.FORM:
            if (entry.type not in (TERM, REGISTER)) if beside else (entry.experiment != self._experiment):
                raise LogBroken(f"it is no entry of {self._experiment}", where=name_entry(entry))
            self._grow_tree(record, entry, found.leaf)
        self._number, self._time = entry.number, entry.time
        self._since = [*self._since[:1], entry]
        if found.problem:
            raise LogBroken(found.problem, where=name_entry(entry))
        if beside:
            self._take_register(entry, found.note)
            self._take_term(entry, found.term)
            return
        verdict = self.verdict
        if found.sender:
            signed, unsigned = verdict.by_party.get(found.sender, (0, 0))
            verdict.by_party[found.sender] = (signed + found.signed, unsigned + (not found.signed))
        verdict.counts[entry.experiment] = verdict.counts.get(entry.experiment, 0) + 1
        verdict.last = entry
        verdict.uncovered += 1
        self._take_view(entry, found.view)
        self._look(entry, found.extracted)

    def _take_view(self, entry: Entry, view: ShownOpening | SaidView | None) -> None:
        if isinstance(view, ShownOpening):
            self._views.note_opening(entry.experiment, view)
        elif view is not None:
            if view.joined:
                self.verdict.roster.add(view.party)
            split = self._views.judge_word(entry.experiment, entry.number, view)
            self.verdict.views += [] if split is None else [split]

    def _grow_tree(self, record: LogRecord, entry: Entry, leaf: bytes) -> None:
        if not self._behind and self._tree.cross_gap(entry.number - 1, record.gap):
            self._tree.push(leaf)
        elif record.gap:
            raise LogBroken("what stands for the entries before it does not fit", where=name_entry(entry))
        else:
            self._behind = True

    def _take_head(self, record: LogRecord) -> None:
        note, where = self._read_note(record), self._name_since()
        try:
            head = read_head(note, self._origin)
        except MalformedMessage as error:
            raise LogBroken(f"the head behind it: {error.what}", where=where) from None
        if self._behind or head.size < self._tree.size or not self._tree.cross_gap(head.size, record.gap):
            raise LogBroken(f"the head of {head.size} entries behind it does not fit its place", where=where)
        if self._tree.root() != head.root:
            raise LogBroken(
                f"the signed head of {head.size} entries has another root: an entry was changed, added or taken out",
                where=where,
            )
        witnesses = self._check_marks(note, head, where)
        self.verdict.heads.append(HeadCheck(head, witnesses))
        self.verdict.uncovered = 0
        self._since = []

    def _read_note(self, record: LogRecord) -> Note:
        try:
            note = read_note(record.data)
        except MalformedMessage:
            note = None
        if note is None or note.encode() != record.data:
            raise LogBroken("the head behind it cannot be read", where=self._name_since())
        return note

    def _check_marks(self, note: Note, head: Head, where: str) -> dict[str, int]:
        """Every signature under a head has to hold, the coordinator's among them."""
        keys_of = self._keys_of
        if not any(note.is_signed_by(self._origin, key) for key in keys_of(COORDINATOR)):
            raise LogBroken(
                f"no key that the register has for the coordinator signed the head of {head.size} entries", where=where
            )
        witnesses: dict[str, int] = {}
        for mark in note.signatures:
            if mark.name == self._origin:
                if not any(Note(note.text, (mark,)).is_signed_by(self._origin, key) for key in keys_of(COORDINATOR)):
                    raise LogBroken(f"a signature under the head of {head.size} entries is not its own", where=where)
                continue
            time = check_cosignature(note.text, mark, keys_of(mark.name))
            if time is None:
                raise LogBroken(f"the cosignature of {mark.name} under that head does not hold", where=where)
            witnesses[mark.name] = time
        return witnesses

    def _keys_of(self, name: str) -> tuple[bytes, ...]:
        register = self.verdict.register
        return () if register is None else register.keys_of(name, self._time)

    def _name_since(self) -> str:
        """The entries that a head may be about: those since the head before."""
        if not self._since:
            return f"{self._where}, journal numbers {self._tree.size + 1} and on"
        first, last = name_entry(self._since[0]), name_entry(self._since[-1])
        return first if first == last else f"{first} to {last}"

    def _take_register(self, entry: Entry, data: bytes | None) -> None:
        if data is None:
            return
        consortium = self._origin.removeprefix(origin_of(""))
        try:
            if self._operator is None:
                register = parse_register(read_note(data), consortium)
            else:
                register = read_register(data, self._operator, consortium)
            if self.verdict.register is not None:
                check_successor(self.verdict.register, register)
        except (MalformedMessage, RequestError) as error:
            raise LogBroken(f"its register cannot be used: {error.what}", where=name_entry(entry)) from None
        before = () if self.verdict.register is None else self.verdict.register.keys
        known = {one.key for one in before if one.revoked is not None}
        for one in register.keys:
            if one.revoked is not None and one.key not in known:
                self.verdict.revoked.append(Revocation(entry.number, one.name, one.key, one.revoked))
        self.verdict.register = register

    def _take_term(self, entry: Entry, term: int | None) -> None:
        before = self._term
        if term is None:
            return
        if before is not None and term <= before:
            raise LogBroken(f"term {term} begins after term {before}", where=name_entry(entry))
        if before is not None and term != before + 1:
            self.verdict.jumps.append(TermJump(entry.number, before, term))
        self._term = term

    def finish(self) -> LogVerdict:
        """What was found, once all records were taken; LogBroken where something is missing."""
        verdict = self.verdict
        if verdict.last is None:
            raise LogBroken("the log holds no entry", where=self._where)
        if self._form == exports.FORM and not verdict.heads:
            raise LogBroken("the log holds no head", where=self._where)
        if self._kept is not None:
            self._compare_kept(self._kept)
        return verdict

    def _compare_kept(self, note: Note) -> None:
        heads = self.verdict.heads
        if not heads:
            raise RequestError("the log has no heads to compare with", where=self._where)
        try:
            kept = read_head(note, self._origin)
        except MalformedMessage:
            raise RequestError(f"the kept head is none of {self._origin}", where=self._where) from None
        if not any(note.is_signed_by(self._origin, key) for key in self._keys_of(COORDINATOR)):
            raise RequestError("the coordinator did not sign the kept head", where=self._where)
        newest = heads[-1].head.size
        if all(one.head != kept for one in heads):
            cut = f"cut: a head of {kept.size} entries was kept, and its newest is of {newest}"
            forked = f"forked: the head of {kept.size} entries that was kept is none of its"
            where = f"{self._where}, behind journal number {min(kept.size, newest)}"
            raise LogBroken(f"the log was {cut if kept.size > newest else forked}", where=where)
