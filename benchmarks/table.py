"""`make bench`: every figure of a round's overhead in one table, one measurement after the other.

python -m benchmarks.table [--quick] [--markdown FILE] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import broker_ceiling
from benchmarks.rounds import Result, measure
from messages.ground.errors import KonsilError


@dataclass(frozen=True, slots=True)
class Case:
    """One row."""

    sites: int
    megabytes: int
    codec: str = "float32"
    tls: bool = False
    rounds: int = 6

    @property
    def name(self) -> str:
        """As progress says it."""
        return f"{self.sites} sites, {self.megabytes} MB, {self.codec}, {'TLS' if self.tls else 'plain'}"


SIZES = tuple(
    Case(3, megabytes, tls=tls, rounds=rounds)
    for megabytes, rounds in ((1, 11), (30, 7), (120, 5), (240, 5))
    for tls in (False, True)
)
CODECS = tuple(
    Case(3, megabytes, codec, tls=False, rounds=rounds)
    for megabytes, rounds in ((30, 7), (240, 5))
    for codec in ("bfloat16", "bfloat16-difference")
)
SITES = (Case(8, 1, rounds=8), Case(16, 1, rounds=8), Case(32, 1, rounds=8), Case(30, 30, rounds=3))
QUICK = (Case(3, 1, rounds=4), Case(3, 30, rounds=4))

HEADS = (
    "sites", "MB", "codec", "TLS", "s a round", "from – to", "MB/s", "up ×", "down ×",
    "coordinator MB (× model)", "agent MB (× model)", "idle MB", "CPU s: broker", "coord.", "agents", "trainers",
)  # fmt: skip


def row(result: Result) -> tuple[str, ...]:
    """One measurement as cells."""
    model, seconds = result.model_bytes, result.seconds_per_round
    moved = model * 2 * result.sites  # each site's model down and update up, before any codec

    def above(role: str) -> str:
        peak, idle = getattr(result.peak_rss, role), getattr(result.idle_rss, role)
        return f"{peak / 1e6:.0f} ({(peak - idle) / model:.2f})"

    return (
        str(result.sites),
        f"{model / 1e6:g}",
        result.codec,
        "yes" if result.tls else "no",
        f"{seconds.median:.3f}",
        f"{seconds.min:.3f} – {seconds.max:.3f}",
        f"{moved / seconds.median / 1e6:.0f}",
        f"{result.bytes_up / model:.2f}",
        f"{result.bytes_down / model:.2f}",
        above("coordinator"),
        above("agent"),
        f"{result.idle_rss.coordinator / 1e6:.0f}, {result.idle_rss.agent / 1e6:.0f}",
        *(f"{result.cpu_seconds[name]:.2f}" for name in ("broker", "coordinator", "agents", "trainers")),
    )


def phase_rows(result: Result) -> list[tuple[str, ...]]:
    """Where one measurement's time went: CPU seconds of a round by phase."""
    return [
        (role, phase, f"{spent.seconds:.3f}", f"{spent.cpu_seconds:.3f}", f"{spent.bytes / 1e6:.0f}")
        for role, phases in result.phases.items()
        for phase, spent in phases.items()
    ]


PHASE_HEADS = ("service", "phase", "wall s", "CPU s", "MB")


def markdown(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)]) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.table", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="two small measurements, to see that it works")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file, too")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args(arguments)
    cases = QUICK if options.quick else SIZES + CODECS + SITES
    results: list[Result] = []
    try:
        for number, case in enumerate(cases, start=1):
            print(f"benchmark {number} of {len(cases)}: {case.name}", file=sys.stderr, flush=True)
            results.append(
                measure(case.sites, case.megabytes * 1000, case.rounds, case.codec, tls=case.tls, say=_quiet)
            )
            print(f"  {results[-1].seconds_per_round.median:.3f} s a round", file=sys.stderr, flush=True)
            _keep(options.json, results)
        print("benchmark: the broker's raw ceiling", file=sys.stderr, flush=True)
        ceiling = broker_ceiling.measure(192)
        _keep(options.json, results, ceiling)
    except KonsilError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return error.exit_status
    text = _text(results, ceiling)
    print(text)
    if options.markdown is not None:
        options.markdown.write_text(text)
    return 0


def _keep(path: Path | None, results: list[Result], ceiling: dict[str, Any] | None = None) -> None:
    """Every figure so far: a later measurement may fail."""
    if path is not None:
        plain = {"rounds": [one.plain() for one in results], "ceiling": ceiling}
        path.write_text(json.dumps(plain, indent=1))


def _text(results: list[Result], ceiling: dict[str, Any]) -> str:
    parts = [f"Measured {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC on {results[0].machine}.\n"]
    parts.append(markdown(HEADS, [row(one) for one in results]))
    largest = max((one for one in results if one.codec == "float32" and not one.tls), key=lambda one: one.model_bytes)
    parts.append(f"Where a round of {largest.model_bytes / 1e6:g} MB goes (all agents together; wall times overlap):\n")
    parts.append(markdown(PHASE_HEADS, phase_rows(largest)))
    parts.append("The broker's raw ceiling in the same run:\n")
    parts.append("```\n" + broker_ceiling.table(ceiling) + "\n```\n")
    return "\n".join(parts)


def _quiet(_text: str) -> None:
    """Progress comes by measurement here."""


if __name__ == "__main__":
    raise SystemExit(main())
