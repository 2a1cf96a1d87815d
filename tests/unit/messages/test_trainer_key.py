"""`training.trainer` in an experiment file: its form, and what it does not go with."""

from __future__ import annotations

from typing import Any

import external_rig as rig
import numpy as np
import pytest
from pydantic import ValidationError

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.tensors.layout import view_tensors
from nets import registry
from nets.architectures.tensors import TensorsSpec
from nets.initial import initial_model


def test_a_file_that_names_a_trainer_has_form_3_and_says_it_on_the_wire() -> None:
    chosen = rig.experiment()
    assert chosen.form == 3
    assert chosen.as_plain()["training"]["trainer"] == "linear"
    assert Experiment.model_validate(chosen.as_plain()).digest() == chosen.digest()
    assert chosen.filled()["training"]["trainer"] == "linear"


def test_a_file_without_it_says_nothing_of_it() -> None:
    plain = rig.experiment().as_plain()
    del plain["training"]["trainer"]
    plain["preprocessing"] = {"size": [8, 8]}
    chosen = Experiment.model_validate(plain)
    assert chosen.form == 2
    assert "trainer" not in chosen.filled()["training"]


REFUSED: dict[str, dict[str, Any]] = {
    "voxel by voxel": {"task": {"kind": "segmentation", "channels": ["a"], "regions": {"WT": ["ET"]}}},
    "FedProx changes the training": {"plan": {"strategy": "FedProx"}},
    "FedBN changes the training": {"plan": {"strategy": "FedBN"}},
    "combines nets": {"plan": {"kind": "ensemble"}},
    "leave it out": {"training": {"trainer": "konsil"}},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_no_such_trainer_can_do_is_refused_in_words(words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        rig.experiment(**REFUSED[words])


def test_tensors_begin_with_zeros_or_with_numbers_of_the_seed() -> None:
    tensors = [{"name": "b", "shape": []}, {"name": "a", "shape": [3, 40], "spread": 0.5}, {"name": "c", "shape": [2]}]
    chosen = rig.experiment(net={"name": "Tensors", "tensors": tensors})
    manifest, buffer = initial_model(chosen)
    assert [one.name for one in manifest.tensors] == ["b", "a", "c"], "in the order of the file"
    arrays = view_tensors(manifest, buffer)
    assert 0.4 < arrays["a"].std() < 0.6
    assert not arrays["b"].any()
    assert not arrays["c"].any()
    assert bytes(initial_model(chosen)[1]) == bytes(buffer)
    other = initial_model(rig.experiment(net={"name": "Tensors", "tensors": tensors}, seed=8))[1]
    assert bytes(other) != bytes(buffer)
    assert np.isfinite(arrays["a"]).all()


def test_tensors_need_a_trainer_that_knows_them_and_names_that_differ() -> None:
    registry.check_net(rig.experiment())
    plain = rig.experiment().as_plain()
    del plain["training"]["trainer"]
    plain["preprocessing"] = {"size": [8, 8]}
    with pytest.raises(ConfigError, match=r"training\.trainer"):
        registry.check_net(Experiment.model_validate(plain))
    with pytest.raises(ConfigError, match="at least one tensor"):
        registry.check_net(rig.experiment(net={"name": "Tensors"}))
    with pytest.raises(ConfigError, match="comes twice"):
        registry.spec_of(rig.experiment(net={"name": "Tensors", "tensors": [{"name": "w"}, {"name": "w"}]}))
    large = rig.experiment(net={"name": "Tensors", "tensors": [{"name": "w", "shape": [2**20, 2**20]}]})
    with pytest.raises(ConfigError, match="more than a model may hold"):
        registry.spec_of(large)
    assert TensorsSpec().find_misfit(1, 1, 3)
