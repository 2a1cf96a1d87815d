"""Tensors and transfers: the same bytes arrive, whatever happens on the way."""

from __future__ import annotations

import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from messages import codec
from messages.ground.errors import MalformedMessage
from messages.reasons import Reason
from messages.tensors import layout
from messages.tensors.codecs import ITEM_BYTES
from messages.tensors.layout import Manifest, TensorSpec
from messages.tensors.transfer import ChunkHeader, Incoming, TransferKey, decode_chunk, encode_chunk

KEY = TransferKey("exp", 3, "site-a", 2)
SIZE = 1024
ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    st.sampled_from(sorted(ITEM_BYTES)).flatmap(
        lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    ),
    max_size=5,
)


def sealed(arrays: dict[str, NDArray[Any]]) -> tuple[Manifest, bytearray]:
    manifest = layout.manifest_of(arrays, SIZE)
    buffer = bytearray(manifest.nbytes)
    layout.write_into(arrays, manifest, memoryview(buffer))
    return manifest, buffer


def transfer(count: int = 5, tail: int = 100, seed: int = 0) -> tuple[Manifest, bytes, str, list[bytes]]:
    """Manifest, buffer, seal and the messages of a transfer with a shorter last chunk."""
    data = np.random.default_rng(seed).integers(0, 256, (count - 1) * SIZE + tail, dtype=np.uint8)
    manifest, buffer = sealed({"x": data})
    digests = layout.chunk_digests(manifest, buffer)
    seal = layout.seal_transfer(manifest, digests)
    return manifest, bytes(buffer), seal, [chunk(bytes(buffer), index) for index in range(count)]


def chunk(buffer: bytes, index: int, key: TransferKey = KEY) -> bytes:
    data = buffer[index * SIZE : (index + 1) * SIZE]
    return encode_chunk(ChunkHeader(key, index, SIZE, len(buffer), sha256(data).digest()), data)


@given(ARRAYS)
def test_arrays_of_any_shape_and_type_come_back_bit_by_bit(arrays: dict[str, NDArray[Any]]) -> None:
    manifest, buffer = sealed(arrays)
    assert Manifest.model_validate(codec.unpack(codec.pack(manifest.plain()))) == manifest
    found = layout.view_tensors(manifest, bytes(buffer))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        assert found[name].tobytes() == array.tobytes()


def test_payload_bits_of_nan_counters_scalars_and_strides_are_kept() -> None:
    nan = np.array([0x7FC01234, 0xFFFFFFFF, 0x7F800001], dtype=np.uint32).view(np.float32)
    strided = np.arange(24, dtype=np.float64).reshape(4, 6)[::-2, 1::2].T
    arrays: dict[str, NDArray[Any]] = {
        "nan": nan,
        "counter": np.array(2**62 + 1, dtype=np.int64),
        "strided": strided,
        "none": np.zeros((0, 3)),
    }
    manifest, buffer = sealed(arrays)
    found = layout.view_tensors(manifest, buffer)
    assert found["nan"].view(np.uint32).tolist() == [0x7FC01234, 0xFFFFFFFF, 0x7F800001]
    assert int(found["counter"]) == 2**62 + 1
    assert found["strided"].tolist() == strided.tolist()
    assert found["none"].shape == (0, 3)


def test_arrays_that_do_not_fit_the_manifest_are_refused() -> None:
    manifest, buffer = sealed({"a": np.zeros(3, np.float32)})
    wrong: list[dict[str, NDArray[Any]]] = [
        {},
        {"a": np.zeros(4, np.float32)},
        {"a": np.zeros(3, np.float64)},
    ]
    for arrays in wrong:
        with pytest.raises(ValueError, match="tensor 'a'"):
            layout.write_into(arrays, manifest, memoryview(buffer))
    with pytest.raises(ValueError, match="dtype"):
        layout.manifest_of({"c": np.zeros(1, np.complex64)})
    with pytest.raises(ValueError, match="buffer"):
        layout.view_tensors(manifest, b"")


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": [{"name": "a", "shape": [2.0], "dtype": "float32"}]},
        {"tensors": [{"name": "a", "shape": [True], "dtype": "float32"}]},
        {"tensors": [{"name": "a", "shape": ["2"], "dtype": "float32"}]},
        {"tensors": [{"name": "a", "shape": [-1], "dtype": "float32"}]},
        {"tensors": [{"name": "a", "shape": [2**40, 2**40], "dtype": "float32"}]},
        {"tensors": [{"name": "a", "shape": [1], "dtype": "object"}]},
        {"tensors": [{"name": "a", "shape": [1], "dtype": "int8"}] * 2},
        {"codec": "pickle"},
        {"chunk_bytes": 1},
        {"extra": 1},
    ],
)
def test_a_manifest_that_lies_about_itself_is_refused(change: dict[str, Any]) -> None:
    good = {
        "tensors": [{"name": "a", "shape": [2], "dtype": "float32"}],
        "codec": "float32",
        "chunk_bytes": SIZE,
    }
    assert Manifest.model_validate(good).nbytes == 8
    with pytest.raises(ValueError, match="Manifest"):
        Manifest.model_validate(good | change)


def test_the_seal_depends_on_every_chunk_their_order_and_the_manifest() -> None:
    manifest, buffer, seal, _ = transfer()
    digests = layout.chunk_digests(manifest, buffer)
    other = Manifest(tensors=(TensorSpec(name="y", shape=(manifest.nbytes,), dtype="uint8"),), chunk_bytes=SIZE)
    assert layout.seal_transfer(manifest, digests) == seal
    assert (
        len(
            {
                seal,
                layout.seal_transfer(manifest, digests[::-1]),
                layout.seal_transfer(manifest, digests[1:]),
                layout.seal_transfer(other, digests),
            }
        )
        == 4
    )


@given(st.binary(max_size=120))
def test_random_bytes_are_never_a_chunk(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_chunk(data)


def test_a_flipped_bit_anywhere_in_a_chunk_never_passes_for_the_same_chunk() -> None:
    message = transfer(1)[3][0]
    header, data = decode_chunk(message)
    for position in range(len(message)):
        changed = bytearray(message)
        changed[position] ^= 4
        try:
            other, bytes_found = decode_chunk(bytes(changed))
        except MalformedMessage:
            continue
        # The header's names are not under the digest: it is then another transfer's chunk, with the same bytes.
        assert other != header
        assert bytes_found == data


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (0, 2),
        (1, "../x"),
        (1, "A"),
        (2, -1),
        (2, True),
        (2, 1.0),
        (2, 2**60),
        (3, ""),
        (4, -1),
        (4, "1"),
        (5, -1),
        (5, 1),
        (5, 2**63),
        (6, 1023),
        (6, 2**24),
        (7, 101),
        (7, 2**63),
        (8, b""),
        (8, "text"),
    ],
)
def test_a_chunk_header_that_is_inconsistent_is_refused(field: int, value: Any) -> None:
    data = bytes(100)
    fields = [1, "exp", 3, "site-a", 2, 0, SIZE, 100, sha256(data).digest()]

    def message() -> bytes:
        packed = codec.pack(fields)
        return len(packed).to_bytes(2, "big") + packed + data

    assert decode_chunk(message())[0].total == 100
    fields[field] = value
    with pytest.raises(MalformedMessage):
        decode_chunk(message())


@given(st.permutations(range(5)), st.lists(st.integers(0, 4), max_size=4))
def test_chunks_in_any_order_and_twice_make_the_same_bytes(order: list[int], again: list[int]) -> None:
    manifest, buffer, seal, messages = transfer()
    with tempfile.TemporaryDirectory() as name:
        incoming = Incoming(Path(name), KEY, size=SIZE, total=len(buffer))
        new = [incoming.add_chunk(*decode_chunk(messages[index])) for index in [*order[:3], *again, *order[3:]]]
        assert sum(new) == 5
        assert incoming.complete
        incoming.finish(manifest, seal, Path(name, "done"))
        assert Path(name, "done").read_bytes() == buffer
        assert os.listdir(name) == ["done"]


def test_chunks_of_another_transfer_are_refused(tmp_path: Path) -> None:
    _, buffer, _, messages = transfer()
    incoming = Incoming(tmp_path, KEY, size=SIZE, total=len(buffer))
    for other in (TransferKey("exp", 3, "site-a", 1), TransferKey("exp", 3, "site-b", 2)):
        with pytest.raises(ValueError, match="another transfer"):
            incoming.add_chunk(*decode_chunk(chunk(buffer, 0, other)))
    longer = buffer + b"x"
    with pytest.raises(ValueError, match="another transfer"):
        incoming.add_chunk(*decode_chunk(chunk(longer, 0)))
    assert incoming.list_missing() == [0, 1, 2, 3, 4]
    assert incoming.add_chunk(*decode_chunk(messages[1]))
    assert incoming.list_missing() == [0, 2, 3, 4]
    incoming.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage", ["none", "half a record", "a chunk torn", "record without chunk", "no record", "no part"]
)
def test_a_transfer_that_was_killed_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, damage: str) -> None:
    manifest, buffer, seal, messages = transfer()
    first = Incoming(tmp_path, KEY, size=SIZE, total=len(buffer))
    for index in (4, 0, 2):
        first.add_chunk(*decode_chunk(messages[index]))
    first.close()
    part, have = tmp_path / f"{KEY.stem}.part", tmp_path / f"{KEY.stem}.have"
    missing = [1, 3]
    if damage == "half a record":
        have.write_bytes(have.read_bytes()[:-7])
        missing = [1, 2, 3]
    elif damage == "a chunk torn":
        with part.open("r+b") as file:
            file.seek(2 * SIZE + 500)
            file.write(bytes(524))
        missing = [1, 2, 3]
    elif damage == "record without chunk":
        have.write_bytes(have.read_bytes() + (1).to_bytes(4, "big") + sha256(buffer[SIZE : 2 * SIZE]).digest())
    elif damage == "no record":
        have.unlink()
        missing = [0, 1, 2, 3, 4]
    elif damage == "no part":
        part.unlink()
        missing = [0, 1, 2, 3, 4]
    for _ in range(2):  # killed again right after it was opened
        again = Incoming(tmp_path, KEY, size=SIZE, total=len(buffer))
        assert again.list_missing() == missing
        again.close()
    again = Incoming(tmp_path, KEY, size=SIZE, total=len(buffer))
    for index in missing:
        assert again.add_chunk(*decode_chunk(messages[index]))
    again.finish(manifest, seal, tmp_path / "done")
    assert (tmp_path / "done").read_bytes() == buffer


def test_a_kill_while_opening_keeps_the_record_of_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, buffer, _, messages = transfer()
    first = Incoming(tmp_path, KEY, size=SIZE, total=len(buffer))
    first.add_chunk(*decode_chunk(messages[0]))
    first.close()

    def killed(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            Incoming(tmp_path, KEY, size=SIZE, total=len(buffer))
    again = Incoming(tmp_path, KEY, size=SIZE, total=len(buffer))
    assert again.list_missing() == [1, 2, 3, 4]
    again.close()


def test_writes_that_the_disk_takes_in_part_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, buffer, seal, messages = transfer()
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: whole(fd, memoryview(data)[:300], offset))
    incoming = Incoming(tmp_path, KEY, size=SIZE, total=len(buffer))
    for message in messages:
        incoming.add_chunk(*decode_chunk(message))
    incoming.finish(manifest, seal, tmp_path / "done")
    assert (tmp_path / "done").read_bytes() == buffer


def test_nothing_is_finished_with_chunks_missing_or_other_than_sealed(tmp_path: Path) -> None:
    manifest, buffer, seal, messages = transfer()
    incoming = Incoming(tmp_path, KEY, size=SIZE, total=len(buffer))
    for message in messages[1:]:
        incoming.add_chunk(*decode_chunk(message))
    with pytest.raises(ValueError, match="missing"):
        incoming.finish(manifest, seal, tmp_path / "done")
    incoming.add_chunk(*decode_chunk(messages[0]))
    for other_manifest, other_seal, reason in (
        (manifest, "0" * 64, Reason.WRONG_DIGEST),
        (transfer(6)[0], seal, Reason.WRONG_SHAPE),
        (manifest.model_copy(update={"chunk_bytes": 2048}), seal, Reason.WRONG_SHAPE),
    ):
        with pytest.raises(MalformedMessage) as caught:
            incoming.finish(other_manifest, other_seal, tmp_path / "done")
        assert caught.value.reason == reason
    assert not (tmp_path / "done").exists()
    incoming.finish(manifest, seal, tmp_path / "done")
    assert (tmp_path / "done").read_bytes() == buffer


def test_closing_again_leaves_files_alone_that_were_opened_since(tmp_path: Path) -> None:
    _, buffer, _, messages = transfer()
    incoming = Incoming(tmp_path, KEY, size=SIZE, total=len(buffer))
    incoming.close()
    with (tmp_path / "a").open("wb") as one, (tmp_path / "b").open("wb") as two:
        incoming.close()
        one.write(b"1")
        two.write(b"2")
    with pytest.raises(ValueError, match="closed"):
        incoming.add_chunk(*decode_chunk(messages[0]))


def test_an_empty_transfer_is_complete_at_once(tmp_path: Path) -> None:
    manifest, buffer = sealed({})
    incoming = Incoming(tmp_path, KEY, size=SIZE, total=0)
    incoming.finish(manifest, layout.seal_transfer(manifest, layout.chunk_digests(manifest, buffer)), tmp_path / "done")
    assert (tmp_path / "done").read_bytes() == b""
