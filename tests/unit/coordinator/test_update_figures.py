"""How far updates move a model and whether they point one way, under every codec; and what nothing can be made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from coordinator.work import figures
from coordinator.work.aggregate import Memory, aggregate
from coordinator.work.figures import compare_directions, measure_update
from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.fedadam import FedAdam
from coordinator.work.strategies.fedavg import FedAvg
from messages.tensors.codecs import CODECS, CodecName
from messages.tensors.layout import Manifest, manifest_of, tensors_of, write_into

Arrays = dict[str, NDArray[Any]]
CODEC_NAMES: tuple[CodecName, ...] = ("float32", "bfloat16", "bfloat16-difference")
ADAM = FedAdam(lr=0.1, beta1=0.9, beta2=0.99, tau=1e-3)


def net(seed: int, size: int = 3000) -> Arrays:
    """Weights that every codec sends as they are."""
    drawn = np.random.default_rng(seed).standard_normal((size // 10, 10)).astype(np.float32)
    return {
        "conv.weight": (drawn.view(np.uint32) & 0xFFFF0000).view(np.float32),
        "norm.running_var": np.ones(7, np.float32),
        "norm.num_batches_tracked": np.array(3),
    }


def packed(arrays: Arrays, codec: CodecName = "float32", received: Arrays | None = None) -> NDArray[np.uint8]:
    manifest = manifest_of(arrays).in_codec(codec)
    out = bytearray(manifest.nbytes)
    base = None
    if received is not None:
        sent = manifest_of(received).in_codec(CODECS[codec].model)
        raw = bytearray(sent.nbytes)
        write_into(received, sent, memoryview(raw))
        base = tensors_of(sent, bytes(raw))
    write_into(arrays, manifest, memoryview(out), base)
    return np.frombuffer(bytes(out), np.uint8)


def moved(model: Arrays, by: float, seed: int = 9, name: str = "conv.weight") -> Arrays:
    """The model with one tensor moved by a vector of this length."""
    way = np.random.default_rng(seed).standard_normal(model[name].shape)
    return model | {name: (model[name] + way * (by / np.linalg.norm(way))).astype(np.float32)}


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize("block", [64, 2**18])
def test_an_updates_length_is_that_of_what_training_changed(
    codec: CodecName, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "BLOCK", block)
    model, manifest = net(1), manifest_of(net(1))
    update = packed(moved(model, 40.0), codec, model)
    found = measure_update(manifest, update, packed(model), codec, FedAvg())
    assert found is not None
    assert found.norm == pytest.approx(40.0, rel=1e-3)
    assert found.statistics == 0.0
    other = packed(moved(model, 5.0, name="norm.running_var"), codec, model)
    found = measure_update(manifest, other, packed(model), codec, FedAvg())
    assert found is not None
    assert (found.norm, found.statistics) == (pytest.approx(0.0, abs=1e-6), pytest.approx(5.0, rel=1e-2))


def broken(model: Arrays, value: float, codec: CodecName) -> NDArray[np.uint8]:
    update = model | {"conv.weight": model["conv.weight"].copy()}
    update["conv.weight"].flat[1234] = value
    return packed(update, codec, model)


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_can_be_made_of_what_is_not_finite(codec: CodecName, value: float) -> None:
    model = net(1)
    found = measure_update(manifest_of(model), broken(model, value, codec), packed(model), codec, FedAvg())
    assert found is None


def test_nothing_can_be_made_of_a_difference_that_leaves_the_range_of_the_next_model() -> None:
    """Twice 3e38: each of them is a number, and their sum with the model is none."""
    model = net(1)
    model["conv.weight"][:] = 3e38
    manifest = manifest_of(model)
    update = broken(model, 3.3e38, "bfloat16-difference")
    assert measure_update(manifest, update, packed(model), "bfloat16-difference", FedAvg()) is not None
    raised = manifest.in_codec("bfloat16-difference")
    bad = bytearray(raised.nbytes)
    write_into(
        {name: np.full_like(one, 3e38) if one.dtype.kind == "f" else one for name, one in model.items()},
        raised,
        memoryview(bad),
        tensors_of(manifest, packed({name: np.zeros_like(one) for name, one in model.items()}).tobytes()),
    )
    assert (
        measure_update(manifest, np.frombuffer(bytes(bad), np.uint8), packed(model), "bfloat16-difference", FedAvg())
        is None
    )


def test_nothing_can_be_made_of_a_change_whose_square_fedadam_cannot_keep() -> None:
    model = net(1)
    update = broken(model, 1e20, "float32")
    assert measure_update(manifest_of(model), update, packed(model), "float32", FedAvg()) is not None
    assert measure_update(manifest_of(model), update, packed(model), "float32", ADAM) is None


def combined(
    manifest: Manifest, updates: list[NDArray[np.uint8]], model: NDArray[np.uint8], codec: CodecName, strategy: Strategy
) -> bool:
    out = np.zeros(manifest.nbytes, np.uint8)
    sent = manifest.in_codec(CODECS[codec].model)
    layout = strategy.memory(manifest)
    memory = None if layout is None else Memory(None, np.zeros(layout.nbytes, np.uint8))
    return aggregate(
        manifest,
        [(1 / len(updates), one) for one in updates],
        out,
        codec=codec,
        master=model,
        wire=np.zeros(sent.nbytes, np.uint8),
        threads=1,
        strategy=strategy,
        memory=memory,
    )


extreme = st.sampled_from([0.0, 1.0, -1.0, 1e19, 1.8e19, 1e30, 3.0e38, -3.0e38, 3.38e38, 3.4e38, -3.4e38])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(CODEC_NAMES),
    st.sampled_from([FedAvg(), ADAM]),
    extreme,
    st.lists(st.lists(extreme, min_size=3, max_size=3), min_size=1, max_size=4),
)
def test_what_each_update_alone_can_be_made_into_all_together_can(
    codec: CodecName, strategy: Strategy, before: float, values: list[list[float]]
) -> None:
    largest = CODECS[CODECS[codec].model].largest("float32")
    model = {"w": np.full(3, np.clip(before, -largest, largest), np.float32)}
    manifest, exact = manifest_of(model), packed(model)
    taken = []
    for one in values:
        with np.errstate(over="ignore", invalid="ignore"):
            update = packed({"w": np.array(one, np.float32)}, codec, model)
        if measure_update(manifest, update, exact, codec, strategy) is not None:
            taken.append(update)
    if taken:
        assert combined(manifest, taken, exact, codec, strategy)


@pytest.mark.parametrize("codec", CODEC_NAMES)
@pytest.mark.parametrize("held", [8, 2**22])
def test_each_update_is_compared_with_the_directions_of_the_others(
    codec: CodecName, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "MOST_HELD", held)
    model, manifest = net(1, 300), manifest_of(net(1, 300))
    honest = {"site-a": moved(model, 10.0, 1), "site-b": moved(model, 11.0, 1), "site-c": moved(model, 12.0, 1)}
    honest["site-d"] = model | {"conv.weight": 2 * model["conv.weight"] - moved(model, 1e4, 1)["conv.weight"]}
    updates = {}
    for site, one in honest.items():
        buffer = packed(one, codec, model)
        found = measure_update(manifest, buffer, packed(model), codec, FedAvg())
        assert found is not None
        assert found.norm is not None
        updates[site] = (found.norm, buffer)
    found_ = compare_directions(manifest, updates, packed(model), codec)
    assert found_["site-d"] == pytest.approx(-1.0, abs=1e-2)
    assert all(found_[site] == pytest.approx(1.0, abs=1e-2) for site in ("site-a", "site-b", "site-c"))


def test_who_moves_nothing_has_no_direction_and_neither_has_who_is_alone() -> None:
    model = net(1)
    manifest, still, one = manifest_of(model), packed(model), packed(moved(model, 1.0))
    assert compare_directions(manifest, {"site-a": (1.0, one), "site-b": (0.0, still)}, still, "float32") == {}
    assert compare_directions(manifest, {}, still, "float32") == {}
    two = compare_directions(
        manifest, {"site-a": (1.0, one), "site-b": (2.0, packed(moved(model, 2.0)))}, still, "float32"
    )
    assert two == {site: pytest.approx(1.0, abs=1e-3) for site in ("site-a", "site-b")}


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1.0, 1e25])
def test_a_length_is_right_where_float32_cannot_hold_its_square(scale: float) -> None:
    model = net(1) | {"conv.weight": np.zeros((300, 10), np.float32)}
    found = measure_update(manifest_of(model), packed(moved(model, scale)), packed(model), "float32", FedAvg())
    assert found is not None
    assert found.norm == pytest.approx(scale, rel=1e-3)


@pytest.mark.parametrize("pick", [0, 1, 2**63])
def test_a_large_update_is_compared_on_a_sample_that_says_nearly_the_same(
    pick: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net(1, 200_000)
    manifest, sites = manifest_of(model), {}
    for number, by in enumerate((3.0, 5.0, -4.0)):
        update = moved(moved(model, by), 2.0, seed=20 + number)
        sites[f"site-{number}"] = (float(np.linalg.norm(update["conv.weight"] - model["conv.weight"])), packed(update))
    whole = compare_directions(manifest, sites, packed(model), "float32")
    monkeypatch.setattr(figures, "RUN", 2**10)
    monkeypatch.setattr(figures, "MOST_COMPARED", 2**14)
    sample = compare_directions(manifest, sites, packed(model), "float32", pick=pick)
    assert sample == pytest.approx(whole, abs=0.05)
    assert sample != whole
    assert whole["site-2"] < -0.5 < whole["site-0"]
