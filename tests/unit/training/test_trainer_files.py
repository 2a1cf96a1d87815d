"""A trainer's files: the model it reads and the update it writes, in any codec, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.ground.errors import WorkFailed
from messages.tensors.codecs import CODECS, CodecName
from messages.tensors.layout import Manifest, chunk_digests, manifest_of, tensors_of, write_into
from site_agent.training.files import growing_path, open_model, write_update

ARRAYS = {"w": np.linspace(-3, 3, 70_001, dtype=np.float32).reshape(1, -1), "n": np.array(7), "none": np.zeros((0, 2))}


def model(folder: Path, codec: CodecName) -> tuple[Path, Manifest]:
    manifest = manifest_of(ARRAYS, codec=codec)
    buffer = bytearray(manifest.nbytes)
    write_into(ARRAYS, manifest, memoryview(buffer))
    (folder / "model").write_bytes(buffer)
    return folder / "model", manifest


@pytest.mark.parametrize("codec", ["float32", "bfloat16", "bfloat16-difference"])
def test_an_update_holds_the_bytes_that_its_manifest_says(tmp_path: Path, codec: CodecName) -> None:
    received = open_model(*model(tmp_path, CODECS[codec].model))
    trained = {name: one.read_all() + one.dtype.type(1) for name, one in received.items()}
    update = manifest_of(ARRAYS, codec=codec)
    write_update(tmp_path / "new" / "update", trained, update, received)
    content = (tmp_path / "new" / "update").read_bytes()
    expected = bytearray(update.nbytes)
    write_into(trained, update, memoryview(expected), received)
    assert content == expected
    found = {name: one.read_all() for name, one in tensors_of(update, content).items()}
    assert found["n"] == 8
    if codec == "bfloat16-difference":
        np.testing.assert_allclose(found["w"], 1, rtol=1e-2)


@settings(deadline=None)
@given(
    codec=st.sampled_from(["float32", "bfloat16", "bfloat16-difference"]),
    chunk=st.integers(1024, 5000),
    sizes=st.lists(st.integers(0, 40_000), max_size=4),
)
def test_chunks_are_told_of_with_their_digests_once_they_lie_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, codec: CodecName, chunk: int, sizes: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("update")
    arrays = {f"t{n}": np.linspace(-1, n + 1, size, dtype=np.float32) for n, size in enumerate(sizes)}
    arrays["count"] = np.array(7)
    exact = manifest_of(arrays)
    buffer = bytearray(exact.nbytes)
    write_into(arrays, exact, memoryview(buffer))
    (folder / "model").write_bytes(buffer)
    update = manifest_of({name: one + one.dtype.type(1) for name, one in arrays.items()}, chunk, codec)
    trained = {name: one + one.dtype.type(1) for name, one in arrays.items()}
    seen: list[bytes] = []
    told: list[bytes] = []

    def on_chunks(first: int, digests: list[bytes]) -> None:
        assert first == len(told)
        content = growing_path(folder / "update").read_bytes()
        assert len(content) == update.nbytes
        told.extend(digests)
        seen.extend(content[slice(*update.chunk_range(index))] for index in range(first, first + len(digests)))

    write_update(folder / "update", trained, update, open_model(folder / "model", exact), on_chunks=on_chunks)
    whole = (folder / "update").read_bytes()
    assert told == chunk_digests(update, whole)
    assert b"".join(seen) == whole  # each chunk was final when it was told of


def test_what_an_earlier_process_left_of_an_update_stays_as_it_is_for_who_reads_it(tmp_path: Path) -> None:
    received = open_model(*model(tmp_path, "float32"))
    growing_path(tmp_path / "update").write_bytes(b"left")
    with growing_path(tmp_path / "update").open("rb") as left:
        write_update(tmp_path / "update", ARRAYS, manifest_of(ARRAYS), received)
        assert left.read() == b"left"


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path, manifest = model(tmp_path, "bfloat16")
    with pytest.raises(WorkFailed, match="cannot be a difference"):
        open_model(path, manifest.in_codec("bfloat16-difference"))
    with pytest.raises(WorkFailed, match="cannot be read"):
        open_model(path, manifest.in_codec("float32"))
    with pytest.raises(WorkFailed, match="cannot be read"):
        open_model(tmp_path / "nowhere", manifest)


def test_an_update_that_does_not_fit_leaves_none_behind(tmp_path: Path) -> None:
    path, manifest = model(tmp_path, "float32")
    received = open_model(path, manifest)
    with pytest.raises(ValueError, match="tensor 'n'"):
        write_update(tmp_path / "update", {**ARRAYS, "n": np.array(7.0)}, manifest, received)
    assert not (tmp_path / "update").exists()


def test_a_model_without_any_tensor_is_read_and_written(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"")
    empty = manifest_of({})
    received = open_model(tmp_path / "model", empty)
    assert received == {}
    write_update(tmp_path / "update", {}, empty, received)
    assert (tmp_path / "update").read_bytes() == b""
