"""Codecs: exact bytes, bfloat16 as torch rounds it, differences from what was received; any shape, dtype, strides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from messages.tensors import layout
from messages.tensors.codecs import BLOCK, CODECS, ITEM_BYTES, CodecName, Tensor
from messages.tensors.layout import Manifest

NAMES: tuple[CodecName, ...] = ("float32", "bfloat16", "bfloat16-difference")
FLOATS = st.floats(width=32)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
SPECIAL = np.array(
    [
        0x00000000, 0x80000000, 0x7F800000, 0xFF800000,  # zeros and infinities
        0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001, 0x7FC00000,  # NaN, also those whose upper half says infinity
        0x00000001, 0x80000001, 0x00008000, 0x00008001, 0x00018000, 0x007FFFFF, 0x00800000,  # subnormals, and ties
        0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x3F80FFFF, 0x3FFFFFFF,  # ties and what is beside them
        0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF,  # the largest that stays finite, and those that do not
    ],
    dtype=np.uint32,
).view(np.float32)  # fmt: skip


def through(
    arrays: dict[str, NDArray[Any]], codec: CodecName, received: dict[str, Tensor] | None = None
) -> tuple[Manifest, bytearray, dict[str, NDArray[Any]]]:
    manifest = layout.manifest_of(arrays, codec=codec)
    buffer = bytearray(manifest.nbytes)
    layout.write_into(arrays, manifest, memoryview(buffer), received)
    return manifest, buffer, {name: one.read_all() for name, one in layout.tensors_of(manifest, bytes(buffer)).items()}


def exact(arrays: dict[str, NDArray[Any]]) -> dict[str, Tensor]:
    manifest, buffer, _ = through(arrays, "float32")
    return layout.tensors_of(manifest, buffer)


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """bfloat16's values, by the definition: the nearer of its neighbours in 16 bits, of two as near the even one."""
    bits = values.reshape(-1).view(np.uint32).astype(np.uint64)
    low, kept = bits & 0xFFFF, bits >> 16
    up = (low > 0x8000) | ((low == 0x8000) & (kept & 1 == 1))
    found = ((kept + up) << 16).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(values.reshape(-1)), np.float32("nan"), found).astype(np.float32).reshape(values.shape)


def same(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Bit by bit, but that any NaN is like another."""
    if found.dtype.kind != "f":
        return found.tobytes() == expected.tobytes()
    nan = np.isnan(expected)
    return bool((np.isnan(found) == nan).all()) and found[~nan].tobytes() == expected[~nan].tobytes()


@given(
    codec=st.sampled_from(NAMES),
    arrays=st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.sampled_from(sorted(ITEM_BYTES)).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES)),
        max_size=5,
    ),
)
def test_what_is_not_float32_comes_back_to_the_bit_and_float32_as_bfloat16_has_it(
    codec: CodecName, arrays: dict[str, NDArray[Any]]
) -> None:
    zero = exact({name: np.zeros_like(array) for name, array in arrays.items()})
    manifest, buffer, found = through(arrays, codec, zero)
    halves = (
        sum(array.size for array in arrays.values() if array.dtype == np.float32)
        if CODECS[codec].rewrites("float32")
        else 0
    )
    assert len(buffer) == manifest.nbytes == sum(array.nbytes for array in arrays.values()) - 2 * halves
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        if array.dtype == np.float32 and CODECS[codec].rewrites("float32"):
            # A difference from zero is the weight itself, but for the sign of zero.
            assert same(found[name], rounded(array) if codec == "bfloat16" else rounded(array - np.float32(0)))
        else:
            assert found[name].tobytes() == array.tobytes()


@pytest.mark.torch
@settings(deadline=None)  # the first example imports torch
@given(hnp.arrays(np.uint32, st.integers(0, 300)))
def test_bfloat16_is_what_torch_makes_of_any_bits(bits: NDArray[np.uint32]) -> None:
    import torch

    values = np.concatenate([SPECIAL, bits.view(np.float32)])
    expected = torch.from_numpy(values.copy()).bfloat16().float().numpy()
    assert same(through({"w": values}, "bfloat16")[2]["w"], expected)


def test_nan_stays_quiet_nan_and_only_what_is_too_large_becomes_infinite() -> None:
    _, buffer, found = through({"w": SPECIAL}, "bfloat16")
    wire = np.frombuffer(buffer, "<u2")
    nan = np.isnan(SPECIAL)
    assert np.isnan(found["w"]).tolist() == nan.tolist()
    assert (wire[nan] & 0x0040 == 0x0040).all()
    assert SPECIAL[np.isinf(found["w"])].view(np.uint32).tolist() == [0x7F800000, 0xFF800000, 0x7F7F8000, 0x7F7FFFFF]
    largest = np.float32(CODECS["bfloat16"].largest("float32"))
    more = np.nextafter(largest, np.float32("inf"))
    assert np.isfinite(through({"w": np.array([largest, more])}, "bfloat16")[2]["w"]).tolist() == [True, False]


@given(
    trained=hnp.arrays(np.float32, 9, elements=FLOATS),
    received=hnp.arrays(np.float32, 9, elements=FLOATS),
    sent_as=st.sampled_from(["float32", "bfloat16"]),
)
def test_a_difference_is_from_what_the_site_decoded(
    trained: NDArray[np.float32], received: NDArray[np.float32], sent_as: CodecName
) -> None:
    manifest, buffer, decoded = through({"w": received}, sent_as)
    found = through({"w": trained}, "bfloat16-difference", layout.tensors_of(manifest, buffer))[2]["w"]
    with np.errstate(all="ignore"):
        assert same(found, rounded(trained - decoded["w"]))


def test_a_difference_without_what_was_received_is_refused() -> None:
    weights = {"w": np.ones(3, np.float32)}
    other = exact({"w": np.ones((3, 1), np.float32)})
    for received in (None, {}, other):
        with pytest.raises(ValueError, match="was received"):
            through(weights, "bfloat16-difference", received)


@pytest.mark.parametrize("codec", NAMES)
def test_any_strides_give_the_bytes_of_the_contiguous_array_also_over_many_blocks(codec: CodecName) -> None:
    rng = np.random.default_rng(3)
    whole = rng.standard_normal((3, BLOCK + 5, 4)).astype(np.float32)
    fortran = np.asfortranarray(whole)
    received = exact({"w": rng.standard_normal(whole.shape).astype(np.float32)})
    expected = through({"w": whole}, codec, received)[1]
    assert through({"w": fortran}, codec, received)[1] == expected
    manifest = layout.manifest_of({"w": whole}, codec=codec)
    assert b"".join(block.tobytes() for block in layout.write_blocks({"w": fortran}, manifest, received)) == expected
    back = np.zeros(whole.shape[::-1], np.float32).T
    layout.tensors_of(manifest, expected)["w"].read_into(back)
    assert np.array_equal(back, through({"w": whole}, codec, received)[2]["w"])
    with pytest.raises(ValueError, match="does not go into"):
        layout.tensors_of(manifest, expected)["w"].read_into(np.zeros(3, np.float32))


@pytest.mark.parametrize("codec", NAMES)
def test_a_tensor_at_an_odd_byte_is_read_and_written_like_any_other(codec: CodecName) -> None:
    arrays: dict[str, NDArray[Any]] = {
        "flag": np.array(True),
        "w": np.arange(5, dtype=np.float32),
        "n": np.array(2**40),
    }
    found = through(arrays, codec, exact({name: np.zeros_like(array) for name, array in arrays.items()}))[2]
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }


def test_tensors_in_another_codec_have_no_views_and_another_seal() -> None:
    manifest, buffer, _ = through({"w": np.ones(3, np.float32)}, "bfloat16")
    with pytest.raises(ValueError, match="have to be decoded"):
        layout.view_tensors(manifest, buffer)
    difference = manifest.in_codec("bfloat16-difference")
    digests = layout.chunk_digests(manifest, buffer)
    assert difference.nbytes == manifest.nbytes
    assert layout.seal_transfer(manifest, digests) != layout.seal_transfer(difference, digests)
    assert manifest.in_codec("float32").nbytes == 2 * manifest.nbytes
    assert manifest.in_codec("float32").in_codec("bfloat16") == manifest
    assert difference.same_tensors(manifest)
