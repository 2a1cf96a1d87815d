"""The machine that is installed on: what it must have, and running its commands. Standard library only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from messages.ground.errors import RequestError, Unreachable, WorkFailed

LEAST_SYSTEMD = 250
"""LoadCredential= of a whole folder (systemd.exec(5)) came with it; Debian 12 has 252."""
NEEDED = {"cpu": 2.5e9, "cuda": 9e9}
"""Bytes of a release and of what pip unpacks beside it (measured for "cpu": 1.5 GB)."""


def tell_person(text: str) -> None:
    """One line for the person who installs."""
    sys.stdout.write(f"konsil: {text}\n")
    sys.stdout.flush()


def run_quietly(
    command: Sequence[str | Path],
    what: str,
    *,
    env: Mapping[str, str] | None = None,
    advice: str = "",
    aloud: bool = False,
) -> str:
    """Run a command quietly and return what it printed.

    Args:
        what: for the error, "X could not be made".
        env: variables on top of this process's own.
        aloud: its errors are shown as they come, since one line would not explain them (pip's).

    Raises:
        WorkFailed: it is missing or failed; with its own last words.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if aloud else subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            check=False,
        )
    except OSError as error:
        raise WorkFailed(what, where=words[0], advice=f"{error.strerror}. {advice}".strip()) from None
    if done.returncode:
        told = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        last = told[-1][:300].rstrip(".") if told and not aloud else "its own words stand above"
        raise WorkFailed(f"{what} ({last})", where=Path(words[0]).name, advice=advice)
    return done.stdout


def need_root() -> None:
    """RequestError for anybody else."""
    if os.geteuid() != 0:
        raise RequestError("installing a system service needs root", advice="Run it again with sudo")


def need_systemd() -> int:
    """The running systemd's version.

    Raises:
        Unreachable: the machine was not booted with systemd, or with one that is too old.
    """
    # sd_booted(3) tests for this very folder
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        raise Unreachable(
            "this machine was not booted with systemd",
            advice="Install on the machine itself, not in a chroot or a container without systemd",
        )
    version = systemd_version(run_quietly(["systemctl", "--version"], "systemd's version could not be read"))
    if version < LEAST_SYSTEMD:
        raise Unreachable(
            f"systemd {version} is too old: {LEAST_SYSTEMD} or newer is needed", advice="Use Debian 12 or newer"
        )
    return version


def systemd_version(printed: str) -> int:
    """The number in what `systemctl --version` prints; 0 where there is none."""
    found = re.search(r"^systemd (\d+)", printed)
    return int(found[1]) if found else 0


def need_space(folder: Path, torch: str) -> None:
    """WorkFailed where a release would not fit."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < NEEDED[torch]:
        raise WorkFailed(
            f"only {free / 1e9:.1f} GB are free, and a release wants {NEEDED[torch] / 1e9:.1f}",
            where=str(folder),
            advice="Free disk space",
        )


def gpu_visible() -> bool:
    """Whether NVIDIA's driver shows a GPU."""
    folder = Path("/proc/driver/nvidia/gpus")
    return folder.is_dir() and any(folder.iterdir())
