"""`python -m benchmarks.replay`: how long a replay takes beside what it repeats (issue 15: a tenth at the most).

The original: so many rounds with null trainers, real processes and a real broker (`benchmarks.rounds`), every update
kept. Its time is that between the first round's end and the last one's, on the coordinator's clock: aggregation, wire,
spools, journal, and no training. Then its log is exported, verified and replayed with every aggregate computed anew, as
an auditor does it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import memory
from benchmarks.consortium import Bench, rehearsal, running
from messages.ground.errors import KonsilError, WorkFailed
from messages.names import COORDINATOR

WITHIN_A_ROUND = 120.0
NAME = "bench"


@dataclass(frozen=True, slots=True)
class Timed:
    """Wall and CPU seconds."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """One measurement. The original's CPU seconds are those of broker, coordinator and agents, of all rounds."""

    sites: int
    rounds: int
    megabytes: float
    original: Timed
    coordinator_cpu: float
    export: Timed
    verify: Timed
    replay: Timed
    recomputed: int

    @property
    def ratio(self) -> float:
        """Replay's wall seconds over the original's."""
        return self.replay.wall / self.original.wall


def measure(sites: int, kilobytes: int, rounds: int, say: Any) -> ReplayResult:
    """Run, export, verify and replay.

    Raises:
        KonsilError: something did not start, did not end, or does not agree.
    """
    with tempfile.TemporaryDirectory(prefix="konsil-bench-") as scratch:
        folder = Path(scratch)
        with running(sites, kilobytes * 1000, tls=False, say=say, keep=folder) as bench:
            experiment = rehearsal(NAME, bench.sites, kilobytes, rounds, keep=rounds)
            before = _cpu(bench)
            ends = bench.run(experiment, WITHIN_A_ROUND * rounds)
            after = _cpu(bench)
            state = bench.layout.coordinator
        share = (rounds - 1) / rounds  # the first round is not in the time
        spent = {name: (after[name] - before[name]) * share for name in after}
        log = folder / "log.konsil"
        export, _said = _run("export", NAME, "--journal", str(state), "--out", str(log))
        verify, _said = _run("verify", str(log))
        replay, said = _run("replay", NAME, str(log), "--blobs", str(state), "--json")
    found = json.loads(said)["rounds"].values()
    again = sum(one["status"] == "recomputed" and one["agrees"] for one in found)
    return ReplayResult(
        sites=sites,
        rounds=rounds,
        megabytes=kilobytes / 1000,
        original=Timed(ends[-1] - ends[0], round(sum(spent.values()), 2)),
        coordinator_cpu=round(spent[COORDINATOR], 2),
        export=export,
        verify=verify,
        replay=replay,
        recomputed=again,
    )


def _cpu(bench: Bench) -> dict[str, float]:
    return {"broker": bench.broker_cpu()} | {name: memory.cpu_seconds(pid) for name, pid in bench.pids().items()}


def _run(*arguments: str) -> tuple[Timed, str]:
    """One command of `konsil audit`, in a process of its own."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "deploy.cli", "audit", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise WorkFailed(f"exit status {done.returncode}: {done.stderr[-300:]}", where=" ".join(command[3:]))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timed(round(wall, 2), round(cpu, 2)), done.stdout


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.replay", description=__doc__.split("\n\n")[0])
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=1.0, help="of 1,000,000 bytes")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    try:
        result = measure(
            options.sites,
            round(options.megabytes * 1000),
            options.rounds,
            lambda text: print(f"benchmark: {text}", file=sys.stderr, flush=True),
        )
    except KonsilError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return error.exit_status
    if options.json:
        print(json.dumps({**asdict(result), "ratio": result.ratio}))
        return 0
    print(f"{result.sites} sites, {result.rounds} rounds of {result.megabytes:g} MB, {result.recomputed} recomputed")
    for name in ("original", "export", "verify", "replay"):
        one = getattr(result, name)
        print(f"{name:10} {one.wall:8.2f} s   CPU {one.cpu:8.2f} s")
    print(f"CPU of the coordinator alone {result.coordinator_cpu:.2f} s; replay over the original {result.ratio:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
