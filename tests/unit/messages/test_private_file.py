"""What `[privacy.dp]` admits: a list, and one line for each thing that is not on it."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import plain

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.ground.settings import parse_settings
from messages.secure.section import PRIVATE_STRATEGIES
from messages.strategies import SPECS
from nets.registry import check_net

DP: dict[str, Any] = {"noise_multiplier": 1.5, "clip_norm": 1.0, "sample_rate": 0.2}
OTHERS = sorted({str(one.model_fields["name"].default) for one in SPECS} - set(PRIVATE_STRATEGIES))
ARGUMENTS: dict[str, dict[str, float]] = {"NormBound": {"bound": 1.0}}


def private(dp: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    return plain(privacy={"dp": DP | (dp or {})}, quorum={"least_sites": 3}) | sections


def why_not(content: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as error:
        parse_settings(content, Experiment, "file")
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("sections", "dp", "words"),
    [
        ({}, {"unit": "site"}, 'write noise = "shared"'),
        ({"training": {"clip_norm": 1.0}}, {}, "training.clip_norm"),
        ({"training": {"accumulate": 2}}, {}, "training.accumulate"),
        ({"training": {"precision": "amp"}}, {}, "training.precision"),
        ({"plan": {"kind": "sequential"}}, {}, "plan.kind"),
        ({"plan": {"kind": "asynchronous", "buffer": 2}, "evaluation": {"select_by": "last"}}, {}, "plan.kind"),
        ({"net": {"name": "auto"}}, {}, "net.name"),
        ({}, {"sample_rate": 0.0}, "sample_rate"),
        ({}, {"sample_rate": 1.1}, "sample_rate"),
        ({}, {"noise_multiplier": 0.0}, "noise_multiplier"),
        ({}, {"patches_per_patient": 1}, "patches_per_patient"),
    ],
)
def test_what_is_not_proven_is_refused_in_one_line(sections: dict[str, Any], dp: dict[str, Any], words: str) -> None:
    assert words in why_not(private(dp, **sections))


SHARED: dict[str, Any] = {
    "sites": ["site-a", "site-b", "site-c", "site-d"],
    "plan": {"weight_by": "equal"},
    "training": {"local_steps": 1, "optimizer": {"name": "SGD", "momentum": 0.0}},
}


def shared(dp: dict[str, Any] | None = None, privacy: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    said = {"secure_aggregation": "masks", "dp": DP | {"noise": "shared"} | (dp or {})} | (privacy or {})
    return private(**SHARED) | {"privacy": said} | sections


MANY = {"sites": [f"site-{n}" for n in range(20)], "quorum": {"least_sites": 20}}


@pytest.mark.parametrize(
    ("dp", "sections", "words"),
    [
        ({}, {"privacy": {"secure_aggregation": False}}, 'write secure_aggregation = "masks"'),
        ({"noise_multiplier": 1e-3}, {}, "is too little to share"),
        (
            {"noise_multiplier": 1000.0},
            MANY,
            "fills",
        ),
        ({"unit": "site"}, {}, "each site is in each round, so write 1"),
        ({"colluding": 2}, {}, "leaves fewer than 2 that add noise"),
        ({}, {"training": SHARED["training"] | {"local_steps": 2}}, "training.local_steps = 1"),
        ({}, {"training": {"local_steps": 1, "optimizer": {"name": "SGD"}}}, "momentum = 0"),
        ({}, {"training": {"local_steps": 1}}, 'training.optimizer.name = "SGD"'),
        ({}, {"plan": {"weight_by": "equal", "strategy": {"name": "FedProx"}}}, "FedProx"),
        ({}, {"plan": {}}, 'plan.weight_by = "equal"'),
    ],
)
def test_what_would_spoil_a_shared_noise_is_refused_in_one_line(
    dp: dict[str, Any], sections: dict[str, Any], words: str
) -> None:
    assert words in why_not(shared(dp, **sections))


def test_where_a_site_is_the_unit_it_trains_as_it_likes_and_a_round_is_one_noisy_step() -> None:
    training = {"local_epochs": 2, "optimizer": {"name": "Adam"}}
    content = shared({"unit": "site", "sample_rate": 1.0}, training=training)
    chosen = parse_settings(content, Experiment, "file")
    dp = chosen.privacy.dp
    assert dp is not None
    assert (dp.count_steps(chosen.training), dp.count_charged(57)) == (1, 1)
    assert chosen.count_steps(40) == chosen.training.count_steps(40) > 1


def test_a_shortened_update_would_have_less_than_its_part_of_the_noise() -> None:
    assert "update_norm_max" in why_not(shared(privacy={"update_norm_max": 1.0}))


@pytest.mark.parametrize("name", ["FedAvg", "FedAvgM", "FedAdam"])
def test_under_shared_noise_the_coordinator_may_take_the_step_as_it_likes(name: str) -> None:
    content = shared({"colluding": 1}, plan={"weight_by": "equal", "strategy": {"name": name}})
    dp = parse_settings(content, Experiment, "file").privacy.dp
    assert dp is not None
    assert dp.count_adding(3) == 2


@pytest.mark.parametrize("name", OTHERS)
def test_a_strategy_that_is_not_on_the_list_is_refused(name: str) -> None:
    strategy = {"name": name} | ARGUMENTS.get(name, {})
    assert f"plan.strategy: under [privacy.dp] {name} is not proven" in why_not(private(plan={"strategy": strategy}))


@pytest.mark.parametrize("name", PRIVATE_STRATEGIES)
def test_what_is_on_the_list_sends_nothing_beside_the_weights(name: str) -> None:
    strategy = parse_settings(private(plan={"strategy": name}), Experiment, "file").plan.strategy
    assert not strategy.alters_tensors
    assert not strategy.in_training or name == "FedProx"  # which pulls at a gradient that has its noise already


def test_a_round_is_as_long_whatever_the_number_of_cases() -> None:
    for rate, training, steps in ((0.2, {}, 5), (0.3, {"local_epochs": 2}, 8), (1.0, {"local_steps": 7}, 7)):
        chosen = parse_settings(private({"sample_rate": rate}, training=training), Experiment, "file")
        assert {chosen.count_steps(cases) for cases in (1, 40, 1000)} == {steps}


def test_a_net_with_batch_normalisation_is_refused_before_anything_is_sent() -> None:
    net = {"name": "UNet", "channels": [4, 8], "strides": [2]}
    check_net(parse_settings(private(net=net), Experiment, "file"))
    with pytest.raises(ConfigError, match="net-not-private"):
        check_net(parse_settings(private(net=net | {"norm": "batch"}), Experiment, "file"))
