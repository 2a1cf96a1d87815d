"""`python -m benchmarks.peers`: seconds a round and memory of FLARE and Flower doing Konsil's null-training work."""

from __future__ import annotations

import argparse
import json
import sys

from rich.table import Table

from benchmarks.peers.run import SYSTEMS, guarded, machine, options, peer, show
from benchmarks.peers.work import Outcome, Work
from messages.ground.errors import KonsilError


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    parser.add_argument("--systems", default="flare,flower", help=f"of {', '.join(SYSTEMS)}")
    chosen = options(parser, arguments)
    outcomes: list[Outcome] = []
    try:
        for megabytes in chosen.megabytes:
            outcomes += [peer(system, Work(megabytes, chosen.rounds), chosen.keep) for system in chosen.systems]
    except KonsilError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        return error.exit_status
    if chosen.json:
        print(json.dumps({"machine": machine(), "results": [outcome.plain() for outcome in outcomes]}))
    else:
        show(_table(outcomes))
    return 0


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(title=f"null training, 3 clients, {machine()}")
    for name in ("system", "MB", "s a round", "from", "to", "CPU s", "server MB", "client MB", "transport"):
        table.add_column(name, no_wrap=True, justify="left" if name in ("system", "transport") else "right")
    for one in outcomes:
        seconds = one.seconds_per_round
        table.add_row(
            f"{one.system} {one.version}",
            f"{one.megabytes:g}",
            f"{seconds.median:.2f}",
            f"{seconds.min:.2f}",
            f"{seconds.max:.2f}",
            f"{one.cpu_seconds:.1f}",
            f"{one.peak_rss.server / 1e6:.0f}",
            f"{one.peak_rss.client / 1e6:.0f}",
            one.transport,
        )
    return table


if __name__ == "__main__":
    raise SystemExit(guarded(main))
