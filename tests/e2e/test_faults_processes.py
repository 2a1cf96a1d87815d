"""Real processes, a real broker, SIGKILL: what is killed comes back, and the bits stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_rig import SITES, Rig, experiment, running

from messages.errors import RequestError
from messages.names import COORDINATOR

pytestmark = [pytest.mark.broker, pytest.mark.slow]

EVERY_SITE = {"least_sites": "all"}


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with running(tmp_path) as started:
        yield started


def test_a_site_killed_in_training_is_left_out_by_quorum_and_takes_part_again_after_its_restart(
    tmp_path: Path,
) -> None:
    with running(tmp_path, seconds=1.0) as rig:
        one = experiment(
            "killed-site", rounds={"count": 40, "grace": 4}, quorum={"least_sites": 2, "least_case_share": 0.5}
        )
        rig.publish(one)
        rig.wait(
            one.id,
            lambda story: (
                story.completed_rounds >= 1
                and "site-c" in story.sites
                and story.sites["site-c"].live.phase == "training"
                and story.sites["site-c"].live.round > story.completed_rounds
            ),
            "site-c trains",
        )
        rig.kill("site-c")
        story = rig.wait(
            one.id, lambda story: any("site-c" in r.left_out for r in story.round_list), "a round closes without site-c"
        )
        without = next(r for r in story.round_list if "site-c" in r.left_out)
        assert set(without.contributors) == {"site-a", "site-b"}
        rig.start("site-c")
        story = rig.wait(
            one.id,
            lambda story: any("site-c" in r.contributors for r in story.round_list if r.number > without.number),
            "site-c contributes again",
        )
        assert story.phase == "running"


def test_the_coordinator_killed_between_journal_entries_ends_with_the_same_model_as_the_calm_run(rig: Rig) -> None:
    calm = experiment("calm", quorum=EVERY_SITE)
    rig.publish(calm)
    digest = rig.complete(calm.id).model_digest
    entries = len(_journal(rig))
    for after in range(1, entries, max(1, entries // 8)):
        number = len(_journal(rig)) + 1  # each start writes an entry of its own
        rig.kill(COORDINATOR)
        crashing = rig.start(COORDINATOR, crash_after=number + after)
        one = experiment(f"crash-{after}", quorum=EVERY_SITE)
        rig.publish_quietly(one)
        crashing.process.wait(60)
        assert crashing.process.returncode == -9, rig.describe(rig.story(one.id))
        rig.start(COORDINATOR)
        rig.publish_quietly(one)  # the same content again changes nothing
        story = rig.complete(one.id)
        assert story.model_digest == digest, f"killed after entry {after} of the run"
        assert all(set(r.contributors) == set(SITES) for r in story.round_list)


def test_the_broker_killed_in_mid_round_loses_nothing(tmp_path: Path) -> None:
    with running(tmp_path, seconds=1.0) as rig:
        calm = experiment("calm", quorum=EVERY_SITE)
        rig.publish(calm)
        digest = rig.complete(calm.id).model_digest
        one = experiment("broker-killed", quorum=EVERY_SITE)
        rig.publish(one)
        rig.wait(
            one.id,
            lambda story: story.current_round is not None and len(story.current_round.accepted) == len(SITES),
            "all sites are in the round",
        )
        rig.node.restart(hard=True)
        story = rig.complete(one.id, deadline=150)
        assert story.model_digest == digest
        assert all(set(r.contributors) == set(SITES) for r in story.round_list)


def test_an_experiment_id_that_is_taken_is_refused_and_the_same_content_changes_nothing(rig: Rig) -> None:
    one = experiment("taken", quorum=EVERY_SITE)
    rig.publish(one)
    rig.publish(one)
    with pytest.raises(RequestError, match="id-taken"):
        rig.publish(experiment("taken", quorum=EVERY_SITE, rounds={"count": 3}))
    assert rig.complete(one.id).completed_rounds == 2


def test_a_second_agent_under_a_sites_name_is_refused_with_status_2(rig: Rig) -> None:
    config = rig.consortium.config_of("site-a")
    text = config.read_text().replace(str(rig.layout.site("site-a")), str(rig.layout.run / "twin"))
    twin_config = rig.layout.run / "twin.toml"
    twin_config.write_text(text)
    one = experiment("twins", quorum=EVERY_SITE)
    rig.publish(one)
    rig.complete(one.id)  # so the first agent holds its name
    twin = rig.start_with("twin", "site_agent", twin_config)
    twin.process.wait(120)
    assert twin.process.returncode == 2
    words = [line for line in twin.log.read_text().splitlines() if line.startswith("konsil")]
    assert len(words) == 1
    assert "Traceback" not in twin.log.read_text()
    assert rig.services["site-a"].running


@pytest.mark.parametrize("party", [COORDINATOR, "site-a"])
def test_a_service_that_starts_while_the_broker_is_down_says_so_in_one_line_and_exits_3(
    party: str, tmp_path: Path
) -> None:
    with running(tmp_path) as rig:
        rig.kill(party)
        rig.node.stop()
        lines = len(rig.layout.log_of(party).read_text().splitlines())
        child = rig.start(party)
        child.process.wait(60)
        assert child.process.returncode == 3
        said = rig.layout.log_of(party).read_text().splitlines()[lines:]
        assert sum(line.startswith("konsil") for line in said) == 1, said
        assert not any("Traceback" in line for line in said)


def _journal(rig: Rig) -> list[object]:
    from coordinator.journal import open_readonly

    return list(open_readonly(rig.layout.coordinator))
