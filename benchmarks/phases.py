"""Where a service's time went, read from its own metrics endpoint (`messages.ground.operating.exposition`)."""

from __future__ import annotations

import contextlib
import itertools
import socket
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

_FIELDS = {
    "konsil_phase_seconds_total": "seconds",
    "konsil_phase_cpu_seconds_total": "cpu_seconds",
    "konsil_phase_bytes_total": "bytes",
}


@dataclass(frozen=True, slots=True)
class Spent:
    """Wall and CPU seconds of one phase, and the bytes that went through it."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes: float = 0.0


Phases = dict[str, Spent]


_PORTS = itertools.count(20_000)
"""Below the range from which the kernel takes ports for outgoing connections: those would get in between."""


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("count never ends")


def scrape(port: int) -> Phases:
    """The sums since the service started."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if (field := _FIELDS.get(sample.name)) is not None:
                found.setdefault(sample.labels["phase"], {})[field] = sample.value
    return {name: Spent(**fields) for name, fields in found.items()}


def a_round(before: Mapping[str, Spent], after: Iterable[Mapping[str, Spent]], rounds: int) -> Phases:
    """What one round took, over several services; phases that took nothing are left out. `before` sums them all."""
    total = added(after)
    spent = {
        name: Spent(
            round((one.seconds - before.get(name, Spent()).seconds) / rounds, 4),
            round((one.cpu_seconds - before.get(name, Spent()).cpu_seconds) / rounds, 4),
            round((one.bytes - before.get(name, Spent()).bytes) / rounds),
        )
        for name, one in total.items()
    }
    return {name: one for name, one in spent.items() if one.seconds > 0}


def added(several: Iterable[Mapping[str, Spent]]) -> Phases:
    """The sums of several services."""
    total: Phases = {}
    for phases in several:
        for name, one in phases.items():
            have = total.get(name, Spent())
            total[name] = Spent(have.seconds + one.seconds, have.cpu_seconds + one.cpu_seconds, have.bytes + one.bytes)
    return total
