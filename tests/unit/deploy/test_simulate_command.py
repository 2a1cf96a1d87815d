"""`konsil simulate`: what is wrong is said in one line with exit status 2, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulated import light, write_set

from deploy.cli.command import run_command
from deploy.demo import toml
from deploy.demo.machine import count_cores


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(toml.write_toml(light().as_plain()))
    write_set(tmp_path / "set", cases=4)
    return path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--jobs {above}", "--jobs {above} is not allowed"),
        ("--threads 0", "--threads 0 is not allowed"),
        ("--sites 0", "--sites '0' is not understood"),
        ("--sites 5 --data {here}/set", "4 cases cannot be dealt out to 5 sites"),
        ("--sites 5 --data {here}/set --split sizes:1", "4 cases cannot be dealt out to 5 sites"),
        ("--data {here}/set --split 2,1", "--split gives 2 sizes for 3 sites"),
        ("--data {here}/set --split column:scanner", "there is no such table"),
        ("--data {here}/set --split column:scanner --table {here}/experiment.toml", "there is no column 'scanner'"),
        ("--data {here}/nowhere", "there is no such folder"),
        ("--strategy Best", "--strategy 'Best' is not understood"),
        ("--seeds one", "--seeds 'one' is not understood"),
        ("--drop site-a", "--drop 'site-a' is not understood"),
        ("--step-time soon", "--step-time 'soon' is not understood"),
        ("--secrets {here}", "the site's secret cannot be read"),
    ],
)
def test_a_wish_that_cannot_be_is_one_line_and_nothing_is_written(
    file: Path, capsys: pytest.CaptureFixture[str], options: str, says: str
) -> None:
    places = {"here": file.parent, "above": count_cores() + 1}
    out = file.parent / "out"
    status = run_command(["simulate", str(file), "--out", str(out), *options.format(**places).split()])
    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (2, 1)
    assert says.format(**places) in said
    assert not out.exists()


def test_a_file_that_is_no_experiment_is_refused(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("schema = 1\n")
    assert run_command(["simulate", str(file), "--out", str(file.parent / "out")]) == 2
    assert "key 'id' is missing" in capsys.readouterr().err
    assert not (file.parent / "out").exists()


def test_a_folder_that_no_simulation_wrote_is_left_alone(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(file.parent.rglob("*"))
    assert run_command(["simulate", str(file), "--out", str(file.parent)]) == 2
    assert "no simulation wrote it" in capsys.readouterr().err
    assert sorted(file.parent.rglob("*")) == before
