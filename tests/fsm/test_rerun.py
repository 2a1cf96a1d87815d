"""An experiment made anew without a site: the same bits as one that never had the site. Virtual time, real services."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import CONSORTIUM, SITES, plain
from coordinator_rig import Consortium
from typer.testing import CliRunner
from virtual_consortium import VirtualConsortium

from deploy.cli import experiment as command
from deploy.session import connection
from deploy.session.connection import BrokerSession
from deploy.session.profile import Profile
from deploy.story.rerun import plan_rerun
from deploy.story.story import ExperimentStory
from deploy.story.telling import tell_all
from messages import kinds
from messages.bus.memory import MemoryBus
from messages.experiment import Experiment
from messages.ground.virtual.clock import VirtualClock

ROUNDS = {"count": 4, "enrol_within": 60.0, "train_within": 600.0, "grace": 60.0}
REST = ("site-a", "site-b")


def follow(consortium: VirtualConsortium, name: str) -> ExperimentStory:
    events = [one for _at, one in consortium.heard if one.experiment == name]
    return tell_all(ExperimentStory(name), events)


def through(consortium: VirtualConsortium, file: dict[str, Any], late: str | None = None) -> ExperimentStory:
    """Run an experiment to its end; the site `late` begins to work once two rounds are over."""
    body = kinds.ExperimentStart(experiment=file)
    consortium.say("experiment-start", body, file["id"])
    if late is not None:
        done = lambda: follow(consortium, file["id"]).completed_rounds >= 2  # noqa: E731
        assert consortium.clock.wait_until(done, 3600.0, every=1.0)
        consortium.start_again(late)
    over = lambda: follow(consortium, file["id"]).over  # noqa: E731
    assert consortium.clock.wait_until(over, 3600.0, every=10.0), follow(consortium, file["id"])
    return follow(consortium, file["id"])


@pytest.mark.parametrize("late", [True, False], ids=["from-the-last-round", "from-the-first-round"])
def test_a_rerun_without_a_site_makes_the_bits_of_an_experiment_that_never_had_it(tmp_path: Path, late: bool) -> None:
    clock = VirtualClock()

    def body() -> tuple[ExperimentStory, ExperimentStory, ExperimentStory]:
        first = REST if late else SITES
        consortium = VirtualConsortium(tmp_path, clock, lambda _site, _number: 100.0, first)
        quorum = {"least_sites": 2}
        full = through(consortium, plain(rounds=ROUNDS, quorum=quorum, seed=5), "site-c" if late else None)
        planned = plan_rerun(full, {"exp-1": full}, ["site-c"])
        assert planned.stand == (3 if late else 0)
        again = through(consortium, planned.experiment.as_plain())
        never = plain(id="never", sites=[*REST], rounds=ROUNDS, quorum=quorum, seed=5)
        alone = through(consortium, never)
        consortium.close()
        return full, again, alone

    full, again, alone = clock.run(body)
    assert [sorted(one.contributors) for one in full.round_list] == [[*REST]] * 3 * late + [[*SITES]] * (4 - 3 * late)
    assert (again.phase, again.id) == ("complete", "exp-1-rerun-1")
    assert again.final_digest == alone.final_digest
    assert again.final_digest != full.final_digest
    told = again.experiment
    assert isinstance(told, Experiment)
    assert told.supersedes is not None
    assert told.supersedes.model == f"sha256:{full.rounds[4].model_digest}"


def test_the_command_starts_it_and_the_coordinator_takes_it(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def opened(_profile: Path | None) -> Iterator[BrokerSession]:
        with BrokerSession(MemoryBus(consortium.broker, "dr-a"), Profile(name="dr-a", consortium=CONSORTIUM)) as one:
            yield one

    monkeypatch.setattr(connection, "open_session", opened)
    consortium.start()
    consortium.join()
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"})))
    consortium.until("experiment-complete")
    said = CliRunner().invoke(command.app, ["rerun", "exp-1", "--without", "site-c", "--reason", "wrong-labels"])
    assert "exp-1-rerun-1: accepted; it begins with the first round, 2 rounds with site-a, site-b\n" in said.stdout
    consortium.until("experiment-complete", 2)
    told = CliRunner().invoke(command.app, ["rerun", "exp-1-rerun-1", "--check"])
    assert told.exit_code == 1
    assert "site-b: not known" in told.stdout  # sites by script tell no digests
    told = CliRunner().invoke(command.app, ["rerun", "exp-1-rerun-1", "--check", "--json"])
    assert json.loads(told.stdout)["same_data"] is False
