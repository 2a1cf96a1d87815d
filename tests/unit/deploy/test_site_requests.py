"""`konsil site requests`: what a hospital reads before it lets an experiment use its data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trainer_rig import write_data
from typer.testing import CliRunner, Result

from deploy.demo.experiments import glioma_demo
from deploy.site.asked import say_what_leaves
from deploy.site.cli import app
from messages.experiment import Experiment
from messages.trust.keys import say_digest
from site_agent.core.jobs import Agenda, Job, Phase
from site_agent.core.permissions import Floors
from site_agent.disk.spool import Spool

SAID = {"purpose": "Can a second centre confirm it?\u202e", "approval": "S-123/2026", "id": "exp-1"}


def asked(phase: Phase, **changes: object) -> Job:
    """A job of an experiment with these keys."""
    one = Experiment.model_validate({**glioma_demo(3, 1, ["site-a"]), **SAID, **changes})
    plain = one.model_dump(mode="json", by_alias=True)
    return Job(experiment=one.id, digest=one.digest(), file=plain, researcher="dr-a", signer="ab" * 32, phase=phase)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A site that was asked twice: one experiment awaits approval, an earlier one is over."""
    write_data(tmp_path / "data")
    path = tmp_path / "site.toml"
    path.write_text(
        f"""schema = 1
[site]
name = "site-a"
consortium = "c"
state = "{tmp_path / "state"}"
[broker]
host = "localhost"
password = "x"
[datasets.glioma]
source = "brats"
path = "{tmp_path / "data" / "data"}"
labels = {{ 1 = "NCR", 2 = "ED", 3 = "ET" }}
[policy]
approval = "hand"
[[policy.allow]]
researchers = ["dr-b"]
[[policy.allow]]
researchers = ["dr-a"]
"""
    )
    spool = Spool(tmp_path / "state")
    jobs = [asked(Phase.AWAITING), asked(Phase.ENDED, id="exp-0", purpose="The first one")]
    spool.store_agenda(Agenda("site-a"), Agenda("site-a", {job.experiment: job for job in jobs}), 1.0)
    spool.close()
    return path


def ask(config: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["requests", "--config", str(config), *more])


def test_who_asks_for_what_with_which_data_and_what_would_leave_stands_there_in_words(config: Path) -> None:
    told = ask(config)
    assert told.exit_code == 0, told.stderr
    lines = dict(line.strip().split(None, 1) for line in told.stdout.splitlines() if line.startswith("  "))
    digest = asked(Phase.AWAITING).digest
    assert told.stdout.startswith("exp-1 awaits your approval\n")
    assert lines["purpose"] == r"Can a second centre confirm it?\u202e"
    assert lines["approval"] == "S-123/2026"
    assert "key abababababababab" in told.stdout
    assert "usable cases of 8 found here" in told.stdout
    assert "parameters" in lines["net"]
    assert "in and" in lines["bytes"]
    assert 'number 2 of [[policy.allow]] allows it; policy.approval = "hand" asks for you' in told.stdout
    assert lines["digest"] == digest
    assert say_digest(digest) in told.stdout
    assert "konsil site resume --approve exp-1" in told.stdout
    assert "exp-0" not in told.stdout


def test_a_program_gets_the_same_with_the_whole_file(config: Path) -> None:
    (one,) = json.loads(ask(config, "--quick", "--json").stdout)["requests"]
    job = asked(Phase.AWAITING)
    assert (one["experiment"], one["digest"], one["rule"]) == ("exp-1", job.digest, 2)
    assert one["file"] == job.file
    assert one["lines"]["read out"] == say_digest(job.digest)
    assert (one["cases"], one["estimate"]) == (None, None)


def test_it_can_be_compared_with_an_earlier_one(config: Path) -> None:
    rows = json.loads(ask(config, "--diff", "exp-1", "exp-0", "--json").stdout)["differences"]
    assert {row["key"] for row in rows} == {"id", "purpose"}
    assert "The first one" in ask(config, "--diff", "exp-1", "exp-0").stdout


def test_the_whole_file_is_shown_and_an_unknown_one_is_named(config: Path) -> None:
    told = ask(config, "--show", "exp-1").stdout
    assert asked(Phase.AWAITING).digest in told
    assert '"S-123/2026"' in told
    refused = ask(config, "--show", "exp-9")
    assert "It knows exp-0, exp-1" in str(refused.exception)


def test_statistics_are_told_to_leave_where_an_experiment_asks_for_them() -> None:
    plain = {**glioma_demo(3, 1, ["site-a"]), **SAID}
    open_ = {key: value for key, value in plain.items() if key not in ("preprocessing", "training")}
    auto = Experiment.model_validate({**open_, "net": {"name": "auto"}})
    said = say_what_leaves(Floors(), auto)
    assert said.startswith("statistics of the training cases (spacing, size, intensities, volumes), in groups of 5")
    assert "trained weights" in said
    assert "statistics" not in say_what_leaves(Floors(), Experiment.model_validate(plain))


def test_where_nothing_waits_it_says_so(config: Path) -> None:
    (config.parent / "state" / "spool.sqlite").unlink()
    told = ask(config)
    assert (told.exit_code, told.stdout) == (0, "")
    assert "No experiment awaits your approval" in told.stderr
