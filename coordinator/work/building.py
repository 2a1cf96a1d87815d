"""Building the initial model in a process of its own, or taking the one that an experiment begins with."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from coordinator.config import Limits
from coordinator.core.records import ModelOrigin
from coordinator.work.given_models import Arrays
from messages.experiment import Experiment
from messages.ground.errors import TooLarge, WorkFailed
from messages.tensors.layout import Manifest

Build = Callable[[Experiment, Path, Path, Limits], None]
"""(experiment, file for the buffer, file for the manifest, limits) → both files, or a KonsilError."""
OpenOrigin = Callable[[ModelOrigin], Arrays]
"""The tensors of the model that an experiment begins with, or a KonsilError."""


def no_origins(origin: ModelOrigin) -> Arrays:
    """Of a coordinator that has no model."""
    raise WorkFailed("there is no model here", where=origin.digest)


def build_in_subprocess(experiment: Experiment, out: Path, manifest: Path, limits: Limits) -> None:
    """`python -m nets.initial`: torch stays out of this process, and a net is counted before it is built.

    Raises:
        TooLarge: it has more bytes than `limits.model_bytes_max`.
        WorkFailed: it cannot be built, or takes too long.
    """
    within = limits.initialise_within
    source = out.with_name("initial.json")
    source.write_text(json.dumps(experiment.as_plain()))
    command = [sys.executable, "-m", "nets.initial", "--experiment", str(source)]
    command += ["--out", str(out), "--manifest", str(manifest), "--most-bytes", str(limits.model_bytes_max)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=within, check=False)
    except subprocess.TimeoutExpired:
        raise WorkFailed(f"building the net took more than {within:.0f} s", where=experiment.id) from None
    finally:
        source.unlink(missing_ok=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        reason = said[-1] if said else f"exit status {done.returncode}"
        if done.returncode == TooLarge.exit_status:
            raise TooLarge(reason, where=experiment.id)
        raise WorkFailed(f"the net cannot be built: {reason}", where=experiment.id)


def build_manifest(experiment: Experiment, limits: Limits) -> Manifest:
    """The tensors of an experiment's net; raises as `build_in_subprocess`."""
    with tempfile.TemporaryDirectory(prefix="konsil-net-") as folder:
        described = Path(folder, "manifest")
        build_in_subprocess(experiment, Path(folder, "net"), described, limits)
        return Manifest.model_validate_json(described.read_text())
