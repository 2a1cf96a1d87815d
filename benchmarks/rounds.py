"""`python -m benchmarks.rounds`: seconds a round when training takes none, on real processes over a real broker.

One private RabbitMQ, one coordinator and so many agents, each with a null trainer that adds a constant to every one of
20 float32 tensors. Everything is spooled, digested and journaled as in production. A round's time is the time between
two round-completes on the coordinator's clock, so it holds everything between two trainings; the first round, whose
trainers start, is left out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import memory, phases
from benchmarks.consortium import Bench, rehearsal, running
from benchmarks.spread import Spread
from messages.ground.errors import KonsilError
from messages.names import COORDINATOR

WITHIN_A_ROUND = 120.0


@dataclass(frozen=True, slots=True)
class Roles:
    """Bytes (anonymous and shared memory) of the coordinator, and of the agent that holds most."""

    coordinator: int
    agent: int


@dataclass(frozen=True, slots=True)
class Result:
    """One measurement.

    `bytes_up` and `bytes_down` are tensors' bytes as encoded, for one site and round; `loopback_bytes` is all that
    crossed the loopback interface in one round (each delivery of the broker counts, and so do protocols).
    """

    sites: int
    model_bytes: int
    codec: str
    tls: bool
    rounds: int
    seconds_per_round: Spread
    bytes_up: int
    bytes_down: int
    loopback_bytes: int
    idle_rss: Roles
    peak_rss: Roles
    cpu_seconds: dict[str, float]
    """CPU seconds of one round: broker, coordinator, agents, trainers; over all rounds, enrolment included."""
    phases: dict[str, phases.Phases]
    """Of one round, in the coordinator and in all agents together; wall seconds overlap where threads do."""
    machine: str

    def plain(self) -> dict[str, Any]:
        """For --json."""
        return asdict(self)


def measure(sites: int, kilobytes: int, rounds: int, codec: str, *, tls: bool, say: Any) -> Result:
    """Run one experiment of so many rounds and report.

    Raises:
        KonsilError: something did not start or did not end.
    """
    with running(sites, kilobytes * 1000, tls=tls, say=say) as bench:
        experiment = rehearsal("bench", bench.sites, kilobytes, rounds, codec=codec)
        pids = bench.pids()
        time.sleep(1.0)
        idle = memory.sizes(pids)
        before, spent = _cpu(bench), _phases(bench)
        with memory.Sampler(pids) as sampler:
            crossed = memory.loopback_bytes()
            ends = bench.run(experiment, WITHIN_A_ROUND * rounds)
            crossed = memory.loopback_bytes() - crossed
        after = _cpu(bench)
        moved = [bench.status(site) for site in bench.sites]
        later = _phases(bench)
    laps = [end - start for start, end in itertools.pairwise(ends)]
    final = kilobytes * 1000  # the evaluation phase sends the final model once more, exactly
    return Result(
        sites=sites,
        model_bytes=kilobytes * 1000,
        codec=codec,
        tls=tls,
        rounds=rounds,
        seconds_per_round=Spread.of(laps),
        bytes_up=round(statistics.mean(one["bytes_up"] for one in moved) / rounds),
        bytes_down=round(statistics.mean(one["bytes_down"] - final for one in moved) / rounds),
        loopback_bytes=round(crossed / (rounds + 0.5)),
        idle_rss=_roles(idle),
        peak_rss=_roles(sampler.peaks),
        cpu_seconds={name: round((after[name] - before[name]) / rounds, 3) for name in after},
        phases={role: phases.a_round(spent[role], [later[role]], rounds) for role in later},
        machine=f"{platform.processor() or platform.machine()}, {_cores()} cores, Python {platform.python_version()}",
    )


def _roles(sizes: dict[str, int]) -> Roles:
    return Roles(sizes[COORDINATOR], max(size for name, size in sizes.items() if name != COORDINATOR))


def _cpu(bench: Bench) -> dict[str, float]:
    pids = bench.pids()
    agents = [pid for name, pid in pids.items() if name != COORDINATOR]
    return {
        "broker": bench.broker_cpu(),
        "coordinator": memory.cpu_seconds(pids[COORDINATOR]),
        "agents": sum(memory.cpu_seconds(pid) for pid in agents),
        "trainers": sum(memory.cpu_seconds(child) for pid in agents for child in memory.children(pid)),
    }


def _phases(bench: Bench) -> dict[str, phases.Phases]:
    agents = [phases.scrape(bench.ports[site]) for site in bench.sites]
    return {"coordinator": phases.scrape(bench.ports[COORDINATOR]), "agents": phases.added(agents)}


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.rounds", description=__doc__.split("\n\n")[0])
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=30.0, help="of 1,000,000 bytes")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--codec", default="float32", choices=["float32", "bfloat16", "bfloat16-difference"])
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.rounds < 2 or options.sites < 1 or options.megabytes < 0.02:
        parser.error("at least 2 rounds, 1 site and 0.02 megabytes")
    try:
        result = measure(
            options.sites,
            round(options.megabytes * 1000),
            options.rounds,
            options.codec,
            tls=options.tls,
            say=lambda text: print(f"benchmark: {text}", file=sys.stderr, flush=True),
        )
    except KonsilError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return error.exit_status
    if options.json:
        print(json.dumps(result.plain()))
    else:
        print(_words(result))
    return 0


def _words(result: Result) -> str:
    seconds, over = result.seconds_per_round, result.model_bytes
    lines = [
        f"{result.sites} sites, {over / 1e6:g} MB, {result.codec}, {'TLS' if result.tls else 'plain'}",
        f"seconds a round  median {seconds.median:.3f}  from {seconds.min:.3f} to {seconds.max:.3f}",
        f"bytes over model down {result.bytes_down / over:.3f}  up {result.bytes_up / over:.3f}"
        f"  loopback {result.loopback_bytes / over:.2f}",
    ]
    for role in ("coordinator", "agent"):
        idle, peak = getattr(result.idle_rss, role), getattr(result.peak_rss, role)
        lines.append(
            f"{role:16} idle {idle / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB: {(peak - idle) / over:.2f} × model above"
        )
    for role, spent in result.phases.items():
        words = "  ".join(f"{name} {one.cpu_seconds:.2f}" for name, one in spent.items() if one.cpu_seconds >= 0.005)
        lines.append(f"{role} by phase, CPU s  {words}")
    lines.append("CPU s a round    " + "  ".join(f"{name} {value:.2f}" for name, value in result.cpu_seconds.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
