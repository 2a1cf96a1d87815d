"""A model file in a form that other tools load, made in a process of its own: torch is not imported here."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from deploy.extras import need_module
from messages.ground.errors import RequestError, WorkFailed


class ModelFormat(StrEnum):
    """What `experiment model --format` takes."""

    SAFETENSORS = "safetensors"
    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"
    MONAI_BUNDLE = "monai-bundle"


ENDINGS = {
    ModelFormat.SAFETENSORS: ".safetensors",
    ModelFormat.TORCHSCRIPT: ".pt",
    ModelFormat.ONNX: ".onnx",
    ModelFormat.MONAI_BUNDLE: "-bundle",
}
"""Of the file's default name; a bundle is a folder."""


def convert_apart(model: Path, form: ModelFormat, out: Path, own: Path | None, show: Callable[[str], None]) -> float:
    """Write `model` in another form; returns the largest relative difference of its outputs.

    Raises:
        RequestError: what was asked cannot be, or torch is not installed. WorkFailed: it failed.
    """
    need_module("torch", what=f"{form.value}")
    show(f"writing it as {form.value}")
    command = [sys.executable, "-m", "nets.convert", str(model), "--format", form.value, "--out", str(out)]
    command += [] if own is None else ["--own", str(own)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return float(json.loads(done.stdout.splitlines()[-1])["difference"])
    words = done.stderr.strip().splitlines() or [f"the process ended with {done.returncode}"]
    kind = {1: WorkFailed, 2: RequestError}.get(done.returncode, WorkFailed)
    try:
        told = json.loads(words[-1])
        raise kind(told["what"], where=told["where"], advice=told["advice"])
    except (ValueError, KeyError, TypeError):
        raise WorkFailed(f"it could not be written as {form.value} ({words[-1]})", where=str(model)) from None


def find_model_file(named: str) -> Path | None:
    """The file that is named in an id's place; None: it is an id.

    Raises:
        ConfigError: there is such a file, and it is no model of Konsil.
    """
    path = Path(named)
    if not path.is_file():
        return None
    from nets.model_file import read_metadata

    read_metadata(path)
    return path
