"""Scores of numbers: pooled sums say the error and the R² of all cases at once."""

from __future__ import annotations

import numpy as np
import pytest

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.ground.settings import parse_settings
from messages.scores import SplitScores, is_sound, pool_scores
from messages.tasks.regression import NumberRow, NumberRows, RegressionReader

READER = RegressionReader(("age",))
PLAIN = {
    "schema": 1,
    "id": "age",
    "sites": ["site-a"],
    "task": {"kind": "regression", "channels": ["T1"], "quantity": "age", "centre": 50, "scale": 15},
    "data": {"dataset": "ixi"},
    "net": {"name": "Rehearsal"},
    "preprocessing": {"size": [8, 8, 8], "fit": "pad"},
    "rounds": {"count": 1},
}


def report(true: np.ndarray, predicted: np.ndarray) -> SplitScores:
    cases = [
        NumberRow(case=str(n), true=t, predicted=p)
        for n, (t, p) in enumerate(zip(true.tolist(), predicted.tolist(), strict=True))
    ]
    return NumberRows(split="test", quantity="age", centre=50, cases=[*cases, NumberRow(case="lost")]).scores()


def test_pooled_sums_say_error_and_r2_of_all_cases() -> None:
    rng = np.random.default_rng(1)
    true = rng.uniform(20, 90, 60)
    predicted = true + rng.normal(0, 8, 60)
    pooled = pool_scores([report(true[:7], predicted[:7]), report(true[7:], predicted[7:])])
    assert is_sound(pooled)
    assert READER.asks_for(pooled)
    assert READER.headline_score(pooled) == pytest.approx(np.abs(predicted - true).mean())
    found = {one.name: one.mean for one in READER.read_others(pooled)}
    assert found["rmse"] == pytest.approx(np.sqrt(((predicted - true) ** 2).mean()))
    assert found["r2"] == pytest.approx(1 - ((predicted - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())
    assert pooled.metrics["absolute-error"]["age"].failed == 2


def test_where_all_cases_have_one_value_there_is_no_r2() -> None:
    scores = report(np.full(3, 50.0), np.array([40.0, 50.0, 60.0]))
    assert [one.name for one in READER.read_others(scores)] == ["rmse"]
    assert READER.read_others(SplitScores(cases=0)) == ()


def test_its_file_says_a_quantity_and_reads_numbers_alone() -> None:
    one = Experiment.model_validate(PLAIN)
    assert (one.form, one.training.patch, one.task.out_channels) == (2, (8, 8, 8), 1)
    assert Experiment.model_validate(one.as_plain()).digest() == one.digest()
    assert one.task.encode_value(["38.5"]) == (38.5,)
    for words, why in (
        (["old"], "no number"),
        (["nan"], "no number from"),
        (["38,5"], "no number"),
        (["1", "2"], "2 values"),
    ):
        with pytest.raises(ValueError, match=why):
            one.task.encode_value(words)
    with pytest.raises(ConfigError, match="quantity"):
        parse_settings({**PLAIN, "task": {"kind": "regression", "channels": ["T1"]}}, Experiment, "file")
    rehearsed = one.task.rehearse_split("test", 4).scores()
    assert one.task.reader.asks_for(rehearsed)
