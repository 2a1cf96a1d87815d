"""`konsil coordinator status`, `backup`, `restore`, `cut` and `put-model`: what they print, and their exit statuses."""

from __future__ import annotations

import json
import shutil
import sqlite3
import zipfile
from pathlib import Path

import numpy as np
import pytest
from coordinator_kit import plain
from places import TESTS
from safetensors.numpy import save_file

from deploy.cli.command import run_command
from deploy.demo.toml import write_toml
from messages.experiment import Experiment
from nets.architectures.rehearsal import RehearsalSpec
from nets.model_file import save_model

STATE = TESTS / "audit" / "data" / "state-58c5dea.zip"


@pytest.fixture
def config(tmp_path: Path) -> str:
    with zipfile.ZipFile(STATE) as state:
        state.extractall(tmp_path / "state")
    path = tmp_path / "coordinator.toml"
    path.write_text(
        'schema = 1\n[coordinator]\nconsortium = "demo"\nstate = "state"\nsites = ["site-a"]\nresearchers = ["dr-a"]\n'
    )
    return str(path)


def test_status_tells_where_each_experiment_is(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["coordinator", "status", "--config", config]) == 0
    said = capsys.readouterr().out
    assert "55 entries, term 1" in said
    assert "exp-1: running round 2 of 2, 2 of 3 updates" in said
    assert "exp-done: complete" in said


def test_a_backup_is_made_restored_and_looked_at(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = str(tmp_path / "saved")
    assert run_command(["coordinator", "backup", "--config", config, saved, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["entries"] == 55
    assert "verified: " in told.err
    assert run_command(["coordinator", "restore", "--config", config, saved]) == 2
    assert "a journal is there already" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "state")
    assert run_command(["coordinator", "restore", "--config", config, saved]) == 0
    assert "55 entries" in capsys.readouterr().out
    assert run_command(["coordinator", "status", "--config", config, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problem"] is None


def test_a_broken_journal_is_told_with_status_1_and_cut(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(tmp_path / "state" / "journal.sqlite") as db:
        db.execute("DELETE FROM entries WHERE number = 40")
    db.close()
    assert run_command(["coordinator", "status", "--config", config]) == 1
    said = capsys.readouterr().out
    assert "Entries 1 to 39 of 55 hold; whole: exp-done; damaged: exp-1" in said
    assert "konsil coordinator cut --after 39" in said
    assert run_command(["coordinator", "backup", "--config", config, str(tmp_path / "saved")]) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert run_command(["coordinator", "cut", "--config", config, "--after", "39"]) == 0
    assert run_command(["coordinator", "status", "--config", config]) == 0
    assert "39 entries" in capsys.readouterr().out


def test_a_model_is_put_in_named_by_its_digest_and_goes_into_the_backup(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model.safetensors"
    spec = RehearsalSpec(tensors=2, kilobytes=8)
    manifest, buffer = spec.draw_without_net(7)
    net = {"name": "Rehearsal", "tensors": 2, "kilobytes": 8}
    digest = save_model(model, Experiment.model_validate(plain(net=net)), manifest, buffer)
    assert run_command(["coordinator", "put-model", "--config", config, str(model)]) == 0
    assert capsys.readouterr().out == f'from = "sha256:{digest}"\n'
    saved = tmp_path / "saved"
    assert run_command(["coordinator", "backup", "--config", config, str(saved)]) == 0
    shutil.rmtree(tmp_path / "state")
    assert run_command(["coordinator", "restore", "--config", config, str(saved)]) == 0
    assert (tmp_path / "state" / "models" / f"{digest}.safetensors").read_bytes() == model.read_bytes()


def test_weights_from_elsewhere_need_a_file_that_says_their_net_and_tensors_that_do_not_fit_are_named(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, file = tmp_path / "weights.safetensors", tmp_path / "experiment.toml"
    net = {"name": "Rehearsal", "tensors": 2, "kilobytes": 8}
    file.write_text(write_toml(plain(net=net)))
    save_file({f"tensor-00{one}": np.zeros(1000, np.float32) for one in range(2)}, weights)
    assert run_command(["coordinator", "put-model", "--config", config, str(weights)]) == 2
    assert "is not a model of Konsil" in capsys.readouterr().err
    put = ["coordinator", "put-model", "--config", config, str(weights), "--experiment", str(file), "--json"]
    assert run_command(put) == 0
    assert Path(json.loads(capsys.readouterr().out)["file"]).is_file()
    save_file({f"tensor-00{one}": np.zeros(999, np.float32) for one in range(2)}, weights)
    assert run_command(put) == 2
    said = json.loads(capsys.readouterr().out)["error"]["what"]
    assert said.startswith("tensor-000 is 999 of float32 and the net's is 1000 of float32")
