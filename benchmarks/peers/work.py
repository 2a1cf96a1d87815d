"""The common work, and what is measured of a system that does it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.spread import Spread
from messages.ground.errors import WorkFailed

TENSORS = 20
BYTES_PER_NUMBER = 4


@dataclass(frozen=True, slots=True)
class Work:
    """`rounds` rounds of federated averaging over `clients` clients, none of which trains.

    The model is 20 equal float32 tensors of `megabytes` × 10^6 bytes together. Client k adds the constant k to every
    number: were the constants equal, a system that stores by content would send one update for all.
    """

    megabytes: float
    rounds: int
    clients: int = 3

    @property
    def numbers(self) -> int:
        """Of one tensor."""
        return max(1, round(self.megabytes * 1e6 / TENSORS / BYTES_PER_NUMBER))

    @property
    def within(self) -> float:
        """Seconds that all rounds may take before the run counts as stuck: generous, it ends a hang."""
        return 90.0 + self.rounds * (20.0 + 0.5 * self.megabytes)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of anonymous and shared memory: the server's processes together, and the largest client's together."""

    server: int
    client: int

    @classmethod
    def of(cls, sizes: Mapping[str, int], clients: Sequence[str]) -> Memory:
        """From the sizes of process trees by name."""
        return cls(sizes["server"], max(sizes[client] for client in clients))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One system, one size."""

    system: str
    version: str
    transport: str
    megabytes: float
    rounds: int
    seconds_per_round: Spread
    idle_rss: Memory
    peak_rss: Memory
    cpu_seconds: float
    """CPU seconds of one round, all processes together."""
    listens: tuple[str, ...]
    """Addresses the system listened on while the rounds ran."""

    def plain(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def completed(stamps: Path) -> int:
    """How many rounds the server's side has stamped."""
    return len(stamps.read_text().splitlines()) if stamps.exists() else 0


def seconds_per_round(stamps: Path, work: Work) -> Spread:
    """Times between the server's round completions; the first round has no completion before it and is left out.

    The server's side appends one JSON line a round, `{"round": 1, "at": seconds, "added": mean}`: CLOCK_MONOTONIC and
    what the numbers have grown by since the start, which proves that the work was done.

    Raises:
        WorkFailed: fewer rounds than asked for, or the model is not what the clients' constants make it.
    """
    lines = [json.loads(line) for line in stamps.read_text().splitlines()] if stamps.exists() else []
    if len(lines) != work.rounds:
        raise WorkFailed(f"{len(lines)} of {work.rounds} rounds were completed", where=str(stamps.name))
    each = (1 + work.clients) / 2
    for number, line in enumerate(lines, 1):
        if abs(line["added"] - number * each) > 1e-2:
            raise WorkFailed(f"after round {number} the model grew by {line['added']}, not by {number * each}")
    return Spread.of([later["at"] - earlier["at"] for earlier, later in itertools.pairwise(lines)])
