"""What each net says of itself is so: one test for all nets, and nothing to add for a new one."""

from __future__ import annotations

import subprocess
import sys
from math import prod
from typing import Any

import pytest
import torch

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from nets import registry
from nets.architectures.base import NetSpec
from nets.build import build_net
from nets.digest import arrays_digest
from nets.initial import initial_model
from nets.measure import measure_net
from nets.weights import arrays_of, manifest

INPUTS, OUTPUTS = 2, 4
ALL = [
    (name, parameters, dims)
    for name, one in registry.NETS.items()
    for parameters in one.tried
    for dims in sorted(one.dimensions)
]
BUILT = [one for one in ALL if registry.read_spec({"name": one[0]}).size_without_net() is None]
every = pytest.mark.parametrize(("name", "parameters", "dims"), ALL)
each = pytest.mark.parametrize(("name", "parameters", "dims"), BUILT)


def spec(name: str, parameters: dict[str, Any]) -> NetSpec:
    return registry.read_spec({"name": name, **parameters})


def experiment(name: str, parameters: dict[str, Any], **training: Any) -> Experiment:
    regions = {letter: [letter] for letter in "ABCD"[:OUTPUTS]}
    return Experiment.model_validate(
        {
            "schema": 1,
            "id": "nets",
            "seed": 5,
            "sites": ["site-a"],
            "task": {"kind": "segmentation", "channels": ["T1", "T2"], "regions": regions},
            "data": {"dataset": "glioma"},
            "net": {"name": name, **parameters},
            "training": training,
            "rounds": {"count": 1},
        }
    )


@pytest.mark.parametrize("name", registry.NETS)
def test_a_net_is_known_under_the_name_that_its_parameters_bear(name: str) -> None:
    assert registry.NETS[name].model_fields["name"].default == name


@each
def test_a_seed_gives_one_model_and_another_seed_another(name: str, parameters: dict[str, Any], dims: int) -> None:
    seeds = (7, 7, 8)
    first, again, other = (
        arrays_digest(arrays_of(build_net(spec(name, parameters), INPUTS, OUTPUTS, seed, dims))) for seed in seeds
    )
    assert first == again != other


@every
def test_what_is_measured_without_memory_is_the_size_of_the_initial_model(
    name: str, parameters: dict[str, Any], dims: int
) -> None:
    patch = spec(name, parameters).smallest_patch(dims)
    described, _ = initial_model(experiment(name, parameters, patch=list(patch)))
    measured = measure_net(spec(name, parameters), INPUTS, OUTPUTS, patch)
    assert measured.parameters == sum(tensor.size for tensor in described.tensors)


@each
def test_what_is_kept_for_the_backward_pass_grows_with_the_patch(
    name: str, parameters: dict[str, Any], dims: int
) -> None:
    one = spec(name, parameters)
    edge = 2 * one.divisor() * -(-8 // one.divisor())
    patches = [(*(edge,) * (dims - 1), depth) for depth in (edge, 2 * edge)]
    small, large = (measure_net(one, INPUTS, OUTPUTS, patch).kept_bytes for patch in patches)
    assert 4 * edge**dims * INPUTS < small
    assert 1.9 * small < large < 2.1 * small


@each
def test_it_trains_on_its_smallest_patch_and_every_weight_has_a_part_in_it(
    name: str, parameters: dict[str, Any], dims: int
) -> None:
    one = spec(name, parameters)
    patch = one.smallest_patch(dims)
    assert registry.check_net(experiment(name, parameters, patch=list(patch))) == one
    net = build_net(one, INPUTS, OUTPUTS, 1, dims).train()
    torch.manual_seed(2)
    logits = net(torch.randn(1, INPUTS, *patch))
    assert logits.shape == (1, OUTPUTS, *patch)
    (logits**2).sum().backward()
    assert [key for key, weight in net.named_parameters() if weight.grad is None] == []
    assert all(torch.isfinite(weight.grad).all() for weight in net.parameters() if weight.grad is not None)


@each
def test_the_same_step_gives_the_same_bits_on_a_cpu(name: str, parameters: dict[str, Any], dims: int) -> None:
    def step() -> str:
        net = build_net(spec(name, parameters), INPUTS, OUTPUTS, 1, dims).train()
        torch.manual_seed(2)
        logits = net(torch.randn(1, INPUTS, *spec(name, parameters).smallest_patch(dims)))
        (logits**2).sum().backward()
        return arrays_digest(
            {key: weight.grad.numpy() for key, weight in net.named_parameters() if weight.grad is not None}
        )

    assert step() == step()


@each
def test_a_patch_between_two_multiples_of_the_divisor_does_not_come_out_as_it_went_in(
    name: str, parameters: dict[str, Any], dims: int
) -> None:
    one = spec(name, parameters)
    if one.divisor() == 1:
        return
    first, *others = one.smallest_patch(dims)
    odd = (first + one.divisor() // 2, *others)
    with pytest.raises(ConfigError, match=f"multiple of {one.divisor()}"):
        registry.check_net(experiment(name, parameters, patch=list(odd)))
    with torch.device("meta"):
        net, sample = one.build(INPUTS, OUTPUTS, dims), torch.empty(1, INPUTS, *odd)
    try:
        came = tuple(net(sample).shape[2:])
    except RuntimeError:
        return
    assert came != odd


@each
def test_a_patch_with_fewer_voxels_left_than_it_needs_cannot_be_trained_on(
    name: str, parameters: dict[str, Any], dims: int
) -> None:
    one = spec(name, parameters)
    if one.least_voxels() == 1:
        return
    patch = [one.reduction()] * dims
    if min(patch) >= 8:
        with pytest.raises(ConfigError, match="leaves 1 voxel"):
            registry.check_net(experiment(name, parameters, patch=patch))
    assert prod(patch) // one.reduction() ** dims < one.least_voxels()
    if parameters.get("norm") != "group":  # a group norm has the group's other channels
        with pytest.raises(ValueError, match="more than 1"):
            build_net(one, INPUTS, OUTPUTS, 1, dims).train()(torch.zeros(1, INPUTS, *patch))


def test_batch_statistics_travel_and_counters_do_not() -> None:
    names = [tensor.name for tensor in manifest(build_net(spec("VNet", {}), 1, 1, seed=1)).tensors]
    assert any(name.endswith("running_mean") for name in names)
    assert not any(name.endswith("num_batches_tracked") for name in names)


def test_channels_that_a_net_cannot_take_are_refused_before_anything_is_sent() -> None:
    three = experiment("VNet", {}, patch=[16, 16, 32]).as_plain()
    three["task"]["channels"] = ["T1", "T2", "FLAIR"]
    with pytest.raises(ConfigError, match="cannot repeat 3 channels"):
        registry.check_net(Experiment.model_validate(three))


def test_knowing_the_nets_takes_neither_torch_nor_monai() -> None:
    program = (
        "import sys; from nets import registry; "
        "[registry.read_spec({'name': name, **one}) for name, net in registry.NETS.items() for one in net.tried]; "
        "raise SystemExit(bool({'torch', 'monai'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
