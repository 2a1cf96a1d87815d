"""What cannot be handled is set aside with its bytes, counted and shown; what follows, and the next start, go on.

And what is refused does not fill the journal, however often it comes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from brokers import eventually
from coordinator_kit import CONSORTIUM, PLATFORM, counts, plain
from coordinator_rig import Consortium, running
from hypothesis import given as any_of
from hypothesis import settings
from hypothesis import strategies as st

from coordinator.core import effects, machine, rules
from coordinator.core.inputs import kind_of
from coordinator.core.state import Phase, Timer
from coordinator.loop import floods, returning
from coordinator.loop.floods import Floods
from coordinator.record import overview
from coordinator.record.journal import ASIDE, STEP, open_readonly
from coordinator.record.recovery import read_step
from coordinator.record.replay import replay
from messages import codec, envelope, kinds
from messages.bus.memory import MemoryBus
from messages.envelope import Author
from messages.reasons import Reason

START = kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"}))


def aside(folder: Path) -> list[dict[str, Any]]:
    bodies = [codec.unpack(entry.body, max_bytes=2**26) for entry in open_readonly(folder) if entry.type == ASIDE]
    assert all(isinstance(body, dict) for body in bodies)
    return bodies


def raising(*_: Any) -> Any:
    raise ZeroDivisionError("poison")


def test_an_event_whose_handler_raises_is_set_aside_with_its_bytes_and_the_rest_goes_on(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = machine.TABLE[Phase.RUNNING, "round-accepted"]

    def poisoned(state: Any, given: Any) -> Any:
        return raising() if given.event.sender == "site-b" else whole(state, given)

    monkeypatch.setattr(machine, "TABLE", {**machine.TABLE, (Phase.RUNNING, "round-accepted"): poisoned})
    consortium.start()
    consortium.join()
    consortium.say("experiment-start", START)
    consortium.until("round-complete", 2)
    assert running(consortium).shell.steps.tally.set_aside >= 2
    consortium.until("experiment-complete")
    consortium.stop()
    found = aside(consortium.folder)
    assert {body["reason"] for body in found} == {"ZeroDivisionError"}
    assert all(b"round-accepted" in body["what"]["raw"] for body in found)
    assert all(step.agrees for step in replay(open_readonly(consortium.folder)))
    shown = "\n".join(overview.look_at_journal(consortium.folder).tell_lines())
    assert f"Set aside: ZeroDivisionError {len(found)}" in shown
    consortium.start()  # nor does the next start trip on it
    consortium.until("experiment-complete", 1)


def test_of_an_event_beyond_its_bounds_the_journal_keeps_a_digest_and_no_byte(consortium: Consortium) -> None:
    consortium.start()
    event = Author(CONSORTIUM, "site-a", 1).write_event("leaving", kinds.Leaving(), time=0.0, experiment="exp-1", seq=1)
    payload = codec.unpack(codec.unpack(event.raw)[0])
    bus = MemoryBus(consortium.broker, "site-a")
    bus.publish(event.key, codec.pack([codec.pack(payload | {"ext": {"note": "Mueller, Karl"}}), b""]))
    bus.publish(event.key, codec.pack([codec.pack(payload), b"Mueller, Karl" * 100]))
    bus.publish(event.key, codec.pack([codec.pack(payload | {"ext": {"a": 1}}), b"s" * 64]))
    eventually(lambda: running(consortium).shell.steps.tally.refused_events, what="the third one is handled")
    bus.close()
    consortium.stop()
    assert [body["reason"] for body in aside(consortium.folder)] == ["wrong-type", "too-large"]
    assert all(body["what"]["bytes"] == b"" and len(body["what"]["sha256"]) == 32 for body in aside(consortium.folder))
    assert not any(b"Mueller" in entry.body for entry in open_readonly(consortium.folder))
    assert all(step.agrees for step in replay(open_readonly(consortium.folder)))


def test_an_event_beyond_its_bounds_that_an_older_version_has_stored_is_recovered_and_replayed(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = Author(CONSORTIUM, "dr-a", 1).write_event("experiment-start", START, time=0.0, experiment="exp-1", seq=1)
    payload = codec.unpack(codec.unpack(event.raw)[0])
    with monkeypatch.context() as older:
        older.setattr(envelope, "decode_event", envelope.decode_stored)
        consortium.start()
        bus = MemoryBus(consortium.broker, "dr-a")
        bus.publish(event.key, codec.pack([codec.pack(payload | {"ext": {"note": ["Mueller, Karl"]}}), b"s" * 999]))
        bus.close()
        consortium.until("experiment-accepted")
        consortium.stop()
    consortium.start()
    consortium.join()
    consortium.until("experiment-complete")
    consortium.stop()
    assert all(step.agrees for step in replay(open_readonly(consortium.folder)))


def test_a_live_message_whose_handling_raises_is_set_aside_and_the_rest_goes_on(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(returning.Returning, "send_standing", raising)
    consortium.start()
    consortium.join()  # each says hello
    consortium.say("experiment-start", START)
    consortium.until("experiment-complete")
    consortium.stop()
    assert [body["reason"] for body in aside(consortium.folder)] == ["ZeroDivisionError"] * 3
    assert all(b"hello" in body["what"]["bytes"] for body in aside(consortium.folder))


def test_an_effect_that_raises_is_set_aside_and_does_not_stop_the_next_start_either(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("coordinator.wire.announcer.Announcer.announce_to_all", raising)
        patched.setattr(effects, "pending_effects", raising)
        consortium.start()
        consortium.say("experiment-start", START)
        eventually(lambda: running(consortium).shell.steps.tally.set_aside, what="it is set aside")
        consortium.stop()
        consortium.start()
        consortium.stop()
    assert [body["what"] for body in aside(consortium.folder)] == [{"effect": "Announce"}, {"effect": "pending"}]
    consortium.start()
    consortium.join()
    consortium.until("experiment-complete")


def test_a_timer_whose_handling_raises_is_set_aside_once_and_not_in_every_turn_of_the_loop(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "close_recruiting", raising)
    consortium.start()
    experiment = plain(rounds={"count": 1, "enrol_within": 0.2, "train_within": 1000.0, "grace": 50.0})
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=experiment))
    eventually(lambda: running(consortium).shell.steps.tally.set_aside, what="it is set aside")
    for n in range(20):  # the loop turns
        consortium.say("echo", kinds.Echo(nonce=f"{n:032x}"), attempt=n, experiment="none")
    other = plain(id="exp-2")
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=other), experiment="exp-2")
    consortium.until("experiment-accepted", 2)
    consortium.stop()
    found = aside(consortium.folder)
    assert [body["what"]["timer"] for body in found] == [Timer.ENROL]


KINDS = sorted({kind for _phase, kind in machine.TABLE})


@settings(max_examples=12, deadline=None)
@any_of(kind=st.sampled_from(KINDS), sender=st.sampled_from(["site-a", "site-c", "dr-a"]))
def test_whatever_handler_raises_the_journal_replays_and_the_next_coordinator_starts(
    tmp_path_factory: pytest.TempPathFactory, kind: str, sender: str
) -> None:
    made = Consortium(tmp_path_factory.mktemp("poison"))
    try:
        with pytest.MonkeyPatch.context() as patched:
            poisoned = {pair: raising if pair[1] == kind else rule for pair, rule in machine.TABLE.items()}
            patched.setattr(machine, "TABLE", poisoned)
            made.start()
            made.join()
            made.say("experiment-start", START)
            made.say("experiment-pause", kinds.ExperimentPause(), 7)
            eventually(
                lambda: (
                    any(one.kind in ("experiment-paused", "experiment-refused") for one in made.heard)
                    or running(made).shell.steps.tally.set_aside
                ),
                what="something came of it",
            )
            made.stop()
        steps = [entry for entry in open_readonly(made.folder) if entry.type == STEP]
        assert kind not in {kind_of(read_step(entry)[0]) for entry in steps} or not aside(made.folder)
        assert all(step.agrees for step in replay(open_readonly(made.folder)))
        made.start()
    finally:
        made.close()


def flood(consortium: Consortium, count: int) -> None:
    """Events of a site about an experiment that there is none of, each with an id of its own."""
    bus = MemoryBus(consortium.broker, "site-a")
    author = Author(CONSORTIUM, "site-a", 1)
    for n in range(count):
        event = author.write_event(
            "joined",
            kinds.Joined(cases=counts(1), platform=PLATFORM),
            time=0.0,
            experiment="exp-9",
            attempt=n,
            seq=n + 1,
        )
        bus.publish(event.key, event.raw)
        bus.publish("joined.site-a.exp-1", b"\xff rubbish %d" % n)
    bus.close()


def test_refused_and_malformed_messages_are_journaled_up_to_a_bound_and_then_counted_in_one_entry(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floods, "MOST", 10)
    consortium.start()
    consortium.join()
    flood(consortium, 200)
    consortium.say("experiment-start", START)
    consortium.until("experiment-complete")
    kept = running(consortium).shell.steps.floods
    names = ("malformed", Reason.UNKNOWN_EXPERIMENT)
    eventually(lambda: sum(kept.count_of("site-a", one) for one in names) == 400 - 10, what="the rest is counted")
    consortium.stop()
    found = [body for body in aside(consortium.folder) if body["reason"] == "flood"]
    assert [body["what"]["sender"] for body in found] == ["site-a"]
    assert sum(found[0]["what"]["counted"].values()) == 400 - 10
    assert set(found[0]["what"]["counted"]) == {"malformed", Reason.UNKNOWN_EXPERIMENT}
    journaled = [entry for entry in open_readonly(consortium.folder) if entry.type in (STEP, ASIDE)]
    assert len(journaled) < 60
    assert all(step.agrees for step in replay(open_readonly(consortium.folder)))
    assert overview.look_at_journal(consortium.folder).aside["malformed"] >= 190


def test_a_bound_holds_for_a_sender_and_an_hour_and_for_bytes() -> None:
    kept = Floods()
    assert all(kept.may_journal("a", "late", 10, 0.0) for _ in range(floods.MOST))
    assert not kept.may_journal("a", "late", 10, 1.0)
    assert kept.may_journal("b", "late", floods.MOST_BYTES, 1.0)
    assert not kept.may_journal("b", "malformed", 1, 2.0)
    assert list(kept.end_hours(floods.HOUR - 1)) == []
    told = list(kept.end_hours(floods.HOUR))
    assert [(one.sender, one.counted) for one in told] == [("a", {"late": 1})]
    assert kept.may_journal("a", "late", 10, floods.HOUR)
    assert [one.sender for one in kept.end_hours(floods.HOUR, all_=True)] == ["b"]
