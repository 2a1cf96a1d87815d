"""A virtual environment for each peer, made once with pinned packages: `benchmarks/.peers/NAME`.

Two, not one: what the newest FLARE and the newest Flower need does not go together.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from messages.ground.errors import Unreachable, WorkFailed

HERE = Path(__file__).resolve().parent
ROOM = HERE.parent / ".peers"
SYSTEMS = {"flare": "nvflare", "flower": "flwr"}
"""Each system's package."""


def prepare(system: str, say: Callable[[str], None]) -> Path:
    """The folder of the system's programs (`bin`), installed where that was not done before.

    Raises:
        Unreachable: the package index does not answer or lacks a pinned package.
        WorkFailed: the environment cannot be made.
    """
    pins = HERE / "pins" / f"{system}.txt"
    home = ROOM / system
    stamp = home / "installed"
    wanted = hashlib.sha256(f"{pins.read_text()}{sys.version}{home}".encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return home / "bin"
    say(f"making the virtual environment benchmarks/.peers/{system}: {SYSTEMS[system]} {version(system)} (a minute)")
    make = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(home)]
    _run(make, WorkFailed, "the virtual environment could not be made")
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "--disable-pip-version-check"]
    _run(
        [*pip, "install", "-q", "--no-deps", "-r", str(pins)],
        Unreachable,
        f"{SYSTEMS[system]} could not be installed from the package index",
    )
    stamp.write_text(wanted)
    return home / "bin"


def version(system: str) -> str:
    """The pinned version of the system's package."""
    lines = (HERE / "pins" / f"{system}.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(SYSTEMS[system] + "=="))


def _run(command: list[str], error: type[Unreachable] | type[WorkFailed], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise error(what, where="benchmarks/.peers", advice="pip says: " + " ".join(words[-2:]))
