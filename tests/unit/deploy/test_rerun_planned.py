"""What `konsil experiment rerun` would begin: the file, where it begins, and what cannot be made anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from brokers import PARTIES, consortium_definitions
from finished_experiment import finished
from storytelling import complete
from typer.testing import CliRunner

from deploy.cli import experiment as command
from deploy.session import connection
from deploy.session.connection import BrokerSession
from deploy.session.history import story_of_entries
from deploy.session.profile import Profile
from deploy.story.rerun import compare_data, plan_rerun
from deploy.story.story import ExperimentStory
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.experiment import Experiment
from messages.ground.errors import RequestError

LATE = ("site-b", 2)
"""A site whose first update went into the second round."""


@pytest.fixture(scope="module")
def told() -> ExperimentStory:
    """A complete experiment of two sites and two rounds, with both in each."""
    return story_of_entries(complete().entries, "try")


def joined_late(story: ExperimentStory, **changes: Any) -> ExperimentStory:
    """The same, with site-b in the second round only; `changes`: sections of its file."""
    assert story.experiment is not None
    rounds = dict(story.rounds)
    rounds[1] = replace(rounds[1], contributors={"site-a": 6})
    file = Experiment.model_validate({**story.experiment.as_plain(), **changes})
    return replace(story, rounds=rounds, experiment=file)


def test_who_trained_from_the_first_round_on_is_left_out_from_the_first_round_on(told: ExperimentStory) -> None:
    planned = plan_rerun(told, {"try": told}, ["site-b"])
    file = planned.experiment
    assert (planned.stand, file.id, file.sites, file.rounds.count) == (0, "try-rerun-1", ("site-a",), 2)
    assert file.net.origin is None
    assert file.supersedes is not None
    assert (file.supersedes.experiment, file.supersedes.rounds, file.supersedes.reason) == ("try", 2, "withdrawn")
    assert file.supersedes.model == f"sha256:{told.rounds[2].model_digest}"
    assert told.experiment is not None
    assert file.seed == told.experiment.seed
    assert file.form == 3


def test_who_came_late_is_left_out_from_there_on(told: ExperimentStory) -> None:
    planned = plan_rerun(joined_late(told), dict.fromkeys(("try", "try-rerun-1"), told), ["site-b"])
    file = planned.experiment
    assert (planned.stand, file.id, file.rounds.count, file.rounds_before) == (1, "try-rerun-2", 1, 1)
    assert file.net.origin == f"sha256:{told.rounds[1].model_digest}"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"plan": {"strategy": {"name": "FedAdam"}}}, "FedAdam remembers"),
        ({"plan": {"strategy": {"name": "MOON"}}}, "MOON remembers"),
        ({"plan": {"kind": "sequential"}}, "goes by its turns"),
        ({"training": {"patch": [16, 16, 16], "optimizer": {"reset": False}}}, "optimizer.reset = false"),
    ],
)
def test_what_remembers_more_than_the_model_begins_anew(
    told: ExperimentStory, changes: dict[str, Any], why: str
) -> None:
    planned = plan_rerun(joined_late(told, **changes), {}, ["site-b"])
    assert (planned.stand, planned.experiment.rounds.count, planned.experiment.net.origin) == (0, 2, None)
    assert why in planned.notes[0]


@pytest.mark.parametrize("strategy", ["FedProx", "FedNova", "Median"])
def test_what_remembers_nothing_goes_on_from_the_model(told: ExperimentStory, strategy: str) -> None:
    assert plan_rerun(joined_late(told, plan={"strategy": {"name": strategy}}), {}, ["site-b"]).stand == 1


def test_all_sites_may_be_in_it_with_the_data_that_they_have_now(told: ExperimentStory) -> None:
    assert plan_rerun(told, {}, [], before_round=2).experiment.sites == ("site-a", "site-b")
    assert plan_rerun(told, {}, [], before_round=2).stand == 1
    assert plan_rerun(told, {}, [], before_round=1).stand == 0


def test_without_a_word_of_sites_or_rounds_it_begins_with_the_first_round(told: ExperimentStory) -> None:
    planned = plan_rerun(told, {}, [])
    assert (planned.stand, planned.experiment.sites) == (0, ("site-a", "site-b"))


@pytest.mark.parametrize("origin", ["try", "its second model"])
def test_what_began_with_a_model_that_the_site_had_touched_is_not_made_anew(told: ExperimentStory, origin: str) -> None:
    source = joined_late(told)
    begins = {"try": "try", "its second model": f"sha256:{told.rounds[2].model_digest}"}[origin]
    heir, heir_of_heir = began_with(told, "heir", begins), began_with(told, "last", "heir")
    known = {one.id: one for one in (source, heir, heir_of_heir)}
    for story in (heir, heir_of_heir):
        with pytest.raises(RequestError, match=r"a model \(net.from\) that site-b had touched in try"):
            plan_rerun(story, known, ["site-b"])
    assert plan_rerun(heir, known, [], before_round=2).stand == 1


def test_what_began_with_a_model_before_the_site_touched_any_is_made_anew(told: ExperimentStory) -> None:
    source = joined_late(told)
    heir = began_with(told, "heir", f"sha256:{told.rounds[1].model_digest}")
    assert plan_rerun(heir, {"try": source}, ["site-b"], before_round=1).stand == 0


def began_with(story: ExperimentStory, name: str, origin: str) -> ExperimentStory:
    """Another experiment like this one, whose site-b trained in no round, that began with a model."""
    assert story.experiment is not None
    plain = story.experiment.as_plain()
    file = Experiment.model_validate({**plain, "id": name, "net": {**plain["net"], "from": origin}})
    made = {number: sha256(f"{name} {number}".encode()).hexdigest() for number in story.rounds}
    rounds = {
        number: replace(one, contributors={"site-a": 6}, model_digest=made[number])
        for number, one in story.rounds.items()
    }
    return replace(story, id=name, experiment=file, rounds=rounds)


def test_no_more_is_said_to_be_exact_than_is(told: ExperimentStory) -> None:
    """Models of rounds that stand are no candidates of `select_by`."""
    evaluation = {"select_by": "validation.dice.mean"}
    selected = plan_rerun(joined_late(told, evaluation=evaluation), {}, ["site-b"]).notes[-1]
    assert selected.startswith("the final model alone is exact (models up to round 1 are not selected from), and while")
    last = {"select_by": "last"}
    anew = joined_late(told, evaluation=evaluation, plan={"strategy": {"name": "FedAdam"}})
    for planned in (
        plan_rerun(joined_late(told, evaluation=last), {}, ["site-b"]),
        plan_rerun(anew, {}, ["site-b"]),
    ):
        assert planned.notes[-1].startswith("exact while the data of site-a")


def test_where_training_does_not_give_the_same_bits_twice_nothing_is_said_to_be_exact(told: ExperimentStory) -> None:
    """As with an operator's program."""
    site = told.sites["site-a"]
    assert site.platform is not None
    unsteady = replace(site, platform=site.platform.model_copy(update={"deterministic": False}))
    planned = plan_rerun(replace(told, sites={**told.sites, "site-a": unsteady}), {}, ["site-b"])
    assert planned.notes[-1] == "not exact: training at site-a does not give the same bits twice"


def test_a_quorum_beyond_the_sites_that_are_left_is_all_of_them(told: ExperimentStory) -> None:
    planned = plan_rerun(joined_late(told, quorum={"least_sites": 2}), {}, ["site-b"])
    assert planned.experiment.quorum.least_sites == "all"
    assert "quorum.least_sites was 2" in planned.notes[0]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"without": ["site-z"]}, "is none of its sites"),
        ({"without": ["site-a", "site-b"]}, "no site would be left"),
        ({"without": ["site-b"], "before_round": 2}, "had touched"),
        ({"without": [], "before_round": 3}, "has no round 3"),
        ({"without": [], "before_round": 0}, "has no round 0"),
        ({"without": ["site-b"], "identity": "Not an id"}, "no experiment's id"),
    ],
)
def test_what_cannot_be_made_anew_is_told_in_one_line(told: ExperimentStory, how: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why) as raised:
        plan_rerun(told, {}, how.pop("without"), **how)
    assert "\n" not in str(raised.value)


def test_what_still_runs_or_made_no_model_is_not_made_anew(told: ExperimentStory) -> None:
    with pytest.raises(RequestError, match="running: abort or finish"):
        plan_rerun(replace(told, phase="running"), {}, ["site-b"])
    with pytest.raises(RequestError, match="made no model"):
        plan_rerun(replace(told, rounds={}), {}, ["site-b"])
    rounds = {number: replace(one, contributors={"site-a": 6}) for number, one in told.rounds.items()}
    with pytest.raises(RequestError, match="trained in no round"):
        plan_rerun(replace(told, rounds=rounds), {}, ["site-b"])


def test_a_rerun_in_mid_way_is_not_gone_on_from_but_its_origin_is(told: ExperimentStory) -> None:
    once = plan_rerun(joined_late(told), {}, ["site-b"]).experiment
    with pytest.raises(RequestError, match="Make try anew"):
        plan_rerun(replace(told, experiment=once), {}, ["site-a"])


def test_commitments_tell_whether_a_sites_data_are_what_they_were(told: ExperimentStory) -> None:
    with_data = lambda **data: replace(  # noqa: E731
        told, sites={name: replace(one, data=data.get(name.replace("-", "_"))) for name, one in told.sites.items()}
    )
    old = with_data(site_a="1" * 64, site_b="2" * 64)
    assert compare_data(old, with_data(site_a="1" * 64, site_b="3" * 64)) == {"site-a": True, "site-b": False}
    assert compare_data(old, with_data(site_a="1" * 64)) == {"site-a": True, "site-b": None}


def test_the_command_says_what_it_would_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = MemoryBroker(consortium_definitions(PARTIES))
    bus = MemoryBus(broker, "coordinator")
    finished(bus)
    bus.close()

    @contextmanager
    def opened(_profile: Path | None) -> Iterator[BrokerSession]:
        with BrokerSession(MemoryBus(broker, "dr-a"), Profile(name="dr-a", consortium="test")) as session:
            yield session

    monkeypatch.setattr(connection, "open_session", opened)
    ask = lambda *more: CliRunner().invoke(command.app, ["rerun", "try", *more])  # noqa: E731
    said = ask("--without", "site-b", "--dry-run")
    assert said.stdout == "try-rerun-1: would begin with the first round, 2 rounds with site-a\n"
    found = json.loads(ask("--without", "site-b", "--dry-run", "--json").stdout)
    assert (found["started"], found["file"]["supersedes"]["experiment"]) == (False, "try")
    assert "no reason" in str(ask("--without", "site-b", "--reason", "because").exception)
    assert "it supersedes no experiment" in str(ask("--check").exception)
