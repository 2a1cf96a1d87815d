"""`konsil init` and `konsil experiment new`: files to begin with, commented and valid."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.cli.command import run_command
from deploy.init.cli import app
from deploy.init.filling import TASKS
from deploy.session.profile import load_profile
from messages.experiment import read_experiment
from nets import registry

SAID = ["--consortium", "glioma", "--host", "broker.example.org", "--port", "5671"]


def test_a_researchers_file_holds_what_was_said_and_is_theirs_alone(tmp_path: Path) -> None:
    file = tmp_path / "profile.toml"
    assert run_command(["init", "researcher", "--name", "dr-a", *SAID, "--ca", "ca.pem", "--out", str(file)]) == 0
    profile = load_profile(file)
    assert (profile.name, profile.consortium, profile.broker.host) == ("dr-a", "glioma", "broker.example.org")
    assert str(profile.broker.ca).endswith("ca.pem")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "# or" in file.read_text()


def test_a_sites_file_lets_nobody_in_and_keeps_its_comments(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    assert run_command(["init", "site", "--name", "site-a", *SAID, "--out", str(file)]) == 0
    said = tomllib.loads(file.read_text())
    assert (said["site"]["name"], said["broker"]["vhost"]) == ("site-a", "glioma")
    assert said["policy"]["default"] == "deny"
    assert "# [[policy.allow]]" in file.read_text()


def test_a_coordinators_file_lists_whom_it_admits(tmp_path: Path) -> None:
    file = tmp_path / "coordinator.toml"
    asked = ["init", "coordinator", "--sites", "site-a, site-b", "--researchers", "dr-a", *SAID, "--out", str(file)]
    assert run_command(asked) == 0
    said = tomllib.loads(file.read_text())["coordinator"]
    assert (said["sites"], said["researchers"]) == (["site-a", "site-b"], ["dr-a"])


def test_what_was_not_said_is_named_and_left_to_fill_in(tmp_path: Path) -> None:
    file = tmp_path / "site.toml"
    told = CliRunner().invoke(app, ["site", "--name", "site-a", "--out", str(file), "--json"])
    assert json.loads(told.stdout)["missing"] == ["the consortium's name", "the broker's host"]


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (["--name", "Site A"], "name"),
        (["--name", "site-a", "--port", "amqp"], "'amqp' is no port"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    said: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "site.toml"
    assert run_command(["init", "site", *SAID, *said, "--out", str(file)]) == 2
    told = capsys.readouterr().err
    assert line in told
    assert "Traceback" not in told
    assert not file.exists()


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "site.toml"
    file.write_text("mine")
    assert run_command(["init", "site", "--name", "site-a", *SAID, "--out", str(file)]) == 2
    assert run_command(["experiment", "new", str(file)]) == 2
    assert "there is a file already" in capsys.readouterr().err
    assert file.read_text() == "mine"


@pytest.mark.parametrize("task", TASKS)
def test_each_experiment_file_to_begin_with_passes_the_check_of_its_net(task: str, tmp_path: Path) -> None:
    file = tmp_path / "first-study.toml"
    assert run_command(["experiment", "new", str(file), "--from", task, "--sites", "site-a,site-b"]) == 0
    experiment = read_experiment(file)
    assert (experiment.id, experiment.task.kind, experiment.sites) == ("first-study", task, ("site-a", "site-b"))
    registry.check_net(experiment)


def test_a_task_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["experiment", "new", str(tmp_path / "a.toml"), "--from", "detection"]) == 2
    assert "segmentation, classification, regression" in capsys.readouterr().err
