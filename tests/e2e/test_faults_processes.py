"""Real processes, a real broker, SIGKILL: what is killed comes back, and the bits stay the same."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import eventually
from e2e_rig import DEADLINE, SITES, experiment, running
from fault_rig import LONG, FaultRig

from coordinator.core.inputs import kind_of
from coordinator.record.journal import STEP, TERM, open_readonly
from coordinator.record.recovery import read_step
from coordinator.record.replay import Status, replay
from coordinator.work.blobs import Blobs
from deploy.story.story import ExperimentStory
from messages.ground.crash import AT
from messages.ground.errors import RequestError
from messages.names import COORDINATOR

pytestmark = [pytest.mark.broker, pytest.mark.slow]

EVERY_SITE = {"least_sites": "all"}
KINDS = ("experiment-start", "joined", "initialised", "round-accepted", "weights-ready", "update-stored", "aggregated")
"""Entries of a round in the order in which each comes for the first time."""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRig]:
    """One consortium for all: each test leaves its services running, and its experiments ended."""
    with running(tmp_path_factory.mktemp("processes"), FaultRig) as rig:
        yield rig


def test_a_site_killed_in_training_is_left_out_by_quorum_and_takes_part_again_after_its_restart(rig: FaultRig) -> None:
    one = experiment("killed-site", rounds={"count": 5, "grace": 1}, quorum={"least_sites": 2, "least_case_share": 0.5})
    with rig.gate.held("site-a", 2), rig.gate.held("site-c", 2):
        rig.publish(one)
        rig.wait(
            one.id,
            lambda story: any(r.number == 2 and "site-c" in r.accepted for r in story.round_list),
            "site-c is in round 2",
            LONG,
        )
        eventually(lambda: rig.trainer("site-c", one.id), what="site-c to train")
        rig.kill("site-c")
        rig.gate.hold("site-a", 4)  # two sites are the least: round 4 waits for site-c
        story = rig.wait(
            one.id,
            lambda story: any(r.number >= 2 and "site-c" in r.left_out for r in story.round_list),
            "a round closes without site-c",
            LONG,
        )
        without = next(r for r in story.round_list if r.number >= 2 and "site-c" in r.left_out)
        assert set(without.contributors) == {"site-a", "site-b"}
        rig.gate.open("site-c")
        rig.start("site-c")
        story = rig.wait(
            one.id,
            lambda story: any("site-c" in r.contributors for r in story.round_list if r.number > without.number),
            "site-c contributes again",
            LONG,
        )
        assert story.phase == "running"
    rig.complete(one.id, LONG)


def test_the_coordinator_killed_after_each_kind_of_journal_entry_ends_with_the_same_model_as_the_calm_run(
    rig: FaultRig, tmp_path: Path
) -> None:
    """One of each kind; after every single entry it is killed in tests/fsm/test_coordinator_strategies."""
    digest = calm_digest(rig)
    rig.kill(COORDINATOR)

    one, crash = experiment("killed", quorum=EVERY_SITE), tmp_path / "at"
    rig.publish_quietly(one)
    for kind in KINDS:
        crash.write_text(f"coordinator:{kind} 1")
        _start_until_killed(rig, environment={AT: str(crash)})
    # The entries that a start itself makes in the middle of an experiment: its term, and time given back to timers.
    for further in (1, 2):
        entry = _number(rig) + further
        _start_until_killed(rig, crash_after=entry)
        assert _number(rig) == entry
    rig.start(COORDINATOR)
    rig.publish_quietly(one)  # the same content again changes nothing
    story = rig.complete(one.id)

    assert story.model_digest == digest
    assert all(set(r.contributors) == set(SITES) for r in story.round_list)
    assert _kinds_before_a_restart(rig, one.id) >= set(KINDS)


def calm_digest(rig: FaultRig) -> str:
    """What an experiment of two rounds ends with; asked for once."""
    return rig.calm_digest or rig.calm()


def _start_until_killed(rig: FaultRig, **how: Any) -> None:
    """Start the coordinator, which kills itself once an entry is on disk, before any effect of it."""
    crashing = rig.start(COORDINATOR, **how)
    crashing.process.wait(DEADLINE)
    assert crashing.process.returncode == -9


def _number(rig: FaultRig) -> int:
    return len(list(open_readonly(rig.layout.coordinator)))


def _kinds_before_a_restart(rig: FaultRig, identity: str) -> set[str]:
    """Of the experiment's entries behind which the next thing in the journal is another start."""
    entries = itertools.pairwise(open_readonly(rig.layout.coordinator))
    ours = [entry for entry, following in entries if (entry.experiment, following.type) == (identity, TERM)]
    return {kind_of(read_step(entry)[0]) for entry in ours if entry.type == STEP}


def test_the_broker_killed_in_mid_round_loses_nothing(rig: FaultRig) -> None:
    digest = calm_digest(rig)
    story = rig.survives("broker-killed", lambda: rig.node.restart(hard=True))
    assert story.model_digest == digest


def test_an_experiment_id_that_is_taken_is_refused_and_the_same_content_changes_nothing(rig: FaultRig) -> None:
    one = experiment("taken", quorum=EVERY_SITE)
    rig.publish(one)
    rig.publish(one)
    with pytest.raises(RequestError, match="id-taken"):
        rig.publish(experiment("taken", quorum=EVERY_SITE, rounds={"count": 3}))
    assert rig.complete(one.id).completed_rounds == 2


def test_a_second_agent_under_a_sites_name_is_refused_with_status_2(rig: FaultRig) -> None:
    config = rig.consortium.config_of("site-a")
    text = config.read_text().replace(str(rig.layout.site_folder("site-a")), str(rig.layout.run / "twin"))
    twin_config = rig.layout.run / "twin.toml"
    twin_config.write_text(text)
    one = experiment("twins", quorum=EVERY_SITE)
    rig.publish(one)
    rig.complete(one.id)  # so the first agent holds its name
    twin = rig.start_with("twin", "site_agent", twin_config)
    twin.process.wait(DEADLINE)
    assert twin.process.returncode == 2
    words = [line for line in twin.log.read_text().splitlines() if line.startswith("konsil")]
    assert len(words) == 1
    assert "Traceback" not in twin.log.read_text()
    assert rig.services["site-a"].running


def test_a_service_that_starts_while_the_broker_is_down_says_so_in_one_line_and_exits_3(rig: FaultRig) -> None:
    parties = (COORDINATOR, "site-a")
    for party in parties:
        rig.kill(party)
    rig.node.stop()
    lines = {party: len(rig.layout.log_of(party).read_text().splitlines()) for party in parties}
    children = {party: rig.start(party) for party in parties}  # side by side: each tries for some seconds
    for party, child in children.items():
        child.process.wait(DEADLINE)
        assert child.process.returncode == 3
        said = rig.layout.log_of(party).read_text().splitlines()[lines[party] :]
        assert sum(line.startswith("konsil") for line in said) == 1, said
        assert not any("Traceback" in line for line in said)
    rig.node.start()
    for party in parties:
        rig.start(party)


def test_two_experiments_run_side_by_side_and_neither_changes_the_others_bits(rig: FaultRig) -> None:
    alone = experiment("alone", quorum=EVERY_SITE, rounds={"count": 3})
    rig.publish(alone)
    digest = rig.complete(alone.id).model_digest
    # The null trainer's updates follow from seed, site and round: the same file under another id makes the same bits.
    pair = [experiment(name, quorum=EVERY_SITE, rounds={"count": 3}) for name in ("left", "right")]
    with rig.gate.held("site-b"):  # the first one cannot be over before the second one begins
        for one in pair:
            rig.publish_quietly(one)
        for one in pair:
            rig.wait(one.id, lambda story: story.started is not None, "it is accepted")
    ended = [rig.complete(one.id) for one in pair]
    assert [story.model_digest for story in ended] == [digest, digest]
    begun = [story.started for story in ended if story.started is not None]
    over = [story.ended for story in ended if story.ended is not None]
    assert len(begun) == len(over) == 2
    assert max(begun) < min(over), "one after the other"


def visits(story: ExperimentStory) -> list[str]:
    return [site for one in story.round_list for site in one.contributors]


def test_a_site_that_leaves_in_its_visit_is_skipped_and_visited_when_it_is_back(rig: FaultRig) -> None:
    """The sequential plan. A party that is killed in a visit changes no bit: tests/fsm/test_steps_of_a_round."""
    with rig.gate.held("site-b"):
        rig.publish(rig.small("skips", plan={"kind": "sequential"}, rounds={"count": 4}))
        eventually(lambda: rig.trainer("site-b", "skips"), what="a trainer at site-b")
        rig.services["site-b"].send_signal(signal.SIGTERM)
        assert rig.services["site-b"].process.wait(LONG) == 0
    rig.wait("skips", lambda story: 2 in story.rounds and story.rounds[2].state == "complete", "round 2 is over", LONG)
    rig.start("site-b")
    story = rig.complete("skips", LONG)
    assert visits(story)[:2] == ["site-a", "site-c"]
    assert "site-b" in story.rounds[2].left_out
    assert all(len(one.contributors) == 1 for one in story.round_list)


def test_a_site_that_is_killed_at_its_own_pace_goes_on_and_its_update_is_in_a_later_model(rig: FaultRig) -> None:
    """The asynchronous plan: site-b begins with round 1's model, and its update is one of the two of round 2."""
    plan = {"kind": "asynchronous", "buffer": 2}
    with rig.gate.held("site-a", 2):
        with rig.gate.held("site-b"):
            rig.publish(rig.small("paces", plan=plan, rounds={"count": 3}, evaluation={"select_by": "last"}))
            rig.wait("paces", lambda story: 2 in story.rounds, "round 2 is open", LONG)
            eventually(lambda: rig.trainer("site-b", "paces"), what="a trainer at site-b")
            rig.kill("site-b")
            rig.start("site-b")
        story = rig.wait("paces", lambda story: story.completed_rounds >= 2, "round 2 is over", LONG)
    assert (story.rounds[2].going_on, story.rounds[2].staleness) == ({"site-b": 1}, {"site-b": 1})
    assert set(story.rounds[2].contributors) == {"site-b", "site-c"}
    story = rig.complete("paces", LONG)
    assert [len(one.contributors) for one in story.round_list] == [2, 2, 2]


def test_the_log_of_it_all_replays_and_every_model_is_made_anew(rig: FaultRig) -> None:
    """Of whatever the tests before this one ran, and were killed in."""
    folder = rig.layout.coordinator
    replayed = list(replay(open_readonly(folder), Blobs(folder / "blobs")))
    assert [step.problem for step in replayed if not step.agrees] == []
    made = [step.aggregate.status for step in replayed if step.aggregate is not None]
    assert made
    assert set(made) == {Status.RECOMPUTED}
