"""Secure rounds with all real services but the trainers: the bus in memory, virtual time, sites that sign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from coordinator_kit import CONSORTIUM, plain
from scripted_trainers import Seconds
from signed_consortium import ROLES, THREE, takes
from virtual_consortium import CASES, VirtualConsortium

from coordinator.config import Limits
from deploy.provision.key_ring import make_key_ring
from messages import kinds
from messages.experiment import Experiment
from messages.ground.virtual.clock import VirtualClock
from messages.secure.context import Exchange, make_context
from messages.secure.encoding import find_arrival, find_share, quantise_tensor, restore_tensor
from messages.tensors.layout import manifest_of, write_into
from messages.trust.register import Role
from site_agent.training.null import round_addend

ROUNDS = {"count": 2, "enrol_within": 600.0, "train_within": 600.0, "grace": 60.0}
PRIVACY = {"secure_aggregation": "masks", "exchange_within": 120.0}
FOUR = (*THREE, "site-d")
"""Of four sites one may be lost once shares are dealt."""
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
    sites: tuple[str, ...] = THREE,
    **more: Any,
) -> VirtualConsortium:
    """A consortium under virtual time, while `work` does something with it."""
    clock = VirtualClock()

    def body() -> VirtualConsortium:
        roles: dict[str, Role] = {**ROLES, **dict.fromkeys(sites, "site")}
        ring = make_key_ring(folder / "keys", CONSORTIUM, roles, seed="test")
        trust = {party: ring.trust_of(party) for party in roles}
        consortium = make(folder, clock, seconds, sites, trust=trust, build=build_float32, **more)
        try:
            work(consortium)
        finally:
            consortium.close()
        return consortium

    return clock.run(body)


def count_training(cases: int) -> int:
    """Training cases of the null trainer."""
    return cases - max(1, cases // 10) - max(1, cases // 5)


def add_up(
    model: Mapping[str, Any], number: int, summed: tuple[str, ...] = THREE, masked: tuple[str, ...] = THREE
) -> dict[str, Any]:
    """The plain fixed-point sum of what the null trainer makes of a model, added to it.

    Args:
        summed: whose updates are in the sum. masked: who has masked.
    """
    weights = {site: count_training(CASES.get(site, 50)) for site in masked}
    context, seed = make_context(Exchange("", "", number, 1, 3, ()), weights), Experiment.model_validate(plain()).seed
    made: dict[str, Any] = {}
    for name, array in model.items():
        parts: list[Any] = []
        for site in summed:
            trained = array + round_addend(seed, site, number).astype(array.dtype)
            words = np.empty(array.size, dtype=np.uint32)
            quantise_tensor(trained, array, share=find_share(context, site), shrink=1.0, out=words)
            parts.append(words)
        made[name] = np.empty_like(array)
        restore_tensor(sum(parts), array, find_arrival(context, summed), made[name])
    return made


def digests_of(consortium: VirtualConsortium) -> list[str]:
    """Of the models that the rounds made."""
    rounds = [one.body for _at, one in consortium.of("round-complete")]
    return [one.model_digest for one in rounds if isinstance(one, kinds.RoundComplete)]


def start_secure(consortium: VirtualConsortium, **changes: Any) -> None:
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=secure_file(**changes)))
