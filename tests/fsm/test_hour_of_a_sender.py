"""What a member may write into the journal in an hour; a receipt is given for what is stored, and for nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from brokers import eventually
from coordinator_kit import CONSORTIUM, PLATFORM, counts, plain, received
from coordinator_rig import Consortium, running

from coordinator.core import decisions as d
from coordinator.core import machine
from coordinator.core.evolve import fold_decisions
from coordinator.core.machine import decide
from coordinator.core.state import ExperimentState
from coordinator.loop import floods
from coordinator.record.journal import ASIDE, STEP, open_readonly
from coordinator.record.replay import replay
from messages import codec, kinds
from messages.bus.memory import MemoryBus
from messages.envelope import Author, decode_event
from messages.reasons import Reason

START = kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"}))


def held_in_round_1(consortium: Consortium) -> None:
    """Round 1 stays open: the last site's update lacks a chunk."""
    consortium.start()
    consortium.join()
    held = consortium.sites[-1]
    held.lost_chunks = {0}
    consortium.say("experiment-start", START)
    held.news.until(lambda: 1 in held.updates, "round 1")

    def waits() -> bool:
        state = running(consortium).shell.steps.states["exp-1"]
        return state.round is not None and state.round.parts[held.name].update is not None

    eventually(waits, what="its update is waited for")


def flooded(folder: Path) -> list[dict[str, Any]]:
    """What the journal says of messages that were only counted."""
    bodies = [codec.unpack(entry.body) for entry in open_readonly(folder) if entry.type == ASIDE]
    return [body["what"] for body in bodies if body["reason"] == "flood"]


def joins(folder: Path) -> list[int]:
    """Bytes of each entry that a site's `joined` led to."""
    return [len(entry.body) for entry in open_readonly(folder) if b"site-joined" in entry.body]


def test_a_pause_whose_message_is_encoded_otherwise_is_the_same_pause(consortium: Consortium) -> None:
    held_in_round_1(consortium)
    consortium.say("experiment-pause", kinds.ExperimentPause(), 2)
    consortium.until("experiment-paused")
    consortium.say("experiment-resume", kinds.ExperimentResume(), 3)
    consortium.until("experiment-resumed")
    event = Author(CONSORTIUM, "dr-a").write_event(
        "experiment-pause", kinds.ExperimentPause(), time=2.0, experiment="exp-1", attempt=2, seq=2
    )
    payload = codec.unpack(event.raw)[0]
    for other in (
        b"\xdc\x00\x02\xc6" + len(payload).to_bytes(4, "big") + payload + b"\xc4\x00",
        codec.pack([payload, b"signed"]),
    ):
        assert decode_event(other).id == event.id
        assert other != event.raw
        consortium.researcher.publish(event.key, other)
    consortium.sites[-1].find_chunks("exp-1", 1)
    consortium.until("experiment-complete")
    assert len({one.id for one in consortium.heard if one.kind == "experiment-paused"}) == 1


def accepted_flood(consortium: Consortium, count: int) -> list[str]:
    """A site joins again and again, each time with other counts: each is accepted, and changes the state."""
    bus = MemoryBus(consortium.broker, "site-a")
    author, said = Author(CONSORTIUM, "site-a", 1), list[str]()
    for n in range(count):
        body = kinds.Joined(cases=counts(1 + n), platform=PLATFORM)
        event = author.write_event("joined", body, time=0.0, experiment="exp-1", attempt=n + 2, seq=n + 1)
        bus.publish(event.key, event.raw)
        said.append(event.id)
    bus.close()
    return said


def test_accepted_events_are_journaled_up_to_a_bound_and_then_counted_without_a_receipt(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_in_round_1(consortium)
    before = len(joins(consortium.folder))
    monkeypatch.setattr(floods, "MOST_TAKEN_BYTES", 64 * 2**10)
    monkeypatch.setattr(floods, "OWN_BYTES", 0)
    said = accepted_flood(consortium, 300)
    consortium.say("experiment-pause", kinds.ExperimentPause(), 2)
    consortium.until("experiment-paused")
    assert sum(joins(consortium.folder)[before:]) < 64 * 2**10
    consortium.say("experiment-resume", kinds.ExperimentResume(), 3)
    consortium.sites[-1].find_chunks("exp-1", 1)
    consortium.until("round-complete")  # nobody else suffers from it
    site = consortium.sites[0]
    (first, last) = said[0], said[-1]
    site.news.until(lambda: first in site.receipts, "the first one's receipt")
    consortium.stop()
    assert last not in site.receipts
    assert len(site.receipts & set(said)) < 150
    (counted,) = flooded(consortium.folder)
    assert counted["sender"] == "site-a"
    assert counted["counted"]["accepted"] > 150
    assert all(step.agrees for step in replay(open_readonly(consortium.folder)))


def test_what_is_only_counted_is_taken_in_the_next_hour(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_in_round_1(consortium)
    with monkeypatch.context() as patched:
        patched.setattr(floods, "MOST_TAKEN_BYTES", 0)
        patched.setattr(floods, "OWN_BYTES", 0)
        (said,) = accepted_flood(consortium, 1)
        steps = running(consortium).shell.steps
        eventually(lambda: steps.floods.count_of("site-a", "accepted"), what="it is counted")
    assert said not in consortium.sites[0].receipts
    accepted_flood(consortium, 1)  # as an outbox says it again
    consortium.sites[0].news.until(lambda: said in consortium.sites[0].receipts, "its receipt")


def test_a_researcher_whose_hour_is_full_can_still_end_an_experiment(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_in_round_1(consortium)
    monkeypatch.setattr(floods, "MOST_TAKEN_BYTES", 0)
    monkeypatch.setattr(floods, "OWN_BYTES", 0)
    consortium.say("experiment-pause", kinds.ExperimentPause(), 2)
    steps = running(consortium).shell.steps
    eventually(lambda: steps.floods.count_of("dr-a", "accepted"), what="the pause is only counted")
    consortium.say("experiment-abort", kinds.ExperimentAbort(), 3)
    consortium.until("experiment-aborted")


def test_refusals_beyond_the_bound_have_neither_answer_nor_receipt(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floods, "MOST", 10)
    consortium.start()
    consortium.join()
    bus, author = MemoryBus(consortium.broker, "site-a"), Author(CONSORTIUM, "site-a", 1)
    for n in range(50):
        event = author.write_event("leaving", kinds.Leaving(), time=0.0, experiment="exp-9", attempt=n, seq=n + 1)
        bus.publish(event.key, event.raw)
    bus.close()
    steps = running(consortium).shell.steps
    eventually(lambda: steps.floods.count_of("site-a", Reason.UNKNOWN_EXPERIMENT) == 40, what="they are counted")
    site = consortium.sites[0]
    site.news.until(lambda: len(site.receipts) == 10, "a receipt for each one that is stored")
    consortium.stop()
    assert len(site.receipts) == len({one.event for one in site.refused}) == 10


def test_a_site_that_leaves_again_and_again_has_a_receipt_for_what_is_noted_alone(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floods, "MOST", 10)
    consortium.start()
    consortium.join()
    bus, author = MemoryBus(consortium.broker, "site-a"), Author(CONSORTIUM, "site-a", 1)
    for n in range(50):
        event = author.write_event("leaving", kinds.Leaving(), time=0.0, attempt=n, seq=n + 1)
        bus.publish(event.key, event.raw)
    bus.close()
    steps = running(consortium).shell.steps
    eventually(lambda: steps.floods.count_of("site-a", "leaving") == 40, what="they are counted")
    site = consortium.sites[0]
    site.news.until(lambda: len(site.receipts) == 10, "a receipt for each one that is noted")
    consortium.stop()
    assert len(site.receipts) == 10


def raising(*_: Any) -> Any:
    raise ZeroDivisionError("poison")


def test_poison_beyond_the_bound_is_not_kept_and_has_no_receipt(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_in_round_1(consortium)
    monkeypatch.setattr(floods, "MOST", 10)
    poisoned = {pair: raising if pair[1] == "joined" else rule for pair, rule in machine.TABLE.items()}
    monkeypatch.setattr(machine, "TABLE", poisoned)
    said = set(accepted_flood(consortium, 50))
    steps = running(consortium).shell.steps
    eventually(lambda: steps.floods.count_of("site-a", "ZeroDivisionError") == 40, what="they are counted")
    site = consortium.sites[0]
    site.news.until(lambda: len(site.receipts & said) == 10, "a receipt for each one that is stored")
    consortium.stop()
    assert len(site.receipts & said) == 10
    kept = [codec.unpack(entry.body) for entry in open_readonly(consortium.folder) if entry.type == ASIDE]
    assert [body["reason"] for body in kept].count("ZeroDivisionError") == 10


def recruited() -> ExperimentState:
    state: ExperimentState | None = None
    for given in [
        received("experiment-start", START, "dr-a", 1.0),
        *(
            received("joined", kinds.Joined(cases=counts(10), platform=PLATFORM), site, 2.0)
            for site in ("site-a", "site-b", "site-c")
        ),
    ]:
        state = fold_decisions(state, decide(state, given))
    assert state is not None
    return state


def test_a_decision_that_changes_nothing_is_not_made() -> None:
    state = recruited()
    again = received("joined", kinds.Joined(cases=counts(10), platform=PLATFORM), "site-a", 3.0, attempt=2)
    assert {type(one) for one in decide(state, again)} == {d.Settled}
    assert {type(one) for one in decide(state, again, logic=2)} == {d.SiteJoined, d.Settled}
    more = received("joined", kinds.Joined(cases=counts(11), platform=PLATFORM), "site-a", 3.0, attempt=2)
    assert {type(one) for one in decide(state, more)} == {d.SiteJoined, d.Settled}


def test_the_same_failure_said_again_and_again_is_journaled_as_refusals_are(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_in_round_1(consortium)
    monkeypatch.setattr(floods, "MOST", 10)
    site = consortium.sites[-1]
    for attempt in range(100):
        body = kinds.RoundFailed(reason=Reason.OUT_OF_MEMORY)
        site.say("round-failed", body, "exp-1", 1, attempt=attempt)
    steps = running(consortium).shell.steps
    eventually(lambda: steps.floods.count_of(site.name, Reason.DUPLICATE) == 89, what="they are counted")
    consortium.stop()
    named = [entry for entry in open_readonly(consortium.folder) if b"round-failed" in entry.body]
    assert len([entry for entry in named if entry.type == STEP]) == 11
    assert all(step.agrees for step in replay(open_readonly(consortium.folder)))


def test_an_experiment_with_a_large_manifest_does_not_use_up_the_hour_of_the_others() -> None:
    hours, size = floods.Floods(), 10**6
    large = sum(hours.may_take("site-a", size, 1.0, "large") for _ in range(100))
    assert large == floods.MOST_TAKEN_BYTES // (size + floods.ENTRY_BYTES)
    small = sum(hours.may_take("site-a", 20_000, 1.0, "small") for _ in range(100))
    assert 10 < small < 40
    assert not hours.may_take("site-a", 20_000, 1.0)
    assert hours.count_of("site-a", floods.ACCEPTED) == 100 - large + 100 - small + 1


def test_what_is_refused_is_refused_once_however_large_it_is() -> None:
    hours = floods.Floods()
    assert hours.may_journal("dr-a", "invalid-experiment", floods.MOST_BYTES + 1, 1.0)
    assert not hours.may_journal("dr-a", "invalid-experiment", 1, 1.0)
