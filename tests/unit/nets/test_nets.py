"""Nets by name, weights as arrays, digests, the initial model's process and the exported file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from brokers import PATIENCE
from hypothesis import given
from hypothesis import strategies as st

from messages.experiment import Experiment
from messages.ground.errors import ConfigError, DataError, WorkFailed
from messages.tensors.layout import manifest_of, view_tensors, write_into
from nets import registry
from nets.architectures.segmentation.segresnet import SegResNetSpec
from nets.build import build_net
from nets.digest import arrays_digest, model_digest
from nets.export import load_model
from nets.initial import initial_model
from nets.model_file import save_model
from nets.weights import arrays_of, load_weights, manifest

SMALL = {"name": "UNet", "channels": [4, 8], "strides": [2], "num_res_units": 1}


def experiment(**changes: object) -> Experiment:
    return Experiment.model_validate(
        {
            "schema": 1,
            "id": "nets",
            "seed": 5,
            "sites": ["site-a"],
            "task": {"kind": "segmentation", "channels": ["T1", "T2"], "regions": {"WT": ["ED"]}},
            "data": {"dataset": "glioma"},
            "net": SMALL,
            "rounds": {"count": 1},
        }
        | changes
    )


def test_a_net_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(ConfigError, match=r"'UNett' does not exist.*SegResNet, SwinUNETR, Tensors, UNet"):
        registry.read_spec({"name": "UNett"})


def test_a_parameter_that_the_net_does_not_take_is_named() -> None:
    with pytest.raises(ConfigError, match="'chanels' is unknown"):
        registry.read_spec(SMALL | {"chanels": [1]})


def test_strides_that_do_not_fit_the_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="one fewer than channels"):
        registry.read_spec(SMALL | {"strides": [2, 2]})


def test_the_divisor_of_a_patch_is_the_product_of_the_strides() -> None:
    assert registry.read_spec(SMALL).divisors(3) == (2, 2, 2)
    assert registry.read_spec({"name": "SegResNet"}).divisors(2) == (8, 8)


GROUPED = SMALL | {"norm": "group"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"net": {"name": "VNetX"}}, "'VNetX' does not exist.*UNet"),
        ({"net": GROUPED | {"channels": [6, 8]}}, "multiples of 4"),
        ({"net": GROUPED | {"channels": [4, 10]}}, "multiples of 4"),
        ({"net": GROUPED}, "cannot divide 1 outputs into 4 groups"),
        ({"training": {"patch": [32, 32, 31]}}, r"training\.patch = \[32, 32, 31\].* multiple of 2"),
        ({"net": {"name": "SegResNet"}, "training": {"patch": [32, 32, 36]}}, "multiple of 8"),
        ({"net": SMALL | {"strides": [8]}, "training": {"patch": [8, 8, 8]}}, "leaves 1 voxel"),
        ({"net": {"name": "SegResNet"}, "training": {"patch": [32, 36]}}, r"\[32, 36\].* multiple of 8"),
    ],
)
def test_a_net_that_does_not_fit_its_experiment_is_refused_with_the_reason(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        registry.check_net(experiment(**changes))


def test_a_net_that_does_not_know_the_task_is_refused_with_those_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegResNetSpec, "tasks", frozenset({"tracing"}))
    with pytest.raises(ConfigError, match=r"'SegResNet' is for tracing, not for segmentation.* in 3D: .*UNet, VNet"):
        registry.check_net(experiment(net={"name": "SegResNet"}))


def test_a_net_without_so_many_dimensions_is_refused_with_those_that_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegResNetSpec, "dimensions", frozenset({3}))
    with pytest.raises(ConfigError, match=r"'SegResNet' does not exist in 2D, .* 2 numbers.* in 2D: .*UNet, VNet"):
        registry.check_net(experiment(net={"name": "SegResNet"}, training={"patch": [32, 32]}))


def test_a_task_that_no_net_names_goes_with_each() -> None:
    registry.require_fit(registry.read_spec(SMALL), "tracing", 2, 1, (32, 32))


def test_a_net_is_not_built_for_outputs_that_its_norm_cannot_divide() -> None:
    with pytest.raises(ConfigError, match="cannot divide 3 outputs"):
        build_net(GROUPED, 1, 3, seed=1)


@pytest.mark.parametrize(
    ("net", "patch"),
    [
        (SMALL | {"strides": [8]}, (8, 8, 16)),
        (GROUPED | {"num_res_units": 0, "channels": [4, 8]}, (8, 8, 8)),
        ({"name": "SegResNet"}, (8, 8, 8)),
    ],
)
def test_a_net_that_is_said_to_fit_trains(net: dict[str, object], patch: tuple[int, int, int]) -> None:
    one = experiment(net=net, training={"patch": patch})
    assert build_net(registry.check_net(one), 2, 1, seed=1).train()(torch.zeros(1, 2, *patch)).shape == (1, 1, *patch)


@pytest.mark.parametrize("spec", [SMALL, {"name": "SegResNet", "blocks_down": [1, 1], "blocks_up": [1]}])
def test_each_net_maps_a_patch_to_logits_of_its_size(spec: dict[str, object]) -> None:
    net = build_net(spec, 2, 3, seed=1)
    assert net(torch.zeros(1, 2, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_random_state() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = arrays_of(build_net(SMALL, 2, 1, seed=7))
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(5)
    assert arrays_digest(first) == arrays_digest(arrays_of(build_net(SMALL, 2, 1, seed=7)))
    assert arrays_digest(first) != arrays_digest(arrays_of(build_net(SMALL, 2, 1, seed=8)))


def test_weights_that_are_loaded_come_out_again() -> None:
    source, target = build_net(SMALL, 2, 1, seed=1), build_net(SMALL, 2, 1, seed=2)
    load_weights(target, arrays_of(source))
    assert arrays_digest(arrays_of(target)) == arrays_digest(arrays_of(source))


def test_a_tensor_of_another_shape_is_refused_and_nothing_is_loaded() -> None:
    net = build_net(SMALL, 2, 1, seed=1)
    before = arrays_digest(arrays_of(net))
    values = {name: np.zeros_like(value) for name, value in arrays_of(net).items()}
    last = list(values)[-1]
    values[last] = np.zeros((1, 2, 3), dtype=np.float32)
    with pytest.raises(WorkFailed, match=last):
        load_weights(net, values)
    assert arrays_digest(arrays_of(net)) == before


def test_batch_normalisations_counter_does_not_travel() -> None:
    net = build_net(SMALL | {"norm": "batch"}, 2, 1, seed=1)
    assert not [spec.name for spec in manifest(net).tensors if spec.dtype != "float32"]


@given(chunk=st.sampled_from([1024, 4096, 2**20]))
def test_the_digest_does_not_depend_on_how_the_model_is_cut(chunk: int) -> None:
    values = {"a": np.arange(700, dtype=np.float32), "b": np.float32(2).reshape(())}
    described = manifest_of(values, chunk_bytes=chunk)
    buffer = bytearray(described.nbytes)
    write_into(values, described, memoryview(buffer))
    assert model_digest(described, buffer) == arrays_digest(values)


@given(st.integers(0, 2), st.integers(0, 31))
def test_any_flipped_bit_changes_the_digest(tensor: int, bit: int) -> None:
    values = {name: np.ones(1, dtype=np.float32) for name in "abc"}
    before = arrays_digest(values)
    raw = values["abc"[tensor]].view(np.uint32)
    raw ^= np.uint32(1 << bit)
    assert arrays_digest(values) != before


def test_a_tensors_name_shape_and_order_are_part_of_the_digest() -> None:
    one, two = np.zeros(6, dtype=np.float32), np.zeros(6, dtype=np.float32)
    known = {
        arrays_digest({"a": one, "b": two}),
        arrays_digest({"b": one, "a": two}),
        arrays_digest({"a": one.reshape(2, 3), "b": two}),
        arrays_digest({"a": one.view(np.int32), "b": two}),
        arrays_digest({"ab": one, "": two}),
    }
    assert len(known) == 5


@pytest.mark.torch
def test_the_initial_models_process_writes_what_is_built_here(tmp_path: Path) -> None:
    source = tmp_path / "experiment.json"
    source.write_text(json.dumps(experiment().as_plain()))
    command = [sys.executable, "-m", "nets.initial", "--experiment", str(source)]
    command += ["--out", str(tmp_path / "model"), "--manifest", str(tmp_path / "manifest")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 2, check=False)
    assert done.returncode == 0, done.stderr
    described, buffer = initial_model(experiment())
    assert (tmp_path / "model").read_bytes() == buffer
    assert json.loads((tmp_path / "manifest").read_text()) == described.plain()
    assert json.loads(done.stdout)["digest"] == model_digest(described, buffer)


def test_an_exported_model_rebuilds_the_net(tmp_path: Path) -> None:
    described, buffer = initial_model(experiment())
    digest = save_model(tmp_path / "m.safetensors", experiment(), described, buffer, round_number=3)
    net, metadata = load_model(tmp_path / "m.safetensors")
    assert digest == metadata["model_digest"] == model_digest(described, buffer)
    assert metadata["regions"] == {"WT": ["ED"]}
    assert arrays_digest(arrays_of(net)) == digest
    assert list(arrays_of(net)) == list(view_tensors(described, buffer))


def test_an_exported_model_with_a_changed_weight_is_refused(tmp_path: Path) -> None:
    described, buffer = initial_model(experiment())
    path = tmp_path / "m.safetensors"
    save_model(path, experiment(), described, buffer)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="do not match"):
        load_model(path)


def test_a_file_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no model")
    with pytest.raises(ConfigError, match="not a model of Konsil"):
        load_model(tmp_path / "x")
