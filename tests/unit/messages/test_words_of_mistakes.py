"""Mistakes in a file are told in the file's words, and defaults follow what the file says."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import plain

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.ground.settings import parse_settings
from messages.ground.units import count_noun
from nets import registry


def mistakes(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_settings(plain(**changes), Experiment, "file")
    return str(caught.value)


def test_a_list_is_called_a_list_and_a_table_a_table() -> None:
    assert "sites = 'site-a': give a list" in mistakes(sites="site-a")
    assert "rounds = 3: give a table" in mistakes(rounds=3)
    assert "purpose = 7: give text in quotes" in mistakes(purpose=7)
    assert "sites = []: give at least 1, not 0" in mistakes(sites=[])
    assert "tuple" not in mistakes(sites="site-a", training={"patch": 16})


def test_a_word_that_is_nearly_known_is_offered() -> None:
    with pytest.raises(ConfigError, match=r"net 'Unet' does not exist \(did you mean 'UNet'\?\)"):
        registry.read_spec({"name": "Unet"})
    with pytest.raises(ConfigError) as caught:
        registry.read_spec({"name": "Transformer"})
    assert "did you mean" not in str(caught.value)
    assert "did you mean 'zscore'?" in mistakes(preprocessing={"normalise": "z-score"})
    assert "did you mean 'softmax'?" in mistakes(task={**plain()["task"], "activation": "Softmax"})


def test_the_loss_follows_the_activation_and_what_is_said_stays_said() -> None:
    softmax = Experiment.model_validate(plain(task={**plain()["task"], "activation": "softmax"}))
    assert softmax.training.loss == "dice+ce"
    said = Experiment.model_validate(
        plain(task={**plain()["task"], "activation": "softmax"}, training={"loss": "dice+ce"})
    )
    assert softmax.digest() == said.digest()
    assert Experiment.model_validate(softmax.as_plain()) == softmax
    assert Experiment.model_validate(plain()).training.loss == "dice+bce"
    assert '"dice+bce" goes with sigmoid' in mistakes(
        task={**plain()["task"], "activation": "softmax"}, training={"loss": "dice+bce"}
    )


def test_one_entry_is_no_entries() -> None:
    assert [count_noun(count, "entry") for count in (0, 1, 2)] == ["0 entries", "1 entry", "2 entries"]
    assert count_noun(1, "round") == "1 round"
