"""Tensors that a site keeps of an experiment from round to round: the optimiser's state, what a strategy needs."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from messages.ground.durable import sync_to_disk, writing_beside
from site_agent.training.files import kept_file


class KeptTensors:
    """Tensors by round, without pickle.

    What is kept after a round is written under that round's number and the two newest are kept, so that training a
    round again starts from what was kept before it and gives the same bits.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read_before(self, round_number: int) -> dict[str, torch.Tensor] | None:
        """What the newest earlier round left; None where there is nothing."""
        path = self._newest_before(round_number)
        return None if path is None else load_file(path)

    def digest_before(self, round_number: int) -> str:
        """SHA-256 (hex) of the same file; empty where there is none."""
        path = self._newest_before(round_number)
        return "" if path is None else sha256(path.read_bytes()).hexdigest()

    def write_round(self, tensors: Mapping[str, torch.Tensor], round_number: int) -> None:
        """Keep what a round leaves; once this returns, a power cut does not lose it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with writing_beside(self._file_of(round_number)) as beside:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, beside)
            sync_to_disk(beside)
        sync_to_disk(self._folder)
        for old in sorted(self._kept_rounds())[:-2]:
            self._file_of(old).unlink(missing_ok=True)

    def clear_rounds(self) -> None:
        """Forget all rounds."""
        for number in self._kept_rounds():
            self._file_of(number).unlink(missing_ok=True)

    def _newest_before(self, round_number: int) -> Path | None:
        rounds = [number for number in self._kept_rounds() if number < round_number]
        return self._file_of(max(rounds)) if rounds else None

    def _file_of(self, round_number: int) -> Path:
        return kept_file(self._folder, round_number)

    def _kept_rounds(self) -> list[int]:
        return [int(path.stem.removeprefix("round-")) for path in self._folder.glob("round-*.safetensors")]
