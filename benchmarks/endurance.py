"""`python -m benchmarks.endurance`: hundreds of rounds of a small model leave no growth behind.

Memory, threads and file handles of coordinator and agents, what they keep on disk, and the broker's data are looked at
several times over the rounds. The first look comes when every pool and cache has filled (a fifth of the rounds). What
must grow does: the journal and the event log, by about the same bytes each round; it is shown beside.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import memory
from benchmarks.consortium import Bench, rehearsal, running
from messages.ground.errors import KonsilError
from messages.names import COORDINATOR

LOOKS = 5


@dataclass(frozen=True, slots=True)
class Look:
    """What was held after so many rounds; `rss` is anonymous and shared memory, bytes; `disk` bytes by owner."""

    round: int
    rss: dict[str, int]
    threads: dict[str, int]
    handles: dict[str, int]
    disk: dict[str, int]


@dataclass
class Watch:
    """Takes a look whenever enough rounds are over."""

    bench: Bench
    rounds: int
    looks: list[Look] = field(default_factory=list)

    def ended(self, done: int) -> None:
        """A round is complete."""
        if done % max(1, self.rounds // LOOKS) == 0:
            self.looks.append(_look(self.bench, done))


def _look(bench: Bench, done: int) -> Look:
    pids = bench.pids()
    layout = bench.layout
    site = bench.sites[0]
    journal = sum(path.stat().st_size for path in layout.coordinator.glob("journal*"))
    return Look(
        round=done,
        rss=_by_role(memory.sizes(pids)),
        threads=_by_role({name: len(list(Path("/proc", str(pid), "task").iterdir())) for name, pid in pids.items()}),
        handles=_by_role({name: len(list(Path("/proc", str(pid), "fd").iterdir())) for name, pid in pids.items()}),
        disk={
            "journal": journal,
            "coordinator's blobs": _size(layout.coordinator) - journal,
            "one site's state": _size(layout.site_folder(site)),
            "broker": _size(layout.broker / "data"),
        },
    )


def _by_role(figures: dict[str, int]) -> dict[str, int]:
    return {
        "coordinator": figures[COORDINATOR],
        "agent": max(value for name, value in figures.items() if name != COORDINATOR),
    }


def _size(folder: Path) -> int:
    """Bytes that the files of a folder take on disk (files come and go while we look)."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512 if path.is_file() else 0
        except OSError:
            continue
    return total


def measure(sites: int, kilobytes: int, rounds: int, say: Any) -> dict[str, Any]:
    """Run, and say what grew between the first look and the last.

    Raises:
        KonsilError: something did not start or did not end.
    """
    with running(sites, kilobytes * 1000, tls=False, say=say) as bench:
        watch = Watch(bench, rounds)
        ends = bench.run(rehearsal("endurance", bench.sites, kilobytes, rounds), 30.0 + 3 * rounds, watch.ended)
    first, last = watch.looks[0], watch.looks[-1]
    return {
        "sites": sites,
        "model_bytes": kilobytes * 1000,
        "rounds": rounds,
        "seconds": round(ends[-1] - ends[0], 1),
        "looks": [asdict(one) for one in watch.looks],
        "growth": {
            what: {name: getattr(last, what)[name] - getattr(first, what)[name] for name in getattr(first, what)}
            for what in ("rss", "threads", "handles", "disk")
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.endurance", description=__doc__.split("\n\n")[0])
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        result = measure(options.sites, round(options.megabytes * 1000), options.rounds, _Sparing())
    except KonsilError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return error.exit_status
    print(json.dumps(result) if options.json else _words(result))
    return 0


class _Sparing:
    """Progress: every 25th of a run of hundreds of equal lines."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    def __call__(self, text: str) -> None:
        with self._lock:
            self._count += 1
            if not text.startswith("round") or self._count % 25 == 0:
                print(f"benchmark: {text}", file=sys.stderr, flush=True)


def _words(result: dict[str, Any]) -> str:
    lines = [f"{result['rounds']} rounds of {result['model_bytes'] / 1e6:g} MB in {result['seconds']:.0f} s"]
    for look in result["looks"]:
        sizes = "  ".join(f"{name} {value / 1e6:.1f} MB" for name, value in (look["rss"] | look["disk"]).items())
        counts = "  ".join(f"{name} {look['threads'][name]}/{look['handles'][name]}" for name in look["threads"])
        lines.append(f"after {look['round']:5}: {sizes}  threads/handles {counts}")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
