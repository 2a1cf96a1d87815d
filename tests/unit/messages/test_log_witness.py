"""What a site makes of a head that it is shown (`messages.log.witness`), case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest
from trusted import TrustKit

from messages.ground.errors import MalformedMessage
from messages.log.forks import DeclaredFork, read_fork, sign_fork
from messages.log.heads import Head, add_cosignatures, cosign_head, open_head, origin_of, read_head, sign_head
from messages.log.tree import Tree, hash_leaf
from messages.log.witness import HeadFinding, Opening, Seen, Shown, find_doubt, judge_head
from messages.trust.notes import Note, read_note

KIT = TrustKit(("site-a", "site-b", "site-c"))
ORIGIN = origin_of("demo")
OPERATOR = KIT.operator.public
KEY = KIT.key_of("coordinator")


def keys_of(name: str) -> tuple[bytes, ...]:
    return KIT.register.keys_of(name, 1.0)


def grown(count: int, word: str = "entry") -> Tree:
    tree = Tree()
    for number in range(count):
        tree.append_leaf(hash_leaf(f"{word} {number}".encode()))
    return tree


LOG = grown(40)


def shown(size: int, old: int = 0, tree: Tree = LOG, **changes: object) -> Shown:
    note = sign_head(Head(ORIGIN, size, tree.root(size)), KEY).encode()
    given = Shown(note, old, tuple(tree.prove_consistency(old, size)), term=1)
    return replace(given, **changes)  # type: ignore[arg-type]


def judge(seen: Seen, given: Shown) -> tuple[Seen, HeadFinding]:
    return judge_head(seen, given, ORIGIN, OPERATOR, keys_of)


SEEN_20, _ = judge(Seen(), shown(20))


def test_the_first_head_is_believed_and_later_ones_have_to_follow_from_it() -> None:
    seen, finding = judge(Seen(), shown(20))
    assert (finding, seen.size) == (HeadFinding.FOLLOWS, 20)
    seen, finding = judge(seen, shown(30, 20))
    assert (finding, seen.size) == (HeadFinding.FOLLOWS, 30)
    assert judge(seen, shown(30, 20)) == (seen, HeadFinding.KNOWN)


def test_another_root_or_a_proof_that_fails_is_a_fork_and_both_heads_are_kept() -> None:
    other = grown(40, "else")
    for given in (shown(20, tree=other), shown(30, 20, tree=other)):
        seen, finding = judge(SEEN_20, given)
        assert finding is HeadFinding.FORKED
        assert seen.proof == (SEEN_20.heads[20], given.note)
        assert judge(seen, shown(30, 20))[1] is HeadFinding.FORKED, "it is never forgotten"


def test_a_proof_that_begins_elsewhere_leaves_a_gap_until_one_begins_at_the_newest_head() -> None:
    seen, finding = judge(SEEN_20, shown(35, 30))
    assert (finding, seen.gap, seen.size) == (HeadFinding.GAP, True, 20)
    seen, finding = judge(seen, shown(35, 20))
    assert (finding, seen.gap, seen.size) == (HeadFinding.FOLLOWS, False, 35)


def test_a_shorter_log_is_old_news_under_the_same_term_and_a_fork_under_a_higher_one() -> None:
    assert judge(SEEN_20, shown(10))[1] is HeadFinding.KNOWN
    assert judge(SEEN_20, shown(10, term=2))[1] is HeadFinding.FORKED


def test_what_the_coordinator_did_not_sign_or_is_of_another_log_changes_nothing() -> None:
    stranger = sign_head(Head(ORIGIN, 30, LOG.root(30)), KIT.key_of("site-a")).encode()
    elsewhere = sign_head(Head("konsil/other", 30, LOG.root(30)), KEY).encode()
    for note in (stranger, elsewhere, b"", b"\xff", shown(30).note[:-3]):
        assert judge(SEEN_20, shown(30, 20, note=note)) == (SEEN_20, HeadFinding.UNUSABLE)


def test_the_operators_word_lets_a_restored_log_go_on_and_nobody_elses_does() -> None:
    restored = grown(12)
    for number in range(10):
        restored.append_leaf(hash_leaf(f"after {number}".encode()))
    fork = DeclaredFork(ORIGIN, 2, 12, restored.root(12))
    proof = tuple(restored.prove_consistency(12, 22))
    given = shown(22, 12, tree=restored, term=2, fork=sign_fork(fork, KIT.operator), fork_proof=proof)
    seen, finding = judge(SEEN_20, given)
    assert (finding, seen.forks, seen.size) == (HeadFinding.DECLARED, (2,), 22)
    forked, _finding = judge(SEEN_20, shown(20, tree=grown(40, "else")))
    assert judge(forked, given)[1] is HeadFinding.DECLARED
    assert judge(SEEN_20, replace(given, fork=sign_fork(fork, KEY)))[1] is HeadFinding.UNUSABLE
    later = DeclaredFork(ORIGIN, 3, 12, restored.root(12))
    assert judge(SEEN_20, replace(given, fork=sign_fork(later, KIT.operator)))[1] is not HeadFinding.DECLARED
    with pytest.raises(MalformedMessage):
        read_fork(sign_fork(fork, KIT.operator), "konsil/other", OPERATOR)


def test_cosigners_count_only_for_a_head_as_new_as_the_opening_before() -> None:
    seen = replace(SEEN_20, openings={"exp-1": Opening(1, 1, 20)})

    def witnessed(size: int, *sites: str) -> dict[str, object]:
        note = sign_head(Head(ORIGIN, size, LOG.root(size)), KEY)
        marks = [cosign_head(note.text, site, KIT.key_of(site), 7) for site in sites]
        proof = tuple(LOG.prove_consistency(size, 30))
        return {"witnessed": add_cosignatures(note, marks).encode(), "witness_proof": proof, "place": ("exp-1", 2, 1)}

    others, place = ("site-b", "site-c"), ("exp-1", 2, 1)
    enough, _finding = judge(seen, shown(30, 20, **witnessed(20, "site-b", "site-c")))
    assert enough.openings["exp-1"].witnesses == ("site-b", "site-c")
    assert not find_doubt(enough, place, others, 3, required=True)
    for given in (witnessed(20, "site-b"), witnessed(10, "site-b", "site-c"), {"place": place}):
        few, _finding = judge(seen, shown(30, 20, **given))
        assert find_doubt(few, place, others, 3, required=True)
        assert not find_doubt(few, place, others, 3, required=False)
        assert not find_doubt(few, place, ("site-b",), 3, required=True), "of one other site nothing is asked"
    assert find_doubt(enough, ("exp-1", 3, 1), others, 3, required=True), "its own head did not come"
    assert find_doubt(replace(enough, gap=True), place, others, 3, required=False)


@pytest.mark.parametrize("text", ["", "a\nb\nc\n", "konsil/demo\n01\n{root}\n", "konsil/demo\n1\n{root}\nmore\n"])
def test_a_head_is_written_in_one_way(text: str) -> None:
    root = Head(ORIGIN, 1, bytes(32)).write_text().split("\n")[2]
    with pytest.raises(MalformedMessage):
        read_head(Note(text.format(root=root)), ORIGIN)


def test_a_cosignature_is_worth_nothing_as_a_signature_or_under_another_head() -> None:
    note = sign_head(Head(ORIGIN, 20, LOG.root(20)), KEY)
    mark = cosign_head(note.text, ORIGIN, KEY, 7)
    with pytest.raises(MalformedMessage):
        open_head(Note(note.text, (mark,)).encode(), ORIGIN, [KEY.public])
    assert read_note(note.encode()) == note


def cosigned(size: int, newer: int, *sites: str) -> dict[str, object]:
    """A head that these sites cosigned, and that one of `newer` entries follows from it."""
    note = sign_head(Head(ORIGIN, size, LOG.root(size)), KEY)
    marks = [cosign_head(note.text, site, KIT.key_of(site), 7) for site in sites]
    proof = tuple(LOG.prove_consistency(size, newer))
    return {"witnessed": add_cosignatures(note, marks).encode(), "witness_proof": proof}


def test_the_head_of_an_earlier_opening_does_not_do_for_a_later_one() -> None:
    """A coordinator with a second log shows the site one head of the first for ever."""
    seen, _finding = judge(Seen(), shown(20, place=("exp-1", 1, 1)))
    for number in (2, 3):
        place = ("exp-1", number, 1)
        seen, finding = judge(seen, shown(20, place=place, **cosigned(20, 20, "site-b", "site-c")))
        assert finding is HeadFinding.KNOWN
        assert find_doubt(seen, place, ("site-b", "site-c"), 3, required=True)
    seen, _finding = judge(seen, shown(30, 20, place=("exp-1", 2, 1), **cosigned(20, 30, "site-b", "site-c")))
    assert not find_doubt(seen, ("exp-1", 2, 1), ("site-b", "site-c"), 3, required=True)


def test_the_head_of_a_later_opening_does_not_do_for_earlier_ones() -> None:
    """One head for round 1,000,000 would take the place of all that come before."""
    seen, _finding = judge(Seen(), shown(20, place=("exp-1", 1, 1)))
    seen, _finding = judge(seen, shown(30, 20, place=("exp-1", 10**6, 1)))
    for number in (1, 2, 3):
        assert find_doubt(seen, ("exp-1", number, 1), ("site-b", "site-c"), 3, required=True)


def test_more_cosigners_than_a_note_can_hold_are_not_asked_for() -> None:
    sites = tuple(f"site-{number:03}" for number in range(80))
    signed = cosigned(20, 30, *sites[1:])
    seen, _finding = judge(Seen(), shown(20, place=("exp-1", 1, 1)))
    crowd = TrustKit(sites)
    given = shown(30, 20, place=("exp-1", 2, 1), **signed)
    seen, _finding = judge_head(seen, given, ORIGIN, OPERATOR, lambda name: crowd.register.keys_of(name, 1.0))
    for site in (sites[0], sites[1], sites[79]):
        others = tuple(one for one in sites if one != site)
        assert not find_doubt(seen, ("exp-1", 2, 1), others, 80, required=True)
