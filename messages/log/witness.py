"""What a site makes of a head that it is shown: does it follow from all that the site saw? Pure.

| shown | it is |
|---|---|
| a head that is proven to follow from the newest one that was seen; or the first one ever | `FOLLOWS`: to be cosigned |
| a head that was seen, or an older one under the same term | `KNOWN` |
| a head whose proof begins elsewhere | `GAP`: the site asks for one that begins at its own |
| another root of a size that was seen; a proof that fails; a shorter log under a higher term | `FORKED` |
| one of these, and the operator's word that the log was restored, which the head follows from | `DECLARED` |

Of a forked log both heads are kept as proof, until the operator declares the fork.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from messages.ground.errors import MalformedMessage
from messages.log.forks import DeclaredFork, read_fork
from messages.log.heads import Head, KeysOf, list_witnesses, open_head, read_head
from messages.log.tree import verify_consistency
from messages.names import COORDINATOR
from messages.trust.notes import MOST_SIGNATURES, read_note

KEPT = 64
"""Heads that a site keeps."""
KEPT_OPENINGS = 512
"""Experiments whose last openings it keeps: more than a coordinator can open here to have one forgotten unseen."""
MOST_COSIGNERS = MOST_SIGNATURES - 4
"""Cosigners that are waited for at the most: a note also holds the coordinator's own signatures, of keys that overlap,
and perhaps one's own."""


class HeadFinding(StrEnum):
    """What a head turned out to be."""

    FOLLOWS = "follows"
    KNOWN = "known"
    GAP = "gap"
    FORKED = "forked"
    DECLARED = "declared"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class Shown:
    """A head as it was shown.

    Attributes:
        note: the signed head.
        old_size, proof: where the consistency proof begins, and the proof.
        term: of the coordinator that says it.
        place: experiment, round and opening that follow right after it; None: nothing.
        witnessed, witness_proof: the head of the opening before, with its cosignatures, and that this one follows.
        fork, fork_proof: the operator's word for a restored log, and that this head follows from it.
    """

    note: bytes
    old_size: int
    proof: tuple[bytes, ...]
    term: int
    place: tuple[str, int, int] | None = None
    witnessed: bytes = b""
    witness_proof: tuple[bytes, ...] = ()
    fork: bytes = b""
    fork_proof: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Opening:
    """The last opening of an experiment whose head was seen.

    Attributes:
        size: of that head.
        before: size of the head of the opening before it; None: that was not seen.
        witnesses: who cosigned a head of that size or more, which the newest head follows from.
    """

    round: int
    opening: int
    size: int
    before: int | None = None
    witnesses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """What a site has seen of the log.

    Attributes:
        heads: notes by size.
        term: under which the newest one was said.
        openings: by experiment.
        proof: the two heads of a forked log; empty: none was seen.
        forks: terms of the declared forks that were seen, told for ever.
        gap: a head was shown that nothing has proven yet.
    """

    heads: Mapping[int, bytes] = field(default_factory=dict)
    term: int = 0
    openings: Mapping[str, Opening] = field(default_factory=dict)
    proof: tuple[bytes, ...] = ()
    forks: tuple[int, ...] = ()
    gap: bool = False

    @property
    def size(self) -> int:
        """Of the newest head that was seen; 0: none."""
        return max(self.heads, default=0)


def judge_head(seen: Seen, shown: Shown, origin: str, operator: bytes, keys_of: KeysOf) -> tuple[Seen, HeadFinding]:
    """What is seen after a head was shown, and what it turned out to be. Never raises, whatever is shown."""
    try:
        head, note = open_head(shown.note, origin, keys_of(COORDINATOR))
        fork = read_fork(shown.fork, origin, operator) if shown.fork else None
        earlier = open_head(shown.witnessed, origin, keys_of(COORDINATOR)) if shown.witnessed else None
    except MalformedMessage:
        return seen, HeadFinding.UNUSABLE
    finding = HeadFinding.FORKED if seen.proof else _follow(seen, shown, head, origin)
    if fork is not None and fork.term not in seen.forks:
        if finding in (HeadFinding.FORKED, HeadFinding.GAP) and _follows_fork(shown, head, fork):
            seen, finding = replace(seen, heads={}, proof=(), openings={}), HeadFinding.DECLARED
        if finding in (HeadFinding.FOLLOWS, HeadFinding.DECLARED):
            seen = replace(seen, forks=(*seen.forks, fork.term))
    if finding is HeadFinding.FORKED and not seen.proof:
        return replace(seen, proof=(seen.heads.get(head.size, seen.heads[seen.size]), note.encode())), finding
    if finding is HeadFinding.GAP:
        return replace(seen, gap=True), finding
    if finding in (HeadFinding.FOLLOWS, HeadFinding.DECLARED):
        heads = {**seen.heads, head.size: note.encode()}
        kept = {size: heads[size] for size in sorted(heads)[-KEPT:]}
        seen = replace(seen, heads=kept, term=max(seen.term, shown.term), gap=False)
    if head.size in seen.heads and finding is not HeadFinding.FORKED and shown.place is not None:
        told = None
        if earlier is not None:
            old, signed = earlier
            if verify_consistency(old.size, old.root, head.size, head.root, shown.witness_proof):
                told = (old.size, tuple(sorted(list_witnesses(signed, keys_of))))
        seen = _note_opening(seen, shown.place, head.size, told)
    return seen, finding


def _follow(seen: Seen, shown: Shown, head: Head, origin: str) -> HeadFinding:
    if not seen.heads:
        return HeadFinding.FOLLOWS  # there is nothing to hold the first one against
    if head.size in seen.heads:
        return HeadFinding.KNOWN if read_head(read_note(seen.heads[head.size]), origin) == head else HeadFinding.FORKED
    if head.size < seen.size:
        return HeadFinding.FORKED if shown.term > seen.term else HeadFinding.KNOWN
    if shown.old_size != seen.size:
        return HeadFinding.GAP
    old = read_head(read_note(seen.heads[seen.size]), origin)
    follows = verify_consistency(old.size, old.root, head.size, head.root, shown.proof)
    return HeadFinding.FOLLOWS if follows else HeadFinding.FORKED


def _follows_fork(shown: Shown, head: Head, fork: DeclaredFork) -> bool:
    proven = verify_consistency(fork.size, fork.root, head.size, head.root, shown.fork_proof)
    return proven and shown.term >= fork.term


def _note_opening(seen: Seen, place: tuple[str, int, int], size: int, told: tuple[int, tuple[str, ...]] | None) -> Seen:
    name, round_, opening = place
    last = seen.openings.get(name)
    again = last is not None and (round_, opening) == (last.round, last.opening)
    if last is not None and not again and ((round_, opening) < (last.round, last.opening) or size <= last.size):
        return seen  # a later opening is itself in the log, so its head covers more than that of the one before
    before = last.before if last is not None and again else None if last is None else last.size
    enough = told is not None and before is not None and told[0] >= before
    now = Opening(round_, opening, size, before, told[1] if told is not None and enough else ())
    openings = {key: one for key, one in seen.openings.items() if key != name} | {name: now}
    return replace(seen, openings={key: openings[key] for key in list(openings)[-KEPT_OPENINGS:]})


def find_doubt(
    seen: Seen, place: tuple[str, int, int], others: tuple[str, ...], quorum: int, *, required: bool
) -> bool:
    """Whether a site should wait before it takes on what is opened there.

    Args:
        others: the experiment's other sites that have a key. Of fewer than two nothing is asked.
        quorum: sites that a round needs.
        required: the consortium requires signatures; else only a gap keeps the site waiting.

    The site waits as long as a head is unproven. Where signatures are required it also waits for the opening's own
    head, that of no other one, and for quorum - 1 other sites that cosigned the head of the opening before.
    """
    if seen.gap or not required:
        return seen.gap
    name, round_, opening = place
    last = seen.openings.get(name)
    if last is None or (last.round, last.opening) != (round_, opening):
        return True
    if last.before is None or len(others) < 2:
        return False
    return len(set(last.witnesses) & set(others)) < min(quorum - 1, len(others), MOST_COSIGNERS)
