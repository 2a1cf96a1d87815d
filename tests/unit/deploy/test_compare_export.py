"""`experiment compare` and `experiment export --csv` over exported logs: figures, settings that differ, bad input."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from storytelling import EXPERIMENT, SITES, complete, split

from deploy.cli.command import run_command
from deploy.session.history import story_of_entries
from deploy.story.comparison import find_differences, find_incomparable
from deploy.story.figures import list_scores
from messages.chain import write_export
from messages.experiment import Experiment


def export_log(path: Path) -> Path:
    write_export(path, complete().entries)
    return path


def read_sheet(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_log_s_figures_are_the_rows_of_three_sheets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, out = export_log(tmp_path / "try.log"), tmp_path / "figures"
    assert run_command(["experiment", "export", str(log), "--csv", str(out), "--json"]) == 0
    story = story_of_entries(complete().entries, "try")
    rounds, updates, scores = (read_sheet(out / f"{name}.csv") for name in ("rounds", "updates", "scores"))
    assert json.loads(capsys.readouterr().out)["files"] == {
        str(out / "rounds.csv"): len(rounds),
        str(out / "updates.csv"): len(updates),
        str(out / "scores.csv"): len(scores),
    }
    assert [(row["round"], row["model_digest"]) for row in rounds] == [
        (str(one.number), one.model_digest) for one in story.round_list
    ]
    assert {(row["round"], row["site"]) for row in updates} == {
        (str(one.number), site) for one in story.round_list for site in one.updates
    }
    told = {(row["split"], row["site"], row["target"]): row["value"] for row in scores if row["rounds"] == "2"}
    assert story.test is not None
    assert float(told["test", "all", ""]) == story.test.mean
    assert float(told["test", SITES[0], "WT"]) == story.test.reader.by_target(story.test.sites[SITES[0]])["WT"]


def test_a_withheld_split_has_its_cases_and_no_value() -> None:
    story = story_of_entries(complete().entries, "try")
    evaluations = {
        site: {
            label: one.model_copy(update={"splits": {"test": split(0.5).model_copy(update={"withheld": True})}})
            for label, one in told.items()
        }
        for site, told in story.evaluations.items()
    }
    rows = [row for row in list_scores(replace(story, evaluations=evaluations)) if row["split"] == "test"]
    assert [row["value"] for row in rows if row["site"] == SITES[0]] == [None]
    assert [row["cases"] for row in rows if row["site"] == SITES[0]] == [1]


def test_experiments_stand_beside_each_other_on_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = export_log(tmp_path / "one.log"), export_log(tmp_path / "other.log")
    page = tmp_path / "page.html"
    assert run_command(["experiment", "compare", str(one), str(other), "--out", str(page), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["incomparable"] == []
    assert told["differences"] == {}
    first, second = told["experiments"]
    assert first == second
    assert first["strategy"] == "FedAvg"
    assert "None: the files are the same but for their ids." in page.read_text()


def test_keys_that_differ_are_named_and_so_is_why_scores_do_not_compare() -> None:
    story = story_of_entries(complete().entries, "try")
    plain = EXPERIMENT.as_plain() | {"id": "other", "seed": 9}
    other = replace(story, id="other", experiment=Experiment.model_validate(plain))
    assert [(one.key, one.values) for one in find_differences([story, other])] == [("seed", ("0", "9"))]
    assert find_incomparable([story, other]) == ["different splits of the data (data.split, seed)"]
    assert find_incomparable([story, story]) == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["compare", "try.log"], "one experiment compares with nothing"),
        (["compare", "try.log", "rubbish"], "is not an exported event log"),
        (["export", "rubbish", "--csv", "figures"], "is not an exported event log"),
        (["export", "try.log", "--csv", "rubbish"], "cannot be written"),
    ],
)
def test_what_cannot_be_compared_or_exported_is_told_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    export_log(tmp_path / "try.log")
    (tmp_path / "rubbish").write_text("no log")
    assert run_command(["experiment", *arguments]) in (1, 2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("konsil: ")]
    assert len(lines) == 1
    assert told in lines[0]
