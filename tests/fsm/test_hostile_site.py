"""A hostile site among honest ones, with the whole coordinator: it is named, the others go on, it can be excluded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coordinator_kit import ScriptedSite, plain
from coordinator_rig import Consortium, body_of, running
from structlog.testing import capture_logs
from virtual_consortium import VirtualConsortium

from coordinator.core.state import Standing
from coordinator.record.journal import open_readonly
from coordinator.record.replay import replay
from coordinator.work.blobs import Blobs
from deploy.cli import requests
from deploy.cli.words import state_words, update_lines
from deploy.report import render_report
from deploy.session.connection import BrokerSession
from deploy.session.history import story_of, story_of_entries
from deploy.session.profile import Profile
from deploy.story.summary import round_summary
from messages import kinds
from messages.bus.memory import MemoryBus
from messages.ground.errors import RequestError
from messages.ground.virtual.clock import VirtualClock
from messages.reasons import Reason
from site_agent.core.jobs import Phase as SitePhase

HOUR, MINUTE = 3600.0, 60.0


def agrees(consortium: Consortium) -> bool:
    steps = list(replay(open_readonly(consortium.folder), Blobs(consortium.folder / "blobs")))
    return all(step.agrees for step in steps)


def test_differences_of_3e38_twice_fail_their_own_site_and_nobody_else(consortium: Consortium) -> None:
    """The second one makes infinity of the model: that ended the experiment for all."""
    consortium.start()
    hostile = ScriptedSite(consortium.broker, "site-c", 10_000)
    upper = np.float32(3e38).view(np.uint32) >> np.uint32(16)

    def spoil(_number: int, buffer: bytearray) -> bytearray:
        np.frombuffer(buffer, "<u2")[:1000] = upper
        return buffer

    hostile.spoil = spoil
    consortium.sites += [ScriptedSite(consortium.broker, site, 10) for site in ("site-a", "site-b")]
    consortium.sites.append(hostile)
    rounds = {"count": 3, "enrol_within": 100.0, "train_within": 1000.0, "grace": 50.0}
    start = plain(wire={"codec": "bfloat16-difference"}, rounds=rounds)
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=start))
    consortium.until("experiment-complete")
    closed = {one.round: one.body for one in consortium.heard if one.kind == "round-complete"}
    assert [body.left_out for _number, body in sorted(closed.items())] == [  # type: ignore[attr-defined]
        {},
        {"site-c": Reason.NOT_FINITE_UPDATE},
        {"site-c": Reason.NOT_FINITE_UPDATE},
    ]
    consortium.stop()
    assert agrees(consortium)


def test_an_update_that_stands_out_is_named_in_log_watch_and_report(consortium: Consortium) -> None:
    def flip(_number: int, buffer: bytearray) -> bytearray:
        weights = np.frombuffer(buffer, "<f4")[:1000]
        weights -= 50 * np.float32(7)
        return buffer

    with capture_logs() as logged:
        consortium.start()
        consortium.join()
        consortium.sites[2].spoil = flip
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
        consortium.until("experiment-complete")
        consortium.stop()
    (first, *_) = [one for one in logged if one["event"] == "an update stands out"]
    assert (first["site"], first["round"]) == ("site-c", 1)
    assert first["cosine"] == -1.0
    story = story_of_entries(open_readonly(consortium.folder), "exp-1")
    line, odd = update_lines(story, 1)
    assert line.startswith("  updates of round 1: site-a 17 %, norm ")
    assert odd.startswith("UNUSUAL: the update of site-c: 50 %, norm ")
    assert "stands out" in render_report(story)
    told = round_summary(story.rounds[1], story)["updates"]["site-c"]
    assert (told["share"], told["cosine"]) == (0.5, pytest.approx(-1.0))
    assert agrees(consortium)


def test_a_researcher_excludes_a_site_by_a_command_and_sees_it_everywhere(consortium: Consortium) -> None:
    rounds = {"count": 3, "enrol_within": 100.0, "train_within": 1000.0, "grace": 50.0}
    consortium.start()
    consortium.join()
    held = consortium.sites[2]
    held.lost_chunks = {0}
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain(rounds=rounds)))
    held.news.until(lambda: 1 in held.updates, "its part in round 1")
    with BrokerSession(MemoryBus(consortium.broker, "dr-a"), Profile(name="dr-a", consortium="demo")) as session:
        requests.exclude_site(session, "exp-1", "site-c", Reason.WRONG_LABELS, 30.0)
        with pytest.raises(RequestError, match="least_sites"):
            requests.exclude_site(session, "exp-1", "site-b", Reason.EXCLUDED, 30.0)
        consortium.until("experiment-complete")
        done = story_of(session, "exp-1")
    told = consortium.until("site-excluded").body
    assert told == kinds.SiteExcluded(site="site-c", reason=Reason.WRONG_LABELS)
    assert state_words(done) == "complete, without site-c"
    assert (done.sites["site-c"].state, done.sites["site-c"].reason) == ("excluded", Reason.WRONG_LABELS)
    assert "excluded: wrong-labels" in render_report(done)
    assert [set(one.contributors) for one in done.round_list] == [{"site-a", "site-b"}] * 3
    assert done.rounds[1].left_out == {"site-c": Reason.EXCLUDED}
    assert held.refused[0].reason is Reason.EXCLUDED, "of its update that was under way"
    consortium.stop()
    assert agrees(consortium)


def test_an_excluded_site_stays_so_over_a_restart_of_the_coordinator(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()
    consortium.sites[2].lost_chunks = {0}
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    consortium.sites[2].news.until(lambda: 1 in consortium.sites[2].updates, "its part in round 1")
    consortium.say("experiment-exclude", kinds.ExperimentExclude(site="site-c", reason=Reason.EXCLUDED))
    consortium.until("site-excluded")
    consortium.stop()
    consortium.start()
    assert body_of(consortium.until("experiment-complete")).rounds == 2
    state = running(consortium).shell.steps.states["exp-1"]
    assert state.members["site-c"].standing is Standing.EXCLUDED


def test_an_excluded_agent_ends_its_part_and_the_others_go_on(tmp_path: Path) -> None:
    clock = VirtualClock()

    def body() -> None:
        consortium = VirtualConsortium(tmp_path, clock, lambda _site, _round: 10 * MINUTE)
        rounds = {"count": 2, "enrol_within": 1 * HOUR, "train_within": 6 * HOUR, "grace": 10.0}
        start = plain(rounds=rounds, quorum={"least_sites": 2})
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=start))
        try:
            consortium.until("round-start", HOUR)
            consortium.say("experiment-exclude", kinds.ExperimentExclude(site="site-b", reason=Reason.WRONG_LABELS))
            consortium.until("experiment-complete", 5 * HOUR)
            closed = [one.body for _at, one in consortium.of("round-complete")]
            assert [set(one.contributors) for one in closed] == [{"site-a", "site-c"}] * 2  # type: ignore[attr-defined]
            job = consortium.agents["site-b"]._steps.agenda.jobs["exp-1"]
            assert (job.phase, job.reason) == (SitePhase.ENDED, Reason.EXCLUDED)
        finally:
            consortium.close()

    clock.run(body)
