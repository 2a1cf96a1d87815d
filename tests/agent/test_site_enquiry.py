"""A site that hears nothing asks where things are; what was lost in the broker comes with the answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import site_consortium as script
import structlog
from agent_rig import Start
from brokers import eventually
from structlog.testing import LogCapture

from messages.ground.clock import SystemClock
from messages.kinds import RoundComplete, Standing
from messages.reasons import Reason
from site_agent.service import Agent
from site_agent.wire import sender
from site_agent.wire.sender import SentMark


@pytest.fixture
def agent(start: Start) -> Agent:
    return start().agent


def test_an_event_that_the_broker_lost_comes_with_the_answer_to_an_enquiry(
    monkeypatch: pytest.MonkeyPatch, coordinator: script.ScriptedCoordinator, agent: Agent
) -> None:
    monkeypatch.setattr("site_agent.loop.upkeep.ENQUIRE_AFTER", 0.3)
    coordinator.accept()
    eventually(lambda: coordinator.of("joined"), what="joined")
    coordinator.send_model(1)
    eventually(lambda: len(coordinator.of("hello")) >= 3, what="the site to ask, again and again")
    # Written, and confirmed, and never on the stream: only the standing holds it.
    lost = coordinator.author.write_event(
        "round-start",
        script.round_start(coordinator.sealed(1)[0], digest=coordinator.digest_of(1)),
        time=0.0,
        experiment="exp-1",
        round_number=1,
    )
    coordinator.say("standing", Standing(state="running", events=[lost.raw]), experiment="exp-1", to="site-a")
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")


def test_a_site_without_an_experiment_asks_too_but_seldom(
    monkeypatch: pytest.MonkeyPatch, coordinator: script.ScriptedCoordinator, agent: Agent
) -> None:
    monkeypatch.setattr("site_agent.loop.upkeep.ENQUIRE_AFTER", 0.1)
    monkeypatch.setattr("site_agent.loop.upkeep.GREET_EVERY", 1.0)
    eventually(lambda: len(coordinator.of("hello")) >= 3, what="the site to ask")


def test_a_site_that_was_left_out_of_a_round_is_told_why(
    monkeypatch: pytest.MonkeyPatch, coordinator: script.ScriptedCoordinator, agent: Agent
) -> None:
    said = LogCapture()
    monkeypatch.setattr(
        "site_agent.loop.inbound.log", structlog.wrap_logger(structlog.PrintLogger(), processors=[said])
    )
    coordinator.accept()
    eventually(lambda: coordinator.of("joined"), what="joined")
    coordinator.start_round(1)
    eventually(lambda: coordinator.of("round-accepted", 1), what="round-accepted")
    body = RoundComplete(
        contributors={"site-b": 5}, left_out={"site-a": Reason.STRAGGLER}, model_digest="0" * 64, seconds=1.0
    )
    coordinator.say("round-complete", body, experiment="exp-1", round_number=1)
    told = eventually(
        lambda: [one for one in said.entries if one["event"] == "left out of a round"], what="the line of the log"
    )
    assert (told[0]["experiment"], told[0]["round"], told[0]["reason"]) == ("exp-1", 1, "straggler")


def test_how_far_an_update_is_sent_is_known_by_its_chunks_digests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sender, "MARK_EVERY", 0.0)
    update = tmp_path / "exp-1.1.site-a.1.update"
    assert SentMark(update, SystemClock()).read_digests() == []
    SentMark(update, SystemClock()).write_digests([b"a" * 32, b"b" * 32])
    assert SentMark(update, SystemClock()).read_digests() == [b"a" * 32, b"b" * 32]
    update.with_suffix(".sent").write_bytes(b"a" * 32 + b"torn")
    assert SentMark(update, SystemClock()).read_digests() == [b"a" * 32]
