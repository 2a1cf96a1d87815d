"""The journal's Merkle tree, the heads that the coordinator signed of it, and who cosigned them.

A head is an entry itself, so that each of them stands in the log for ever: of type `head`, with the experiment and the
opening that it was published for. Main loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial

from coordinator.record.journal import STEP
from messages import codec, envelope
from messages.chain import MAX_ENTRY, Entry
from messages.ground.errors import MalformedMessage
from messages.ground.naming import NO_EXPERIMENT
from messages.kinds import HeadWitnessed, LogHead
from messages.log.forks import read_fork
from messages.log.heads import Head, add_cosignatures, check_cosignature, origin_of, sign_head
from messages.log.tree import Tree, hash_leaf
from messages.trust.notes import ID_BYTES, Note, NoteSignature, read_note
from messages.trust.register import Register
from messages.trust.settings import Trust

HEAD = "head"
"""Type of entry."""
FORK = "fork.note"
"""The operator's word that the journal was restored, in the state folder."""
END = 0
"""The opening of a head that is published as its experiment ends."""


@dataclass(frozen=True, slots=True)
class PublishedHead:
    """A head as the journal holds it; `place`: experiment, round and opening that follow right after it."""

    size: int
    note: bytes
    place: tuple[str, int, int]

    def write_body(self) -> dict[str, object]:
        """The body of its entry."""
        experiment, round_, opening = self.place
        return {"size": self.size, "note": self.note, "for": experiment, "round": round_, "opening": opening}


def read_published(entry: Entry) -> PublishedHead | None:
    """The head of an entry of type `head`; None where it cannot be read."""
    try:
        body = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
        return PublishedHead(int(body["size"]), bytes(body["note"]), (body["for"], body["round"], body["opening"]))
    except (MalformedMessage, KeyError, TypeError, ValueError):
        return None


def read_witnessed(entry: Entry) -> tuple[str, HeadWitnessed] | None:
    """Site and body of an entry that holds a `head-witnessed`; None where it holds something else."""
    if entry.type != STEP or entry.experiment != NO_EXPERIMENT:
        return None
    try:
        event = envelope.decode_stored(codec.unpack(entry.body, max_bytes=MAX_ENTRY)["input"]["raw"])
    except (MalformedMessage, KeyError, TypeError):
        return None
    return (event.sender, event.body) if isinstance(event.body, HeadWitnessed) else None


def mark_of(site: str, body: HeadWitnessed) -> NoteSignature:
    """A site's cosignature as a line under a head."""
    return NoteSignature(site, body.cosignature[:ID_BYTES], body.cosignature[ID_BYTES:])


class LogHeads:
    """Makes heads of the whole journal.

    Args:
        register: today's register.
        fork: the operator's note, where the journal was restored; empty: it never was.
        sites_of: the sites of an experiment. A note has no room for more than some sixty cosignatures, and theirs are
            the ones that each other waits for.

    Raises:
        MalformedMessage: the note is not the operator's, or is of another log.
    """

    def __init__(
        self,
        consortium: str,
        trust: Trust,
        fork: bytes = b"",
        register: Callable[[], Register] | None = None,
        sites_of: Callable[[str], Collection[str]] = lambda experiment: (),
    ) -> None:
        self._origin, self._key = origin_of(consortium), trust.key
        self._register: Callable[[], Register] = register or partial(getattr, trust, "register")
        self._sites_of = sites_of
        self._fork = (fork, read_fork(fork, self._origin, trust.operator)) if fork else None
        self.tree = Tree()
        self._last: PublishedHead | None = None
        self._openings: dict[str, list[PublishedHead]] = {}
        """Experiment that runs → its last head, and the one of the opening before."""
        self._ended: set[str] = set()
        self._marks: dict[int, dict[str, NoteSignature]] = {}

    def note_entry(self, entry: Entry) -> None:
        """The journal holds one more entry."""
        self.tree.append_leaf(hash_leaf(entry.encode()))
        if entry.type == HEAD and (head := read_published(entry)) is not None:
            self._note_head(head)
        elif (said := read_witnessed(entry)) is not None:
            self._note_mark(*said, entry.time)

    def _note_head(self, head: PublishedHead) -> None:
        self._last = head
        name = head.place[0]
        if head.place[2] == END:
            self._ended.add(name)
            self._openings.pop(name, None)
        else:
            known = [one for one in self._openings.get(name, []) if one.place < head.place]
            self._openings[name] = [head, *known[:1]]
        used = {one.size for heads in self._openings.values() for one in heads} | {head.size}
        self._marks = {size: marks for size, marks in self._marks.items() if size in used}

    def _note_mark(self, site: str, body: HeadWitnessed, time: float) -> None:
        heads = [one for heads in self._openings.values() for one in heads]
        for head in heads if self._last is None else [*heads, self._last]:
            if head.size != body.size:
                continue
            mark, keys = mark_of(site, body), self._register().keys_of(site, time)
            if check_cosignature(read_note(head.note).text, mark, keys) is not None:
                self._marks.setdefault(head.size, {})[site] = mark
            return

    def is_due(self, experiment: str, opening: int) -> bool:
        """Whether a head belongs before an announcement: before each opening, and once before the end."""
        return opening != END or experiment not in self._ended

    def make_head(self, experiment: str, round_: int, opening: int) -> PublishedHead:
        """Sign a head of all entries; it is to be journaled, then told."""
        head = Head(self._origin, self.tree.size, self.tree.root())
        return PublishedHead(head.size, sign_head(head, self._key).encode(), (experiment, round_, opening))

    @property
    def last_size(self) -> int:
        """Of the last head; 0: there was none."""
        return 0 if self._last is None else self._last.size

    def tell_head(self, head: PublishedHead, old_size: int) -> LogHead:
        """What is said of a head that is journaled: it follows from the first `old_size` entries."""
        _name, _round, opening = head.place
        known = [one for one in self._openings.get(head.place[0], []) if one.place < head.place]
        earlier = known[0] if known else None
        witnessed, fork = b"", self._fork
        if earlier is not None:
            marks, wanted = self._marks.get(earlier.size, {}), self._sites_of(head.place[0])
            first = sorted(marks, key=lambda site: (site not in wanted, site))
            witnessed = add_cosignatures(self._sign_anew(earlier.note), [marks[site] for site in first]).encode()
        old_size = old_size if 0 < old_size <= head.size else 0
        return LogHead(
            note=self._sign_anew(head.note).encode(),
            old_size=old_size,
            proof=self.tree.prove_consistency(old_size, head.size),
            opening=opening,
            witnessed=witnessed,
            witness_proof=[] if earlier is None else self.tree.prove_consistency(earlier.size, head.size),
            fork=b"" if fork is None else fork[0],
            fork_proof=[] if fork is None else self.tree.prove_consistency(min(fork[1].size, head.size), head.size),
        )

    def _sign_anew(self, data: bytes) -> Note:
        """A head's note with the signature of the key that is ours today: an earlier one may be revoked by now. In the
        journal the head stays as it was."""
        note = read_note(data)
        mine = note.is_signed_by(self._origin, self._key.public)
        return note if mine else note.with_signature(self._origin, self._key)

    def tell_from(self, size: int) -> Iterable[tuple[PublishedHead, LogHead]]:
        """What a site is told that has seen the log up to a size: the newest head of each experiment that runs, and the
        last one. Those that it lacks are proven, each from the one before."""
        if self._last is None:
            return
        newest = [one for heads in self._openings.values() for one in heads[:1]]
        heads = {one.size: one for one in (*newest, self._last)}
        for one in sorted(heads):  # those that it knows too: who cosigned them may be news
            yield heads[one], self.tell_head(heads[one], size if one > size else 0)
            size = max(size, one)
