"""The files between Konsil and an operator's program: what it is told, and what it leaves, which nobody has to believe.

A program may leave anything under the names that it was given: links, pipes, files without end. So each is opened
without following links, must be a regular file of a size that fits, and is read once.
"""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save_file

from messages.ground.errors import WorkFailed
from messages.ground.strictness import StrictModel
from messages.kinds import MOST_LOSS
from messages.reasons import Reason
from messages.tensors.codecs import Tensor
from messages.tensors.layout import Manifest

FORMAT = 1
FILES: Mapping[str, str] = {
    "model": "model.safetensors",
    "cases": "cases.csv",
    "update": "update.safetensors",
    "result": "result.json",
    "predictions": "predictions.csv",
}
TASK = "task.json"
MOST_RESULT = 2**16
MOST_HEADER = 2**24
"""Bytes of a safetensors file beside its tensors."""
MOST_LINE = 1000
"""Bytes of a line of predictions, a target."""


class ProgramFailed(WorkFailed):
    """The program did not do what was asked; its own words are in the trainer's log."""

    def __init__(self, what: str, reason: Reason = Reason.TRAINING_ERROR) -> None:
        super().__init__(what, where="trainer")
        self.reason = reason


class TrainingResult(StrictModel):
    """`result.json`."""

    steps: int = Field(ge=0, le=2**53)
    loss: float
    epochs: float = Field(1.0, ge=0, le=1e9)


def write_task(
    folder: Path, plain: Mapping[str, Any], model: Mapping[str, Tensor], lines: Sequence[Sequence[str | float]]
) -> None:
    """Write what a run of the program is told.

    Args:
        plain: `task.json`, without format and names of files. model: as received.
        lines: of `cases.csv`; the first names the columns.
    """
    told = {"format": FORMAT, "files": FILES, **plain}
    (folder / TASK).write_text(json.dumps(told, indent=1), encoding="utf-8")
    arrays = {name: np.asarray(one.read_all(), order="C") for name, one in model.items()}
    save_file(arrays, folder / FILES["model"])
    with (folder / FILES["cases"]).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(lines)


def read_update(folder: Path, manifest: Manifest) -> dict[str, NDArray[Any]]:
    """The tensors that the program leaves.

    Raises:
        ProgramFailed: not those of the manifest by name, shape and type, or not all finite.
    """
    wanted = manifest.in_codec("float32")
    content = _read_file(folder / FILES["update"], wanted.nbytes + MOST_HEADER)
    try:
        arrays: dict[str, NDArray[Any]] = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProgramFailed(f"{FILES['update']} is no safetensors file ({error})") from None
    names = {spec.name for spec in wanted.tensors}
    if strange := sorted(arrays.keys() ^ names):
        raise ProgramFailed(
            f"{FILES['update']}: {strange[0]!r:.80} is {'lacking' if strange[0] in names else 'unknown'}",
            Reason.WRONG_SHAPE,
        )
    for spec in wanted.tensors:
        found = arrays[spec.name]
        if (found.shape, found.dtype.name) != (spec.shape, spec.dtype):
            said = f"{found.dtype.name}{list(found.shape)}, not {spec.dtype}{list(spec.shape)}"
            raise ProgramFailed(f"{FILES['update']}: {spec.name} is {said}", Reason.WRONG_SHAPE)
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise ProgramFailed(f"{FILES['update']}: {spec.name} holds NaN or infinity", Reason.NAN_LOSS)
    return arrays


def read_result(folder: Path) -> TrainingResult:
    """What the program says of its training; ProgramFailed where it says none."""
    content = _read_file(folder / FILES["result"], MOST_RESULT)
    try:
        found = TrainingResult.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise ProgramFailed(f"{FILES['result']}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if not abs(found.loss) <= MOST_LOSS:
        raise ProgramFailed(f"{FILES['result']}: the loss is none up to {MOST_LOSS:g}", Reason.NAN_LOSS)
    return found


def read_predictions(folder: Path, targets: Sequence[str], cases: int) -> list[list[float]]:
    """(cases, targets); ProgramFailed where the program leaves no finite number for each."""
    name = FILES["predictions"]
    content = _read_file(folder / name, (cases + 1) * MOST_LINE * len(targets))
    try:
        head, *lines = [line for line in csv.reader(io.StringIO(content.decode("utf-8"), newline="")) if line]
        found = [[float(cell) for cell in line] for line in lines]
    except (ValueError, csv.Error) as error:
        raise ProgramFailed(f"{name} cannot be read ({error!s:.200})") from None
    if head != [*targets]:
        raise ProgramFailed(f"{name}: the first line does not name {', '.join(targets)}")
    if len(found) != cases or any(len(line) != len(targets) for line in found):
        raise ProgramFailed(
            f"{name} has {len(found)} lines, and {cases} cases were asked for, with {len(targets)} each"
        )
    if found and not np.isfinite(found).all():
        raise ProgramFailed(f"{name} holds NaN or infinity", Reason.NAN_LOSS)
    return found


def _read_file(path: Path, most: int) -> bytes:
    """A regular file, of at most so many bytes; ProgramFailed otherwise."""
    try:
        place = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ProgramFailed(f"the program left no {path.name} ({error.strerror})") from None
    with os.fdopen(place, "rb") as file:
        status = os.fstat(place)
        if not stat.S_ISREG(status.st_mode) or status.st_size > most:
            raise ProgramFailed(f"{path.name} is no file of at most {most} bytes")
        return file.read(most + 1)[:most]
