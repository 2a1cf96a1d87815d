"""A table without images: its lines are cases of numbers, and what cannot be used is counted by reason."""

from __future__ import annotations

from pathlib import Path

import external_rig as rig
import pytest

from messages.ground.errors import ConfigError, DataError
from messages.ground.settings import parse_settings
from messages.reasons import Reason
from site_agent.data.forecast import foresee_trouble
from site_agent.data.guard import look_at
from site_agent.data.inventory import take_stock
from site_agent.data.shown import draw_any_sheets
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import Survey, survey_cases

TASK = rig.experiment().task


def config(folder: Path, lines: str | None = None, **more: object) -> DatasetConfig:
    if lines is None:
        rig.write_table(folder, seed=1)
    else:
        folder.mkdir()
        (folder / "labels.csv").write_text(lines)
    return parse_settings(rig.table_of_numbers(folder, **more), DatasetConfig, "site.toml")


def survey(chosen: DatasetConfig) -> Survey:
    return survey_cases(chosen, TASK.channels, (), encode=TASK.encode_value)


def test_each_line_is_a_case_with_its_patient_its_numbers_and_its_truth(tmp_path: Path) -> None:
    found = survey(config(tmp_path / "set", "who,first,second,outcome\nA,1,2.5,3\nA,-1,1e3,4\n"))
    assert [(one.key, one.patient, one.numbers, one.truth) for one in found.cases] == [
        ("line 2", "A", (1.0, 2.5), (3.0,)),
        ("line 3", "A", (-1.0, 1000.0), (4.0,)),
    ]


def test_what_is_no_number_is_left_out_and_counted(tmp_path: Path) -> None:
    lines = "who,first,second,outcome\nA,,2,3\nB,x,2,3\nC,inf,2,3\nD,1,2,\nE,1,2,y\nF,1e300,2,3\nG,1,2,3\n"
    found = survey(config(tmp_path / "set", lines))
    assert [one.patient for one in found.cases] == ["G"]
    assert found.left_out == {
        Reason.MISSING_CHANNEL: 1,
        Reason.UNREADABLE: 1,
        Reason.NOT_FINITE: 2,
        Reason.NO_LABEL: 1,
        Reason.UNKNOWN_LABEL_VALUE: 1,
    }


def test_the_withdrawn_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "withdrawn.txt").write_text("p3\n")
    found = survey(config(tmp_path / "set", withdrawn=tmp_path / "withdrawn.txt"))
    assert "p3" not in {one.patient for one in found.cases}
    assert found.left_out == {Reason.WITHDRAWN: 2}


def test_the_operator_sees_the_stock_and_a_change_of_the_table_is_seen(tmp_path: Path) -> None:
    chosen = config(tmp_path / "set")
    stock = take_stock(chosen)
    assert (stock.found, stock.used, stock.channels) == (200, 200, ("a", "b"))
    before = look_at(chosen)
    assert before.files == 1
    table = tmp_path / "set" / "labels.csv"
    table.write_text(table.read_text() + "p99,1,2,3\n")
    assert look_at(chosen).digest != before.digest
    with pytest.raises(DataError, match="nothing to draw"):
        draw_any_sheets("clinic", chosen, tmp_path, lambda _done, _total: None)


def test_only_a_trainer_of_the_sites_own_can_learn_from_it(tmp_path: Path) -> None:
    chosen = config(tmp_path / "set")
    assert foresee_trouble(chosen, rig.experiment(), has_gpu=False) == (True, None)
    plain = rig.experiment().as_plain() | {"training": {}, "preprocessing": {"size": [8, 8]}}
    ours = type(rig.experiment()).model_validate(plain)
    assert foresee_trouble(chosen, ours, has_gpu=False) == (False, Reason.MISSING_CHANNEL)


@pytest.mark.parametrize(
    ("table", "words"),
    [({"images": ["file"]}, "neither images nor masks"), ({"numbers": ["first"]}, "a quantity for table.numbers")],
)
def test_a_description_that_contradicts_itself_is_refused(tmp_path: Path, table: dict, words: str) -> None:
    plain = rig.table_of_numbers(tmp_path)
    with pytest.raises(ConfigError, match=words):
        parse_settings(plain | {"table": plain["table"] | table}, DatasetConfig, "site.toml")
