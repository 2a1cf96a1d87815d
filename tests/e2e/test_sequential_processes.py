"""The sequential plan on a real broker: parties killed in mid-visit, and a site that drops out and comes back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import eventually, need_broker
from e2e_rig import SITES
from fault_rig import LONG, FaultRig

from coordinator.record.journal import open_readonly
from coordinator.record.replay import Status, replay
from coordinator.work.blobs import Blobs
from deploy.story.story import ExperimentStory
from messages.ground.crash import AT
from messages.names import COORDINATOR

pytestmark = [pytest.mark.broker, pytest.mark.slow]

PLAN = {"plan": {"kind": "sequential"}, "rounds": {"count": 4}}
ENTRIES = ("coordinator:round-accepted 1", "coordinator:weights-ready 1", "coordinator:aggregated 1")
STAGES = ("agent:takeround 1", "agent:begin 1", "agent:seal 1")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultRig]:
    need_broker()
    rig = FaultRig(tmp_path_factory.mktemp("sequential"), seconds=0.2)
    try:
        rig.start_broker()
        for party in (COORDINATOR, *SITES):
            rig.start(party)
        rig.calm(**PLAN)
        yield rig
    finally:
        rig.close()


def visits(story: ExperimentStory) -> list[str]:
    return [site for one in story.round_list for site in one.contributors]


def killed_at_each(rig: FaultRig, party: str, steps: tuple[str, ...], crash: Path, name: str) -> None:
    """Run the experiment; the party is killed at these steps, one after the other."""
    rig.kill(party)
    crash.write_text(steps[0])
    rig.start(party, environment={AT: str(crash)})
    rig.publish(rig.small(name, **PLAN))
    for following in (*steps[1:], None):
        process = rig.services[party].process
        process.wait(LONG)
        assert process.returncode == -signal.SIGKILL
        if following is not None:
            crash.write_text(following)
        rig.start(party, environment={AT: str(crash)})


@pytest.mark.parametrize(("party", "steps"), [(COORDINATOR, ENTRIES), ("site-b", STAGES)], ids=["coordinator", "site"])
def test_a_party_killed_in_the_middle_of_visits_changes_no_bit(
    rig: FaultRig, tmp_path: Path, party: str, steps: tuple[str, ...]
) -> None:
    name = f"killed-{party}"
    killed_at_each(rig, party, steps, tmp_path / "at", name)
    story = rig.complete(name, LONG)
    assert story.model_digest == rig.calm_digest
    assert set(visits(story)) <= set(SITES)


def test_a_site_that_leaves_in_its_visit_is_skipped_and_visited_when_it_is_back(rig: FaultRig) -> None:
    with rig.gate.held("site-b"):
        rig.publish(rig.small("skips", **PLAN))
        eventually(lambda: rig.trainer("site-b", "skips"), what="a trainer at site-b")
        rig.services["site-b"].send_signal(signal.SIGTERM)
        assert rig.services["site-b"].process.wait(LONG) == 0
    rig.wait("skips", lambda story: 2 in story.rounds and story.rounds[2].state == "complete", "round 2 is over", LONG)
    rig.start("site-b")
    story = rig.complete("skips", LONG)
    assert visits(story)[:2] == ["site-a", "site-c"]
    assert "site-b" in story.rounds[2].left_out
    assert all(len(one.contributors) == 1 for one in story.round_list)


def test_the_log_of_it_all_replays_and_every_model_is_made_anew(rig: FaultRig) -> None:
    folder = rig.layout.coordinator
    replayed = list(replay(open_readonly(folder), Blobs(folder / "blobs")))
    assert [step.problem for step in replayed if not step.agrees] == []
    made = [step.aggregate.status for step in replayed if step.aggregate is not None]
    assert made
    assert set(made) == {Status.RECOMPUTED}
