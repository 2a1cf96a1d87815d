"""A coordinator among sites of a newer version: what it does not know is other, counted and harmless."""

from __future__ import annotations

import pytest
from brokers import eventually
from coordinator_kit import CONSORTIUM, PLATFORM, SITES, counts, plain, received
from coordinator_rig import Consortium, running
from newer_version import NEWER, written

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.effects import Announce, effects
from coordinator.core.evolve import evolve, fold_decisions
from coordinator.core.machine import decide
from coordinator.core.state import ExperimentState
from coordinator.record.journal import ASIDE, STEP, open_readonly
from coordinator.record.recovery import read_step
from coordinator.record.replay import replay
from messages import abilities, codec, kinds
from messages.bus.memory import MemoryBus
from messages.envelope import decode_event, event_id
from messages.reasons import Reason

START = kinds.ExperimentStart(experiment=plain(quorum={"least_sites": 2}))


def test_a_kind_of_a_newer_site_is_counted_without_a_receipt_and_never_set_aside(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()
    bus = MemoryBus(consortium.broker, "site-a")
    for number in (1, 2):
        raw = written(
            "key-shares", {"note": "Mueller, Karl"}, NEWER, sender="site-a", consortium=CONSORTIUM, round_number=number
        )
        bus.publish("key-shares.site-a.exp-1.coordinator", raw)
    bus.publish(
        "mood.site-a.exp-1.coordinator",
        written("mood", {}, NEWER, sender="site-a", consortium=CONSORTIUM, seq=0),
    )
    told = consortium.sites[SITES.index("site-a")]
    tally = running(consortium).shell.steps.tally
    eventually(lambda: tally.refused_events["unknown-kind"] == 3, what="all three are counted")
    bus.close()
    assert (tally.set_aside, dict(tally.malformed)) == (0, {})
    consortium.say("experiment-start", START)
    consortium.until("experiment-complete")
    consortium.stop()
    assert not {event_id("exp-1", number, "key-shares", "site-a") for number in (1, 2)} & told.receipts
    entries = list(open_readonly(consortium.folder))
    assert not [entry for entry in entries if entry.type == ASIDE or b"Mueller" in entry.body]


def test_without_its_word_an_unknown_kind_is_set_aside_as_ever(consortium: Consortium) -> None:
    consortium.start()
    bus = MemoryBus(consortium.broker, "site-a")
    raw = written("key-shares", {}, {}, sender="site-a", consortium=CONSORTIUM)
    bus.publish("key-shares.site-a.exp-1.coordinator", raw)
    tally = running(consortium).shell.steps.tally
    eventually(lambda: tally.malformed["unknown-kind"] == 1, what="it is counted")
    bus.close()
    consortium.stop()
    assert [entry.type for entry in open_readonly(consortium.folder)].count(ASIDE) == 1


def test_a_reason_of_a_newer_site_leaves_it_out_and_all_others_understand_why(consortium: Consortium) -> None:
    """0.1 has no word "other": what is announced to all is in 0.1's words."""
    consortium.start()
    consortium.join()
    broken = consortium.sites[0]
    broken.lost_chunks = {0}
    consortium.say("experiment-start", START)
    consortium.until("round-start")
    broken.news.until(lambda: 1 in broken.updates, "its part in round 1")
    raw = written(
        "round-failed",
        {"reason": "gpu-melted", "degrees": 1085.0},
        NEWER,
        sender=broken.name,
        consortium=CONSORTIUM,
        round_number=1,
    )
    broken.bus.publish(f"round-failed.{broken.name}.exp-1", raw)
    closed = consortium.until("round-complete").body
    assert isinstance(closed, kinds.RoundComplete)
    assert closed.left_out == {broken.name: Reason.TRAINING_ERROR}
    consortium.stop()
    entries = list(open_readonly(consortium.folder))
    steps = [(entry, read_step(entry)) for entry in entries if entry.type == STEP]
    (kept, (given, _decided)) = next(
        (entry, read)
        for entry, read in steps
        if any(isinstance(one, d.SiteFailed) and one.reason is Reason.OTHER for one in read[1])
    )
    assert isinstance(given, i.Received)
    assert given.vocabulary == abilities.VOCABULARY
    assert codec.unpack(kept.body)["input"]["vocabulary"] == abilities.VOCABULARY
    assert all(step.agrees for step in replay(entries))
    known = [codec.unpack(entry.body)["input"] for entry, (one, _) in steps if entry is not kept]
    assert not [one for one in known if "vocabulary" in one]  # as 0.1 writes them


def advance(state: ExperimentState | None, given: i.AnyInput) -> ExperimentState | None:
    return fold_decisions(state, decide(state, given))


def test_what_is_new_may_be_used_once_every_site_that_takes_part_has_said_that_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(abilities, "OURS", frozenset({"masked-sum"}))
    state = advance(None, received("experiment-start", START, "dr-a", 1.0))
    for site, ext in [("site-a", {"can-masked-sum": 1, "can-more": 1}), ("site-b", {"can-masked-sum": 1})]:
        body = kinds.Joined(cases=counts(10), platform=PLATFORM).as_plain()
        event = decode_event(written("joined", body, ext, sender=site, consortium=CONSORTIUM))
        state = advance(state, i.Received.of_event(event, time=2.0))
    assert state is not None
    assert state.may_use("masked-sum")
    assert not state.may_use("more")
    said = kinds.Joined(cases=counts(10), platform=PLATFORM).as_plain()
    oldest = decode_event(written("joined", said, {}, sender="site-c", consortium=CONSORTIUM))
    plain_join = i.Received.of_event(oldest, time=3.0)
    (decided,) = [one for one in decide(state, plain_join) if isinstance(one, d.SiteJoined)]
    assert "abilities" not in d.to_plain(decided)  # as 0.1 writes it
    later = advance(state, plain_join)
    assert later is not None
    assert not later.may_use("masked-sum")


def test_no_announcement_says_other() -> None:
    completed = d.RoundCompleted(
        number=1, contributors={"site-b": 1}, left_out={"site-a": Reason.OTHER, "site-c": Reason.ABSENT},
        seal="ab" * 32, digest="ab" * 32, validation=None, seconds=1.0,
    )  # fmt: skip
    state = evolve(advance(None, received("experiment-start", START, "dr-a", 1.0)), completed)
    assert state is not None
    said = [one.what.body for one in effects(state, completed) if isinstance(one, Announce)]
    (body,) = [one for one in said if isinstance(one, kinds.RoundComplete)]
    assert body.left_out == {"site-a": Reason.TRAINING_ERROR, "site-c": Reason.ABSENT}
