"""The files of a masked update: the same bytes after a real SIGKILL, and what cannot be in a sum is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from messages.ground import crash
from messages.secure.masks import Mask, WordLayout, remove_masks
from messages.tensors.layout import manifest_of, write_into
from site_agent.secure.updates import OutOfRange, write_masked, write_words

MODEL = {"w": np.linspace(-1, 1, 20_000, dtype=np.float32), "b": np.zeros(3, dtype=np.float32)}
MANIFEST = manifest_of(MODEL)
FIGURES = np.array([7, 2**63], dtype=np.uint64)
LAYOUT = WordLayout(20_003, 2)
MASKS = [Mask(bytes([number]) * 32, 1 if number % 2 else -1) for number in (1, 2, 3)]


def write_model(path: Path, shift: float) -> Path:
    buffer = bytearray(MANIFEST.nbytes)
    write_into({name: array + np.float32(shift) for name, array in MODEL.items()}, MANIFEST, memoryview(buffer))
    path.write_bytes(buffer)
    return path


def quantise(folder: Path, shift: float = 0.25, norm_max: float | None = None) -> Path:
    words = folder / "one.words"
    write_words(
        words,
        trained=write_model(folder / "one.trained", shift),
        received=write_model(folder / "model", 0.0),
        manifest=MANIFEST,
        share=0.5,
        norm_max=norm_max,
        figures=FIGURES,
    )
    return words


MASKING = """
import sys
from pathlib import Path
from test_secure_updates import LAYOUT, MASKS
from site_agent.secure.updates import write_masked
write_masked(Path(sys.argv[2]), Path(sys.argv[1]), LAYOUT, MASKS)
"""


def test_an_agent_killed_in_the_middle_of_masking_sends_nothing_and_then_the_same_bytes(tmp_path: Path) -> None:
    words, update = quantise(tmp_path), tmp_path / "one.update"
    armed = tmp_path / "crash"
    armed.write_text("agent:masking 1")
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, crash.AT: str(armed), "PYTHONPATH": path}
    command = [sys.executable, "-c", MASKING, str(words), str(update)]
    assert subprocess.run(command, env=env, check=False).returncode == -signal.SIGKILL
    assert not update.exists(), "what is not masked to the end could leave"
    assert subprocess.run(command, env=env, check=False).returncode == 0
    write_masked(tmp_path / "calm.update", words, LAYOUT, MASKS)
    assert update.read_bytes() == (tmp_path / "calm.update").read_bytes()
    assert update.read_bytes()[:64] != words.read_bytes()[:64]


def test_under_its_masks_lie_the_weighted_difference_and_the_figures(tmp_path: Path) -> None:
    words, update = quantise(tmp_path), tmp_path / "one.update"
    write_masked(update, words, LAYOUT, MASKS)
    buffer = np.frombuffer(bytearray(update.read_bytes()), dtype=np.uint8)
    remove_masks(buffer, LAYOUT, MASKS)
    assert buffer.tobytes() == words.read_bytes()
    numbers = buffer[: 4 * LAYOUT.words32].view(np.int32)
    assert np.abs(numbers - 0.25 * 0.5 * 2**30).max() <= 64, "float32 itself is no finer near 1"
    assert buffer[4 * LAYOUT.words32 :].view(np.uint64).tolist() == FIGURES.tolist()


def test_a_longer_difference_is_shortened_to_the_files_norm(tmp_path: Path) -> None:
    whole = np.frombuffer(quantise(tmp_path).read_bytes()[: 4 * LAYOUT.words32], dtype=np.int32).astype(float)
    (tmp_path / "short").mkdir()
    words = quantise(tmp_path / "short", norm_max=1.0).read_bytes()
    short = np.frombuffer(words[: 4 * LAYOUT.words32], dtype=np.int32).astype(float)
    length = np.linalg.norm(short) / (0.5 * 2**30)
    assert length == pytest.approx(1.0, rel=1e-4)
    assert np.linalg.norm(whole) > 30 * np.linalg.norm(short)


@pytest.mark.parametrize(("shift", "error"), [(9.0, OutOfRange), (float("nan"), ValueError)])
def test_what_cannot_be_in_a_sum_is_refused_and_leaves_no_words(
    shift: float, error: type[ValueError], tmp_path: Path
) -> None:
    with pytest.raises(error):
        quantise(tmp_path, shift)
    assert not (tmp_path / "one.words").exists()
