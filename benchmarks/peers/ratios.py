"""`make bench-peers`: Konsil, FLARE and Flower one after the other on the same work, and the ratios."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

from rich.table import Table

from benchmarks.peers import environment
from benchmarks.peers.run import SYSTEMS, guarded, konsil, machine, options, peer, say, show
from benchmarks.peers.work import Outcome, Work
from messages.ground.errors import KonsilError

CODECS = ("float32", "bfloat16-difference")


@dataclass(frozen=True, slots=True)
class Row:
    """One system and size: seconds a round, CPU seconds a round of all processes, peak memory in bytes."""

    system: str
    megabytes: float
    median: float
    least: float
    most: float
    cpu: float
    server: int
    client: int

    @classmethod
    def of(cls, outcome: Outcome) -> Row:
        """Of a peer."""
        seconds, peak = outcome.seconds_per_round, outcome.peak_rss
        name = f"{outcome.system} {outcome.version}"
        return cls(
            name,
            outcome.megabytes,
            seconds.median,
            seconds.min,
            seconds.max,
            outcome.cpu_seconds,
            peak.server,
            peak.client,
        )


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status: that of the last failure where something did not work."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers.ratios", description=__doc__)
    parser.add_argument("--systems", default="flare,flare-stock,flower", help=f"of {', '.join(SYSTEMS)}")
    chosen = options(parser, arguments)
    status = 0
    rows: list[Row] = []
    try:
        # before anything is measured: an index that cannot be reached is told at once
        for package in {system.partition("-")[0] for system in chosen.systems}:
            environment.prepare(package, say)
    except KonsilError as error:
        say(str(error))
        return error.exit_status
    for megabytes in chosen.megabytes:
        work = Work(megabytes, chosen.rounds)
        for codec in CODECS:
            for tls in (True, False):
                try:
                    rows.append(_konsil(work, codec, tls=tls))
                except KonsilError as error:
                    status = error.exit_status
                    say(str(error))
        for system in chosen.systems:
            try:
                rows.append(Row.of(peer(system, work, chosen.keep)))
            except KonsilError as error:
                status = error.exit_status
                say(str(error))
    if chosen.json:
        print(json.dumps({"machine": machine(), "rounds": chosen.rounds, "rows": [asdict(row) for row in rows]}))
    else:
        show(table(rows, chosen.systems))
    if status:
        print("benchmark: what failed is missing in the table", file=sys.stderr)
    return status


def table(rows: list[Row], systems: list[str]) -> Table:
    """Every row with its time over each peer's time at the same size."""
    shown = Table(title=f"null training, 3 sites, seconds a round, peak memory in MB; {machine()}")
    shown.add_column("system", no_wrap=True)
    for name in ("MB", "median", "from", "to", "CPU s", "server", "client", *(f"/ {system}" for system in systems)):
        shown.add_column(name, justify="right")
    size = rows[0].megabytes if rows else 0.0
    for row in rows:
        if row.megabytes != size:
            shown.add_section()
            size = row.megabytes
        ratios = [_ratio(row, system, rows) for system in systems]
        memory = [f"{value / 1e6:.0f}" for value in (row.server, row.client)]
        seconds = [f"{value:.2f}" for value in (row.median, row.least, row.most, row.cpu)]
        shown.add_row(row.system, f"{row.megabytes:g}", *seconds, *memory, *ratios)
    return shown


def _konsil(work: Work, codec: str, *, tls: bool) -> Row:
    result = konsil(work, codec, tls=tls)
    seconds, peak = result["seconds_per_round"], result["peak_rss"]
    name = f"Konsil {codec}, {'TLS' if tls else 'plain'}"
    cpu = sum(result["cpu_seconds"].values())
    peaks = peak["coordinator"], peak["agent"]
    return Row(name, work.megabytes, seconds["median"], seconds["min"], seconds["max"], cpu, *peaks)


def _ratio(row: Row, system: str, rows: list[Row]) -> str:
    for other in rows:
        if other.megabytes == row.megabytes and other.system.split()[0] == system:
            return f"{row.median / other.median:.2f}"
    return "–"


if __name__ == "__main__":
    raise SystemExit(guarded(main))
