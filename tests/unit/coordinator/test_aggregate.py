"""Federated averaging: the right mean, and the same bits whatever the order or the threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.work.aggregate import BLOCK, aggregate, is_finite, share_weights
from messages.tensors.codecs import CODECS, CodecName
from messages.tensors.layout import Manifest, manifest_of, tensors_of, view_tensors, write_into


def updates(sites: int, size: int = BLOCK + 7) -> tuple[Manifest, dict[str, np.ndarray]]:
    rng = np.random.default_rng(1)
    manifest, buffers = None, {}
    for n in range(sites):
        arrays = {
            "w": rng.normal(size=size).astype(np.float32),
            "half": rng.normal(size=(3, 5)).astype(np.float16),
            "count": np.array(10 * n + 5, dtype=np.int64),
        }
        manifest = manifest_of(arrays)
        buffer = bytearray(manifest.nbytes)
        write_into(arrays, manifest, memoryview(buffer))
        buffers[f"site-{n:02d}"] = np.frombuffer(buffer, dtype=np.uint8)
    assert manifest is not None
    return manifest, buffers


def average(manifest: Manifest, buffers: dict[str, np.ndarray], cases: dict[str, int], threads: int) -> np.ndarray:
    out = np.zeros(manifest.nbytes, dtype=np.uint8)
    aggregate(manifest, [(w, buffers[s]) for s, w in share_weights(cases).items()], out, threads=threads)
    return out


def test_the_mean_is_the_naive_float64_mean_in_the_tensors_own_type() -> None:
    manifest, buffers = updates(5)
    cases = {site: n + 1 for n, site in enumerate(buffers)}
    out = view_tensors(manifest, average(manifest, buffers, cases, 1))
    total = sum(cases.values())
    for name in ("w", "half"):
        naive = sum(cases[s] / total * view_tensors(manifest, b)[name].astype(np.float64) for s, b in buffers.items())
        assert np.array_equal(out[name], naive.astype(out[name].dtype))


def test_counters_are_rounded_half_to_even() -> None:
    manifest, buffers = updates(2)
    out = view_tensors(manifest, average(manifest, buffers, {"site-00": 1, "site-01": 1}, 1))
    assert out["count"] == 10
    three = {"site-00": 3, "site-01": 1}
    assert view_tensors(manifest, average(manifest, buffers, three, 1))["count"] == 8  # 7.5


@given(order=st.permutations([f"site-{n:02d}" for n in range(4)]), threads=st.integers(1, 4))
def test_neither_arrival_order_nor_threads_change_a_bit(order: list[str], threads: int) -> None:
    manifest, buffers = updates(4, 1000)
    cases = {site: int(site[-1]) + 1 for site in order}
    calm = average(manifest, buffers, {site: cases[site] for site in sorted(cases)}, 1)
    assert average(manifest, buffers, cases, threads).tobytes() == calm.tobytes()


def test_many_blocks_on_many_threads_are_the_same_bits() -> None:
    manifest, buffers = updates(3, 5 * BLOCK + 3)
    cases = dict.fromkeys(buffers, 3)
    assert average(manifest, buffers, cases, 4).tobytes() == average(manifest, buffers, cases, 1).tobytes()


@given(
    cases=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 1000), min_size=1),
    cap=st.floats(0.05, 1.0),
)
def test_weights_add_up_and_none_exceeds_the_cap_where_that_is_possible(cases: dict[str, int], cap: float) -> None:
    if sum(cases.values()) == 0:
        with pytest.raises(ValueError, match="nothing to average"):
            share_weights(cases, cap=cap)
        return
    found = share_weights(cases, cap=cap)
    assert list(found) == sorted(cases)
    assert sum(found.values()) == pytest.approx(1.0)
    with_cases = sum(count > 0 for count in cases.values())
    if cap * with_cases >= 1:
        assert max(found.values()) <= max(cap, 1 / len(cases)) + 1e-9


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("codec", ["float32", "bfloat16", "bfloat16-difference"])
def test_each_codecs_updates_make_what_plain_numpy_makes_and_the_copy_for_the_next_round(
    codec: CodecName, threads: int
) -> None:
    manifest, buffers = updates(3, 2 * BLOCK + 7)
    exact = {site: view_tensors(manifest, buffer) for site, buffer in buffers.items()}
    master = {name: (array * 3).astype(array.dtype) for name, array in exact["site-00"].items()}
    kept = np.zeros(manifest.nbytes, dtype=np.uint8)
    write_into(master, manifest, kept.data)
    update = manifest.in_codec(codec)
    sent = {site: np.zeros(update.nbytes, dtype=np.uint8) for site in exact}
    for site, arrays in exact.items():
        write_into(arrays, update, sent[site].data, tensors_of(manifest, kept))
    shares = share_weights({"site-00": 1, "site-01": 2, "site-02": 4})
    copy = manifest.in_codec(CODECS[codec].model)
    out, wire = np.zeros(manifest.nbytes, dtype=np.uint8), np.zeros(copy.nbytes, dtype=np.uint8)
    given_ = [(share, sent[site]) for site, share in shares.items()]
    assert aggregate(manifest, given_, out, codec=codec, master=kept, wire=wire, threads=threads)
    decoded = {site: {name: one.read_all() for name, one in tensors_of(update, sent[site]).items()} for site in exact}
    for name, found in view_tensors(manifest, out).items():
        mean = sum(share * decoded[site][name].astype(np.float64) for site, share in shares.items())
        if codec == "bfloat16-difference" and name == "w":
            mean = mean + master[name]
        expected = np.rint(mean) if name == "count" else mean
        assert np.array_equal(found, np.asarray(expected).astype(found.dtype)), name
    again = np.zeros(copy.nbytes, dtype=np.uint8)
    write_into(view_tensors(manifest, out), copy, again.data)
    assert wire.tobytes() == again.tobytes()


def test_differences_are_not_averaged_without_the_model_that_they_are_from() -> None:
    manifest, buffers = updates(1, 3)
    with pytest.raises(ValueError, match="differences need the model"):
        aggregate(manifest, [(1.0, buffers["site-00"])], buffers["site-00"].copy(), codec="bfloat16-difference")


@pytest.mark.parametrize(
    ("value", "codec", "finite"),
    [
        (1e38, "bfloat16", True),
        (3.4e38, "float32", True),
        (3.4e38, "bfloat16", False),
        (np.inf, "float32", False),
        (-np.inf, "float32", False),
        (np.nan, "float32", False),
    ],
)
def test_a_mean_that_is_not_finite_as_it_is_sent_is_told(value: float, codec: CodecName, finite: bool) -> None:
    arrays = {"a": np.ones(3, np.float32), "w": np.array([0, value, 0], np.float32)}
    manifest = manifest_of(arrays)
    buffer, out = np.zeros(manifest.nbytes, np.uint8), np.zeros(manifest.nbytes, np.uint8)
    write_into(arrays, manifest, buffer.data)
    wire = np.zeros(manifest.in_codec(codec).nbytes, np.uint8)
    update = np.zeros(manifest.in_codec(codec).nbytes, np.uint8)
    write_into(
        {**arrays, "w": arrays["w"] if codec == "float32" else arrays["w"] / 2}, manifest.in_codec(codec), update.data
    )
    weight = 1.0 if codec == "float32" else 2.0
    assert aggregate(manifest, [(weight, update)], out, codec=codec, wire=wire, threads=1) is finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_single_number_that_is_not_finite_is_found(value: float) -> None:
    manifest, buffers = updates(1)
    buffer = buffers["site-00"].copy()
    assert is_finite(manifest, buffer)
    view_tensors(manifest, buffer)["w"][-1] = value
    assert not is_finite(manifest, buffer)
