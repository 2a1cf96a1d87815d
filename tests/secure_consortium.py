"""Secure rounds with all real services but the trainers: the bus in memory, virtual time, three sites that sign."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from coordinator_kit import plain
from scripted_trainers import Seconds
from signed_consortium import ROLES, THREE, ring_of, sections, takes
from virtual_consortium import VirtualConsortium

from coordinator.config import Limits
from messages import kinds
from messages.experiment import Experiment
from messages.ground.virtual.clock import VirtualClock
from messages.tensors.layout import manifest_of, write_into

ROUNDS = {"count": 2, "enrol_within": 600.0, "train_within": 600.0, "grace": 60.0}
PRIVACY = {"secure_aggregation": "masks", "exchange_within": 120.0}
assert set(THREE) <= set(ROLES)


MODEL = {
    "conv.weight": np.linspace(-3, 3, 1000, dtype=np.float32).reshape(10, 100),
    "conv.bias": np.linspace(0, 1, 7, dtype=np.float32),
}
MANIFEST = manifest_of(MODEL, 1024)


def build_float32(experiment: Experiment, out: Path, manifest: Path, limits: Limits) -> None:
    """An initial model of which every tensor can be masked."""
    buffer = bytearray(MANIFEST.nbytes)
    write_into(MODEL, MANIFEST, memoryview(buffer))
    out.write_bytes(buffer)
    manifest.write_text(MANIFEST.model_dump_json())


def secure_file(**changes: Any) -> dict[str, Any]:
    """An experiment of secure rounds at three sites."""
    content: dict[str, Any] = {
        "sites": list(THREE), "rounds": ROUNDS, "quorum": {"least_sites": 3}, "privacy": PRIVACY, **changes,
    }  # fmt: skip
    return plain(**content)


def run_secure(
    folder: Path,
    work: Callable[[VirtualConsortium], None],
    seconds: Seconds = takes,
    make: type[VirtualConsortium] = VirtualConsortium,
    **more: Any,
) -> VirtualConsortium:
    """A consortium under virtual time, while `work` does something with it."""
    clock = VirtualClock()

    def body() -> VirtualConsortium:
        trust = sections(ring_of(folder))
        consortium = make(folder, clock, seconds, THREE, trust=trust, build=build_float32, **more)
        try:
            work(consortium)
        finally:
            consortium.close()
        return consortium

    return clock.run(body)


def digests_of(consortium: VirtualConsortium) -> list[str]:
    """Of the models that the rounds made."""
    rounds = [one.body for _at, one in consortium.of("round-complete")]
    return [one.model_digest for one in rounds if isinstance(one, kinds.RoundComplete)]


def start_secure(consortium: VirtualConsortium, **changes: Any) -> None:
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=secure_file(**changes)))
