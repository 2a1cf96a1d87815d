"""What each net says of itself is so: one test for all nets, and nothing to add for a new one."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from math import prod
from typing import Any

import numpy as np
import pytest
import torch

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from nets import registry
from nets.architectures.base import CLASSIFICATION, SEGMENTATION, NetSpec
from nets.build import build_net
from nets.digest import arrays_digest
from nets.initial import initial_model
from nets.measure import count_kept_bytes, measure_net
from nets.weights import arrays_of, manifest
from site_agent.training.private import NetNotPrivate, require_private_net

INPUTS, OUTPUTS = 2, 4
ALL = [
    (name, parameters, dims)
    for name, one in registry.NETS.items()
    for parameters in one.tried
    for dims in sorted(one.dimensions)
    if registry.read_spec({"name": name, **parameters}).find_misfit(INPUTS, OUTPUTS, dims) is None
]
BUILT = [one for one in ALL if registry.read_spec({"name": one[0]}).size_without_net() is None]
each = pytest.mark.parametrize(("name", "parameters", "dims"), BUILT)
in_its_first_form = pytest.mark.parametrize(
    ("name", "parameters", "dims"), [one for one in BUILT if one[1] == registry.NETS[one[0]].tried[0]]
)
BY_ATOMIC_ADDITION = ("AvgPool3D", "AdaptiveAvgPool", "AdaptiveMaxPool", "FractionalMaxPool", "Linear1D", "linear2D",
                      "linear3D", "cubic2D", "ReflectionPad", "GridSampler", "MaxUnpool", "Cumsum")  # fmt: skip
"""Backward passes that torch says it has no deterministic form of on a GPU (`torch.use_deterministic_algorithms`)."""


def spec(name: str, parameters: dict[str, Any]) -> NetSpec:
    return registry.read_spec({"name": name, **parameters})


def require_fit(one: NetSpec, patch: tuple[int, ...]) -> None:
    registry.require_fit(one, min(one.tasks), INPUTS, OUTPUTS, patch)


def logits_shape(one: NetSpec, patch: tuple[int, ...]) -> tuple[int, ...]:
    """Of what comes out in training mode."""
    levels = (1 + one.supervised_levels,) if one.supervised_levels else ()
    return (*levels, OUTPUTS, *patch) if one.tasks == SEGMENTATION else (OUTPUTS,)


@cache
def on_meta(one: NetSpec, dims: int) -> torch.nn.Module:
    """A net without memory, for training."""
    with torch.device("meta"):
        return one.build(INPUTS, OUTPUTS, dims).train()


def run_on_meta(one: NetSpec, patch: tuple[int, ...]) -> torch.Tensor:
    """What a net's training pass gives for one patch, without memory and without time."""
    out: torch.Tensor = on_meta(one, len(patch))(torch.empty(1, INPUTS, *patch, device="meta"))
    return out


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


@pytest.mark.parametrize("name", registry.NETS)
def test_a_net_has_tasks_and_dimensions_and_is_tried_in_each_of_them(name: str) -> None:
    one = registry.NETS[name]
    assert one.tasks in (SEGMENTATION, CLASSIFICATION) or one().size_without_net()  # type: ignore[call-arg]
    assert {dims for tried, _, dims in ALL if tried == name} == one.dimensions <= {2, 3}
    assert one.deterministic_on_cuda <= {2, 3}


@in_its_first_form
def test_a_seed_gives_one_model_and_another_seed_another(name: str, parameters: dict[str, Any], dims: int) -> None:
    one = spec(name, parameters)
    first, again, other = (arrays_of(build_net(one, INPUTS, OUTPUTS, seed, dims)) for seed in (7, 7, 8))
    assert all(np.array_equal(values, again[key]) for key, values in first.items())
    assert not all(np.array_equal(values, other[key]) for key, values in first.items())


@pytest.mark.parametrize(("name", "parameters", "dims"), [one for one in ALL if one not in BUILT])
def test_what_stands_for_no_net_has_the_size_that_it_says(name: str, parameters: dict[str, Any], dims: int) -> None:
    patch = spec(name, parameters).smallest_patch(dims)
    described, _ = initial_model(experiment(name, parameters, patch=list(patch)))
    measured = measure_net(spec(name, parameters), INPUTS, OUTPUTS, patch)
    assert measured.parameters == sum(tensor.size for tensor in described.tensors)


@in_its_first_form
def test_what_is_kept_for_the_backward_pass_grows_with_the_patch(
    name: str, parameters: dict[str, Any], dims: int
) -> None:
    one = spec(name, parameters)
    edges = tuple(max(2 * edge, 16) for edge in one.smallest_patch(dims))
    patches = [edges, (*edges[:-1], 2 * edges[-1])]
    small, large = (count_kept_bytes(on_meta(one, dims), INPUTS, patch) for patch in patches)
    assert 4 * prod(edges) * INPUTS < small
    assert 1.9 * small < large < 2.1 * small


@each
def test_it_trains_on_its_smallest_patch_to_the_same_bits_and_every_weight_has_a_part_in_it(
    name: str, parameters: dict[str, Any], dims: int
) -> None:
    one = spec(name, parameters)
    patch = one.smallest_patch(dims)
    require_fit(one, patch)
    net = build_net(one, INPUTS, OUTPUTS, 1, dims).train()
    assert manifest(net) == manifest(on_meta(one, dims)), "what is counted without memory is what is built"
    assert {tensor.dtype for tensor in manifest(net).tensors} == {"float32"}

    def step() -> str:
        net.zero_grad()
        torch.manual_seed(2)
        logits = net(torch.randn(1, INPUTS, *patch))
        assert logits.shape == (1, *logits_shape(one, patch))
        assert dims not in one.deterministic_on_cuda or atomic_passes(logits) == set()
        (logits**2).sum().backward()
        assert [key for key, weight in net.named_parameters() if weight.grad is None] == []
        gradients = {key: weight.grad.numpy() for key, weight in net.named_parameters() if weight.grad is not None}
        assert all(np.isfinite(values).all() for values in gradients.values())
        return arrays_digest(gradients)

    assert step() == step()


def atomic_passes(out: torch.Tensor) -> set[str]:
    """Backward passes behind a tensor that do not give the same bits on a GPU."""
    open_ends, seen = [out.grad_fn], set()
    while open_ends:
        if (node := open_ends.pop()) is not None and node not in seen:
            seen.add(node)
            open_ends += [before for before, _ in node.next_functions]
    return {node.name() for node in seen if any(word in node.name() for word in BY_ATOMIC_ADDITION)}


def test_a_net_that_is_not_said_to_give_the_same_bits_on_a_gpu_is_found_out() -> None:
    assert atomic_passes(run_on_meta(spec("SegResNet", {}), (16, 16))) == {"UpsampleBilinear2DBackward0"}
    assert atomic_passes(run_on_meta(spec("SegResNet", {}), (16, 16, 16))) == {"UpsampleTrilinear3DBackward0"}
    assert atomic_passes(run_on_meta(spec("VGG16", {"width": 1, "hidden": 1}), (32, 32))) != set()


@each
def test_a_patch_between_two_multiples_of_the_divisor_does_not_come_out_as_it_went_in(
    name: str, parameters: dict[str, Any], dims: int
) -> None:
    one = spec(name, parameters)
    divisor = one.divisors(dims)[0]
    if divisor == 1:
        return
    first, *others = one.smallest_patch(dims)
    odd = (first + divisor // 2, *others)
    with pytest.raises(ConfigError, match=f"multiple of .*{divisor}"):
        require_fit(one, odd)
    try:
        came = tuple(run_on_meta(one, odd).shape[-dims:])
    except (RuntimeError, ValueError):
        return
    assert came != odd


@each
def test_a_patch_with_fewer_voxels_left_than_it_needs_cannot_be_trained_on(
    name: str, parameters: dict[str, Any], dims: int
) -> None:
    one = spec(name, parameters)
    if one.least_voxels() == 1:
        return
    patch = one.reductions(dims)
    assert prod(patch) < one.least_voxels() * prod(one.reductions(dims))
    if not any(edge % divisor for edge, divisor in zip(patch, one.divisors(dims), strict=True)):
        with pytest.raises(ConfigError, match="leaves 1 voxel"):
            require_fit(one, patch)
    if parameters.get("norm") != "group":  # a group norm has the group's other channels
        with pytest.raises(ValueError, match="more than 1"):
            run_on_meta(one, patch)


@each
def test_a_patch_smaller_than_the_coarsest_level_is_refused(name: str, parameters: dict[str, Any], dims: int) -> None:
    one = spec(name, parameters)
    if (edge := min(one.reductions(dims))) > 8:
        with pytest.raises(ConfigError, match=r"leaves 0 voxels|each edge must be a multiple"):
            require_fit(one, (edge // 2,) * dims)


@each
def test_a_net_that_keeps_statistics_of_patients_says_so(name: str, parameters: dict[str, Any], dims: int) -> None:
    one = spec(name, parameters)
    keeps = False
    try:
        require_private_net(on_meta(one, dims))
    except NetNotPrivate:
        keeps = True
    assert one.keeps_statistics is keeps


def test_batch_statistics_travel_and_counters_do_not() -> None:
    with torch.device("meta"):
        names = [tensor.name for tensor in manifest(spec("VNet", {}).build(1, 1, 3)).tensors]
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
