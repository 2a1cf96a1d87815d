"""What goes with a net that follows from the sites' data, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import plain
from pydantic import ValidationError

from messages.experiment import Experiment
from messages.sections import Intensities, Preprocessing

AUTO: dict[str, Any] = {"net": {"name": "auto"}}
CLASSES = {"kind": "classification", "channels": ["T1"], "classes": ["low", "high"], "labels": "exclusive"}


def read(**changes: Any) -> Experiment:
    return Experiment.model_validate(plain(**(AUTO | changes)))


def test_a_file_that_leaves_its_net_to_the_data_reads_back_from_its_canonical_form() -> None:
    one = read()
    assert one.form == 4
    assert one.measures_first
    assert Experiment.model_validate(one.as_plain()) == one


def test_statistics_alone_need_no_word_of_a_net() -> None:
    file = plain(plan={"kind": "statistics"}, rounds={"count": 0})
    del file["net"]
    one = Experiment.model_validate(file)
    assert one.measures_first
    assert not one.plan.trains
    assert Experiment.model_validate(one.as_plain()).digest() == one.digest()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"patch": [32, 32, 32]}}, "training.patch"),
        ({"training": {"batch": 4}}, "training.batch"),
        ({"preprocessing": {"spacing_mm": [1.0, 1.0, 1.0]}}, "preprocessing.spacing_mm"),
        ({"preprocessing": {"normalise": "zscore"}}, "preprocessing.normalise"),
        ({"task": CLASSES, "preprocessing": {"size": [32, 32, 32]}, "training": {}}, "has none, so name a net"),
        ({"net": {"name": "auto", "from": "exp-0"}}, "has a net already"),
        ({"plan": {"kind": "evaluation"}, "rounds": {"count": 0}, "net": {"name": "auto", "from": "e"}}, "evaluation"),
        ({"plan": {"strategy": "FedBN"}}, "FedBN does nothing else"),
        ({"plan": {"kind": "statistics"}}, "write count = 0"),
        ({"plan": {"kind": "statistics"}, "rounds": {"count": 0}, "net": {"name": "UNet"}}, "or without [net]"),
        (
            {
                "plan": {"kind": "statistics"},
                "rounds": {"count": 0},
                "data": {"dataset": "d", "split": {"train": 0.0, "validation": 0.5, "test": 0.5}},
            },
            "statistics are told of training cases",
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused_in_one_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        read(**changes)
    (one,) = refused.value.errors()
    assert words in one["msg"]
    assert "\n" not in one["msg"]


def test_intensities_are_of_channels_that_there_are_each_once() -> None:
    own = {"channel": 1, "low": -100.0, "high": 300.0, "mean": 70.0, "deviation": 44.0}
    with pytest.raises(ValidationError, match="channel 2 of 1"):
        Experiment.model_validate(plain(preprocessing={"intensities": [own | {"channel": 2}]}))
    with pytest.raises(ValidationError, match="named twice"):
        Preprocessing.model_validate({"intensities": [own, own]})
    with pytest.raises(ValidationError, match="is not below"):
        Intensities.model_validate(own | {"low": 300.0})
    assert Experiment.model_validate(plain(preprocessing={"intensities": [own]})).form == 4
