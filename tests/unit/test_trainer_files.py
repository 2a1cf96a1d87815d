"""A trainer's files: the model it reads and the update it writes, in any codec, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from messages.errors import WorkFailed
from messages.tensor_codecs import CODECS, CodecName
from messages.tensors import Manifest, manifest_of, tensors_of, write_into
from site_agent.training.files import open_model, write_update

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
    trained = {name: one.read() + one.dtype.type(1) for name, one in received.items()}
    update = manifest_of(ARRAYS, codec=codec)
    write_update(tmp_path / "new" / "update", trained, update, received)
    content = (tmp_path / "new" / "update").read_bytes()
    expected = bytearray(update.nbytes)
    write_into(trained, update, memoryview(expected), received)
    assert content == expected
    found = {name: one.read() for name, one in tensors_of(update, content).items()}
    assert found["n"] == 8
    if codec == "bfloat16-difference":
        np.testing.assert_allclose(found["w"], 1, rtol=1e-2)


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
