"""Running one measurement: a peer in this process, Konsil as the command that its own benchmark is."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.peers import flare, flower
from benchmarks.peers.work import Outcome, Work
from messages.ground.errors import KonsilError, WorkFailed

SYSTEMS: dict[str, Callable[[Work, Path, Callable[[str], None]], Outcome]] = {
    "flare": flare.measure,
    "flare-stock": partial(flare.measure, settings=flare.STOCK),
    "flower": flower.measure,
    "flower-stock": partial(flower.measure, settings=flower.STOCK),
}
"""As a knowing user sets them, and as they come."""


def options(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """The options that both commands have, checked; `systems` and `megabytes` as lists."""
    parser.add_argument("--megabytes", default="30,240", help="model sizes, of 1,000,000 bytes")
    parser.add_argument("--rounds", type=int, default=4, help="the first is left out")
    parser.add_argument("--keep", type=Path, help="keep folders and logs here, instead of a temporary folder")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    chosen.systems = chosen.systems.split(",")
    unknown = [name for name in chosen.systems if name not in SYSTEMS]
    if unknown:
        parser.error(f"unknown system {', '.join(unknown)}: choose of {', '.join(SYSTEMS)}")
    try:
        chosen.megabytes = [float(word) for word in chosen.megabytes.split(",")]
    except ValueError:
        parser.error("--megabytes takes numbers with commas between them, e.g. 30,240")
    if chosen.rounds < 2 or min(chosen.megabytes) < 0.02:
        parser.error("at least 2 rounds and 0.02 megabytes")
    return chosen


def guarded(work: Callable[[], int]) -> int:
    """Exit status of `work`; whoever ends this process, by Ctrl-C or SIGTERM, ends what it started with it."""

    def leave(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    signal.signal(signal.SIGTERM, leave)
    try:
        return work()
    except KeyboardInterrupt as interrupt:
        say("interrupted")
        return 128 + int(interrupt.args[0] if interrupt.args else signal.SIGINT)


def say(text: str) -> None:
    """A progress line."""
    print(f"benchmark: {text}", file=sys.stderr, flush=True)


def show(table: Table) -> None:
    """Print a table, at its full width where nobody's terminal bounds it."""
    console = Console()
    (console if console.is_terminal else Console(width=130)).print(table)


def peer(system: str, work: Work, keep: Path | None = None) -> Outcome:
    """Measure one peer once.

    Raises:
        KonsilError: it did not work.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"konsil-{system}-", dir=keep))
    try:
        outcome = SYSTEMS[system](work, folder, say)
    except KonsilError:
        if keep is not None:
            say(f"logs are in {folder}")
        raise
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    exposed = [address for address in outcome.listens if "127.0.0.1:" not in address and "[::1]:" not in address]
    if exposed:
        say(f"{system} listened beyond loopback: {', '.join(exposed)}")
    return outcome


def konsil(work: Work, codec: str, *, tls: bool) -> dict[str, Any]:
    """Measure Konsil once; what `benchmarks.rounds --json` prints.

    Raises:
        WorkFailed: it did not work; its own words stand on standard error.
    """
    say(f"Konsil: {work.rounds} rounds of {work.megabytes:g} MB, {codec}, {'TLS' if tls else 'plain'}")
    command = [sys.executable, "-m", "benchmarks.rounds", "--json", "--codec", codec]
    command += ["--sites", str(work.clients), "--megabytes", f"{work.megabytes:g}", "--rounds", str(work.rounds)]
    command += ["--tls"] if tls else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            printed, _ = child.communicate(timeout=work.within + 300)
        except (subprocess.TimeoutExpired, KeyboardInterrupt) as error:
            # SIGINT, not SIGKILL: it has a broker, a coordinator and agents to end
            child.send_signal(signal.SIGINT)
            child.wait(60)
            if isinstance(error, KeyboardInterrupt):
                raise
            raise WorkFailed(f"benchmarks.rounds did not end within {error.timeout:.0f} s") from error
    if child.returncode:
        raise WorkFailed(f"benchmarks.rounds ended with {child.returncode}", advice="Its own words stand above.")
    plain: dict[str, Any] = json.loads(printed)
    return plain


def machine() -> str:
    """Processor, cores, Python."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
