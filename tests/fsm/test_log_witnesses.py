"""Sites as witnesses: the real coordinator and the real agents in virtual time, and a coordinator with two logs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import CONSORTIUM, plain
from trusted import TrustKit
from virtual_consortium import VirtualConsortium

from coordinator.record.forking import declare_fork
from coordinator.record.heads import HEAD, mark_of, read_published, read_witnessed
from coordinator.record.journal_file import open_readonly
from coordinator.record.salvage import raise_term
from messages import envelope, kinds
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBus
from messages.envelope import Author
from messages.ground.clock import SystemClock
from messages.ground.virtual.clock import VirtualClock
from messages.log.heads import Head, check_cosignature, open_head, origin_of, sign_head
from messages.log.tree import Tree, hash_leaf, verify_consistency
from site_agent.disk.seen_log import read_seen

ORIGIN = origin_of(CONSORTIUM)
VICTIM = "site-b"
CASES = {"site-a": 28, "site-b": 42, "site-c": 56}
Lie = Callable[[kinds.LogHead, envelope.Event], kinds.LogHead]


class TwoFaced(MemoryBus):
    """The victim's connection: what the coordinator shows it of the log is something else."""

    lie: Lie | None = None

    def subscribe(self, queue: str, on_delivery: Any, **settings: Any) -> Any:
        def deliver(delivery: Delivery) -> None:
            body = delivery.body
            if self.party == VICTIM and self.lie is not None and delivery.key.startswith("log-head."):
                delivery = replace(delivery, body=self._reword(bytes(body), queue))
            on_delivery(delivery)

        return super().subscribe(queue, deliver, **settings)

    def _reword(self, raw: bytes, queue: str) -> bytes:
        event = envelope.decode_event(raw)
        assert isinstance(event.body, kinds.LogHead)
        assert self.lie is not None
        author = Author(CONSORTIUM, "coordinator", event.incarnation, event.term, key=TrustKit.key_of("coordinator"))
        return author.write_event(
            event.kind,
            self.lie(event.body, event),
            time=event.time,
            experiment=event.experiment,
            round_number=event.round,
            attempt=event.attempt,
            seq=event.seq,
            to=VICTIM if queue.startswith("inbox.") else None,
        ).raw


def run(
    folder: Path,
    body: Callable[[VirtualConsortium], Any],
    sites: tuple[str, ...] = ("site-a", "site-b", "site-c"),
    lie: Lie | None = None,
    trust: TrustKit | None = None,
    rounds: int = 3,
) -> Any:
    """Start a consortium and an experiment of a few rounds, of 100 s each; what `body` returns."""
    clock = VirtualClock()
    kit = trust or TrustKit(sites)

    def work() -> Any:
        join = partial(type("Liar", (TwoFaced,), {"lie": staticmethod(lie) if lie else None}))
        consortium = VirtualConsortium(
            folder, clock, lambda site, number: 100.0, sites, kit.write_sections(folder / "keys"), join
        )
        times = {"count": rounds, "enrol_within": 100.0, "train_within": 1000.0, "grace": 50.0}
        experiment = plain(sites=[*sites], rounds=times, quorum={"least_sites": len(sites) - 1})
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=experiment))
        try:
            return body(consortium)
        finally:
            with contextlib.suppress(AssertionError):
                consortium.close()

    return clock.run(work)


def finish(consortium: VirtualConsortium) -> list[dict[str, int]]:
    """Who contributed to each round."""
    consortium.until("experiment-complete", 20_000.0)
    bodies = [one.body for _at, one in consortium.of("round-complete")]
    return [dict(one.contributors) for one in bodies if isinstance(one, kinds.RoundComplete)]


def test_each_opening_is_preceded_by_a_head_that_all_sites_cosign(tmp_path: Path) -> None:
    kit = TrustKit(("site-a", "site-b", "site-c"))
    contributors = run(tmp_path, finish, trust=kit)
    assert contributors == [CASES] * 3
    entries = list(open_readonly(tmp_path / "coordinator"))
    heads = [head for one in entries if one.type == HEAD and (head := read_published(one)) is not None]
    assert [head.place for head in heads] == [
        ("exp-1", 1, 1),
        ("exp-1", 2, 1),
        ("exp-1", 3, 1),
        ("exp-1", 4, 1),
        ("exp-1", 3, 0),
    ]
    tree = Tree()
    for entry in entries:
        tree.append_leaf(hash_leaf(entry.encode()))
    said = [found for one in entries if (found := read_witnessed(one)) is not None]
    for published in heads[:-1]:
        head, note = open_head(published.note, ORIGIN, [kit.key_of("coordinator").public])
        assert head.root == tree.root(head.size)
        cosigned = {site: body for site, body in said if body.size == head.size}
        assert sorted(cosigned) == ["site-a", "site-b", "site-c"]
        for site, body in cosigned.items():
            assert check_cosignature(note.text, mark_of(site, body), [kit.key_of(site).public]) is not None
    kept = read_seen(tmp_path / "site-a")
    assert set(kept.heads) == {one.size for one in heads}
    assert not kept.proof
    assert not kept.gap


def test_without_keys_there_are_no_heads_and_the_journal_is_as_before(tmp_path: Path) -> None:
    clock = VirtualClock()

    def work() -> None:
        consortium = VirtualConsortium(tmp_path, clock, lambda site, number: 10.0)
        consortium.say(
            "experiment-start",
            kinds.ExperimentStart(
                experiment=plain(rounds={"count": 1, "enrol_within": 100.0, "train_within": 1000.0, "grace": 50.0})
            ),
        )
        finish(consortium)
        consortium.close()
        assert not consortium.of("log-head")

    clock.run(work)
    entries = list(open_readonly(tmp_path / "coordinator"))
    assert {one.type for one in entries} == {"step", "term"}
    assert not any(read_witnessed(one) for one in entries)


def other_root(body: kinds.LogHead, event: envelope.Event) -> kinds.LogHead:
    """From round 2 on: a log of the same length with another past."""
    if event.round < 2:
        return body
    head, _note = open_head(body.note, ORIGIN, [TrustKit.key_of("coordinator").public])
    forged = sign_head(Head(ORIGIN, head.size, bytes(32)), TrustKit.key_of("coordinator"))
    return body.model_copy(update={"note": forged.encode()})


SITES_8 = tuple(f"site-{letter}" for letter in "abcdefgh")


@pytest.mark.parametrize("sites", [("site-a", "site-b", "site-c"), SITES_8], ids=["3-sites", "8-sites"])
def test_a_log_that_was_rewritten_for_one_site_is_found_at_once_and_ends_its_part(
    tmp_path: Path, sites: tuple[str, ...]
) -> None:
    def body(consortium: VirtualConsortium) -> list[dict[str, int]]:
        contributors = finish(consortium)
        assert consortium.agents[VICTIM].make_status()["log"]["forked"]
        return contributors

    contributors = run(tmp_path, body, sites, other_root)
    assert [VICTIM in one for one in contributors] == [True, False, False]
    assert all(len(one) == len(sites) - 1 for one in contributors[1:])
    seen = read_seen(tmp_path / VICTIM)
    assert len(seen.proof) == 2
    key = [TrustKit.key_of("coordinator").public]
    (before, _note), (after, _other) = (open_head(one, ORIGIN, key) for one in seen.proof)
    assert before.size <= after.size
    assert after.root == bytes(32)


class SecondLog:
    """A log for the victim alone: from round 2 on it has other entries, and each of its heads follows from the last."""

    def __init__(self, state: Path) -> None:
        self._state, self._tree = state, Tree()
        self._last = 0
        self._heads: dict[int, bytes] = {}

    def __call__(self, body: kinds.LogHead, event: envelope.Event) -> kinds.LogHead:
        key = TrustKit.key_of("coordinator")
        head, _note = open_head(body.note, ORIGIN, [key.public])
        if event.round < 2:
            self._last = head.size
            return body
        if not self._tree.size:
            for one in list(open_readonly(self._state))[: self._last]:
                self._tree.append_leaf(hash_leaf(one.encode()))
        while self._tree.size < head.size:
            self._tree.append_leaf(hash_leaf(b"for the victim alone"))
        forged = sign_head(Head(ORIGIN, head.size, self._tree.root()), key).encode()
        proof = self._tree.prove_consistency(self._last, head.size)
        earlier = open_head(body.witnessed, ORIGIN, [key.public])[0].size if body.witnessed else 0
        changes = {"note": forged, "old_size": self._last, "proof": proof}
        if earlier:  # what others cosigned, where it can be shown; else its own word
            if event.round > 2:
                changes["witnessed"] = self._heads[earlier]
            changes["witness_proof"] = self._tree.prove_consistency(earlier, head.size)
        self._last, self._heads[head.size] = head.size, forged
        return body.model_copy(update=changes)


@pytest.mark.parametrize("sites", [("site-a", "site-b", "site-c"), SITES_8], ids=["3-sites", "8-sites"])
def test_a_second_log_for_one_site_is_noticed_within_one_round_for_nobody_else_saw_it(
    tmp_path: Path, sites: tuple[str, ...]
) -> None:
    contributors = run(tmp_path, finish, sites, SecondLog(tmp_path / "coordinator"), rounds=4)
    assert [VICTIM in one for one in contributors] == [True, True, False, False]
    seen = read_seen(tmp_path / VICTIM)
    assert not seen.proof, "each of its heads followed from the last"


def test_a_head_that_was_lost_on_its_way_is_asked_for_and_costs_no_round(tmp_path: Path) -> None:
    def lose(body: kinds.LogHead, event: envelope.Event) -> kinds.LogHead:
        lost = event.round == 2 and event.seq
        return body.model_copy(update={"note": b"lost\n\n"}) if lost else body

    contributors = run(tmp_path, finish, lie=lose)
    assert contributors == [CASES] * 3
    seen = read_seen(tmp_path / VICTIM)
    assert not seen.proof
    assert not seen.gap


def restore(folder: Path, declared: bool) -> Callable[[VirtualConsortium], list[dict[str, Any]]]:
    """The coordinator's state as it was early on is put back, once the sites have seen more; what each then says."""
    copy = folder / "copy"

    def put_back(state: Path) -> None:
        shutil.rmtree(state)
        shutil.copytree(copy, state)
        raise_term(state / "journal.sqlite", SystemClock())
        if declared:
            declare_fork(state, CONSORTIUM, TrustKit.key_of("operator"))

    def body(consortium: VirtualConsortium) -> list[dict[str, Any]]:
        clock = consortium.clock
        consortium.until("round-complete", 5000.0)
        consortium.start_coordinator_again(lambda state: shutil.copytree(state, copy))
        finish(consortium)
        clock.sleep(60.0)
        consortium.start_coordinator_again(put_back)

        def logs() -> list[dict[str, Any]]:
            return [agent.make_status()["log"] for agent in consortium.agents.values()]

        assert clock.wait_until(lambda: all(one["forked"] or one["declared_forks"] for one in logs()), 600.0, every=5.0)
        return logs()

    return body


def test_a_coordinator_that_was_restored_is_refused_by_all_who_saw_more_of_its_log(tmp_path: Path) -> None:
    assert all(one["forked"] for one in run(tmp_path, restore(tmp_path, declared=False)))


def test_a_restored_log_goes_on_by_the_operators_word_and_that_is_told_for_ever(tmp_path: Path) -> None:
    logs = run(tmp_path, restore(tmp_path, declared=True))
    assert not any(one["forked"] for one in logs)
    assert len({tuple(one["declared_forks"]) for one in logs}) == 1


def test_a_proof_of_round_2_follows_from_the_head_of_round_1(tmp_path: Path) -> None:
    def body(consortium: VirtualConsortium) -> list[kinds.LogHead]:
        finish(consortium)
        return [one.body for _at, one in consortium.of("log-head") if isinstance(one.body, kinds.LogHead)]

    key = [TrustKit.key_of("coordinator").public]
    told = run(tmp_path, body)
    heads = [open_head(one.note, ORIGIN, key)[0] for one in told]
    assert [one.old_size for one in told] == [0, *(head.size for head in heads[:-1])]
    for old, new, one in zip(heads, heads[1:], told[1:], strict=False):
        assert verify_consistency(old.size, old.root, new.size, new.root, one.proof)
