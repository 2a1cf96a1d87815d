"""What the machine has to have for the agent: folders that can be written and are its own, disk, memory, GPUs."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from messages.ground.durable import is_out_of_space
from messages.ground.errors import KonsilError
from messages.ground.units import human_bytes
from site_agent.config import SiteConfig
from site_agent.desk.checks import Check, Grade, failed_check
from site_agent.disk.room import room_left
from site_agent.disk.secret import secret_of

LEAST_FREE = 2 * 2**30
"""Bytes below which a model, its update and its checkpoints may find no room."""
LOWEST_FREE = 256 * 2**20
"""Bytes below which not even a small net's round does."""
LEAST_MEMORY = 2 * 2**30
FOLDERS = ("globals", "updates", "cache", "logs", "datasets")
"""Folders under the state folder that the agent writes to, once they are there."""


def check_machine(config: SiteConfig) -> Iterator[Check]:
    """State folder, disk and memory."""
    state = _check_state(config.site.state)
    yield state
    if state.grade is not Grade.FAIL:
        yield from _check_ownership(config.site.state)
    yield _check_temporary()
    yield _check_disk(config)
    yield _check_memory(config)


def _check_state(state: Path) -> Check:
    """Write once to each folder, as the agent will."""
    folder = state
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (state, *(state / name for name in FOLDERS)):
            if folder == state or folder.exists():
                _write_once(folder)
        secret_of(state)
    except KonsilError as error:
        return failed_check("state", error)
    except OSError as error:
        full = is_out_of_space(error)
        advice = "Free disk space" if full else "Give the agent's user write access, or change site.state"
        return Check("state", Grade.FAIL, f"{folder}: cannot be written ({error.strerror})", advice, 2)
    return Check("state", Grade.OK, f"{state} can be written")


def _write_once(folder: Path) -> None:
    probe = folder / f".preflight-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(b"konsil")
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


def _check_ownership(state: Path) -> Iterator[Check]:
    """Who else may enter: what lies there keys pseudonyms and commands the agent."""
    for path, commands in ((state, "chmod 700"), (state / "secret", "chmod 600")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o022:
            what = f"{path}: others than its owner can write there (mode {mode:o})"
            yield Check("state", Grade.FAIL, what, f"{commands} {path}", 2)
        elif mode & 0o044:
            what = f"{path}: others than its owner can read it (mode {mode:o})"
            yield Check("state", Grade.WARN, what, f"{commands} {path}")
    owner = state.stat().st_uid
    if os.geteuid() == 0 and owner != 0:
        what = f"this ran as root, and {state} belongs to user {owner}: what that user may read and write was not tried"
        yield Check("user", Grade.WARN, what, "Run the preflight as the agent's user")


def _check_temporary() -> Check:
    try:
        folder = Path(tempfile.gettempdir())
        _write_once(folder)
    except OSError as error:
        what = f"no folder for temporary files can be written ({error.strerror})"
        return Check("temporary", Grade.FAIL, what, "Set TMPDIR to a folder that the agent's user can write", 2)
    wanted = os.environ.get("TMPDIR")
    if wanted and Path(wanted).absolute() != folder:
        what = f"TMPDIR names {wanted}, which cannot be used; {folder} is"
        return Check("temporary", Grade.WARN, what, "Make that folder, or unset TMPDIR")
    return Check("temporary", Grade.OK, f"{folder} can be written")


def _check_disk(config: SiteConfig) -> Check:
    folder = config.site.state
    while not folder.exists():
        folder = folder.parent
    free, limit = shutil.disk_usage(folder).free, config.limits.disk
    room = room_left(folder, limit) if folder == config.site.state else free
    what = f"{human_bytes(free)} free" + (f", limit {human_bytes(limit)}" if limit is not None else "")
    if room < LOWEST_FREE:
        left = "" if room == free else f"; {human_bytes(max(0, room))} left below the limit"
        advice = "Free disk space" if room == free else "Free space under the state folder, or raise limits.disk"
        return Check("disk", Grade.FAIL, f"{what}{left}: too little for any round", advice)
    if limit is not None and free < limit:
        return Check("disk", Grade.WARN, f"{what}: less than the limit allows", "Free space, or lower limits.disk")
    if free < LEAST_FREE:
        return Check("disk", Grade.WARN, f"{what}: little for models and caches", "Free disk space")
    return Check("disk", Grade.OK, what)


def _check_memory(config: SiteConfig) -> Check:
    memory, limit = psutil.virtual_memory(), config.limits.ram
    what = f"{human_bytes(memory.available)} of {human_bytes(memory.total)} available"
    if limit is not None and limit > memory.total:
        return Check("memory", Grade.WARN, f"{what}, less than limits.ram", "Lower limits.ram to what the machine has")
    if memory.available < LEAST_MEMORY:
        return Check("memory", Grade.WARN, what, "Training wants 2 GiB and more: end other programs")
    return Check("memory", Grade.OK, what)


_ASK_TORCH = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"


def check_gpus(config: SiteConfig, run: Callable[[], str] | None = None) -> Check:
    """Whether torch sees the GPUs that are lent, asked in a process of its own."""
    wanted = config.limits.gpus
    if not wanted:
        return Check("gpu", Grade.OK, f"none lent: training on {config.limits.threads} CPU threads")
    try:
        answer = (run or _ask_torch)().strip()
    except (OSError, subprocess.SubprocessError):
        return Check("gpu", Grade.FAIL, "torch cannot be asked", "Install the site agent's training part again")
    seen = int(answer) if answer.isdigit() else 0
    if seen <= max(wanted):
        return Check(
            "gpu", Grade.FAIL, f"limits.gpus names GPU {max(wanted)}, and torch sees {seen}",
            "Check the driver with nvidia-smi and that torch is its CUDA build, or change limits.gpus",
        )  # fmt: skip
    return Check("gpu", Grade.OK, f"torch sees {seen}, lent: {', '.join(map(str, wanted))}")


def _ask_torch() -> str:
    done = subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
