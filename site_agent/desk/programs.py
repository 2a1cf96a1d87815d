"""Whether the programs that the operator registered under [trainers] could be run, found before an experiment asks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from messages.ground.errors import KonsilError
from site_agent.config import ExternalTrainer, SiteConfig
from site_agent.desk.checks import Check, Grade, failed_check
from site_agent.external.sandbox import read_program, try_sandbox

_UNIT = 'Let the service make namespaces (docs/trainers.md), or choose sandbox = "none" and trust the program'


def check_programs(config: SiteConfig) -> Iterator[Check]:
    """A line for each program; the sandbox is tried once."""
    boxed = any(one.sandbox == "namespaces" for one in config.trainers.values())
    why = _try_sandbox(config.site.state) if boxed else None
    for name, trainer in config.trainers.items():
        yield _check_program(f"trainer {name}", trainer, why)
        for dataset in trainer.datasets or ():
            if dataset not in config.datasets:
                what = f"datasets: {dataset!r} is not described in site.toml"
                yield Check(f"trainer {name}", Grade.FAIL, what, "Describe it under [datasets.NAME]", 2)


def _try_sandbox(state: Path) -> str | None:
    try:
        with tempfile.TemporaryDirectory(prefix="preflight-", dir=state) as folder:
            return try_sandbox(Path(folder))
    except OSError as error:
        return error.strerror


def _check_program(label: str, trainer: ExternalTrainer, why: str | None) -> Check:
    try:
        read_program(trainer)
    except KonsilError as error:
        return failed_check(label, error)
    command = trainer.command[0]
    if shutil.which(command) is None:
        return Check(label, Grade.FAIL, f"{command} is no program that can be run", "Correct the command", 2)
    if trainer.sandbox == "none":
        what = "runs without a sandbox: it reads, writes and sends whatever the agent's user may"
        return Check(label, Grade.WARN, what, "Leave sandbox out, unless this machine allows none")
    if why is not None:
        return Check(label, Grade.FAIL, f"no sandbox can be made: {why}", _UNIT, 2)
    return Check(label, Grade.OK, f"{trainer.file} has its hash, and runs in a sandbox without network")
