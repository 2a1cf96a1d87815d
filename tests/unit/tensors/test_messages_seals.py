"""Sealing files: the digests behind a seal are remembered, and never taken for those of other bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from messages.ground.metrics import PHASES
from messages.tensors import layout
from messages.tensors.layout import Manifest, TensorSpec
from messages.tensors.seals import REMEMBERED, Sealer, map_file

MANIFEST = Manifest(tensors=(TensorSpec(name="w", shape=(1000,), dtype="float32"),), chunk_bytes=1024)


def _file(folder: Path, seed: int) -> Path:
    path = folder / f"{seed}.bin"
    path.write_bytes(np.random.default_rng(seed).bytes(MANIFEST.nbytes))
    return path


def _hashed_bytes() -> int:
    return PHASES.take_snapshot()["hash"].bytes


def test_a_seal_is_the_one_that_every_other_party_computes(tmp_path: Path) -> None:
    path = _file(tmp_path, 1)
    expected = layout.seal_transfer(MANIFEST, layout.chunk_digests(MANIFEST, path.read_bytes()))
    assert Sealer().seal_file(path, MANIFEST) == expected


def test_what_was_sealed_is_not_hashed_again_when_it_is_sent(tmp_path: Path) -> None:
    sealer, path = Sealer(), _file(tmp_path, 1)
    sealed = sealer.seal_file(path, MANIFEST)
    before = _hashed_bytes()
    digests = sealer.chunk_digests(MANIFEST, map_file(path, MANIFEST), sealed)
    assert digests == layout.chunk_digests(MANIFEST, path.read_bytes())
    assert _hashed_bytes() == before


def test_a_seal_of_another_process_is_looked_into(tmp_path: Path) -> None:
    path = _file(tmp_path, 1)
    sealed = Sealer().seal_file(path, MANIFEST)
    digests = Sealer().chunk_digests(MANIFEST, map_file(path, MANIFEST), sealed)
    assert digests == layout.chunk_digests(MANIFEST, path.read_bytes())


def test_a_file_that_changed_is_noticed_by_who_looks(tmp_path: Path) -> None:
    sealer, path = Sealer(), _file(tmp_path, 1)
    sealed = sealer.seal_file(path, MANIFEST)
    path.write_bytes(b"x" * MANIFEST.nbytes)
    with pytest.raises(ValueError, match="not what was sealed"):
        sealer.chunk_digests(MANIFEST, map_file(path, MANIFEST), sealed, look=True)


def test_only_the_latest_transfers_are_remembered(tmp_path: Path) -> None:
    sealer = Sealer()
    first = sealer.seal_file(_file(tmp_path, 0), MANIFEST)
    for seed in range(1, REMEMBERED + 1):
        sealer.seal_file(_file(tmp_path, seed), MANIFEST)
    before = _hashed_bytes()
    sealer.chunk_digests(MANIFEST, map_file(tmp_path / "0.bin", MANIFEST), first)
    assert _hashed_bytes() == before + MANIFEST.nbytes


def test_a_file_of_another_size_is_no_transfer(tmp_path: Path) -> None:
    path = _file(tmp_path, 1)
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="5 bytes"):
        Sealer().seal_file(path, MANIFEST)


def test_a_transfer_of_nothing_has_a_seal(tmp_path: Path) -> None:
    empty, nothing = Manifest(tensors=()), tmp_path / "nothing"
    nothing.touch()
    sealer = Sealer()
    assert sealer.chunk_digests(empty, map_file(nothing, empty), sealer.seal_file(nothing, empty)) == []
