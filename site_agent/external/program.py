"""One run of an operator's program: started, watched, ended; what it says is progress or goes to the trainer's log."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from pydantic import Field, ValidationError

from messages.ground.strictness import StrictModel
from messages.kinds import MOST_LOSS
from messages.reasons import Reason
from site_agent.config import ExternalTrainer
from site_agent.external import inside
from site_agent.external.sandbox import Places, TrainerUnfit
from site_agent.external.work import ProgramFailed

LOOKED_EVERY = 1.0
"""Seconds between two looks at the clock and at what was written."""
LONGEST_LINE = 2**16


class ProgressLine(StrictModel):
    """A line of JSON on the program's standard output."""

    step: int = Field(ge=0, le=2**53)
    of: int = Field(ge=0, le=2**53)
    loss: float | None = Field(None, ge=-MOST_LOSS, le=MOST_LOSS)


def run_program(
    trainer: ExternalTrainer, places: Places, command: Sequence[str], report: Callable[[ProgressLine], None]
) -> None:
    """Run it to its end.

    Args:
        command: `sandbox.start_command`. report: told what it says of its progress.

    Raises:
        ProgramFailed: it ended with another status than 0, ran too long, or wrote too much.
        TrainerUnfit: it could not be started.
    """
    # In this process's group, so that whoever ends the group ends the program: no session of its own.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd="/", env={"PATH": os.environ.get("PATH", "")}
    )
    try:
        _watch_program(process, trainer, places, _Lines(report))
        status = process.wait()
    finally:
        process.kill()  # with `unshare --kill-child` everything that it has started
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if status == inside.FAILED:
        raise TrainerUnfit("the program could not be started; the trainer's log says why", where=trainer.command[0])
    if status:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise ProgramFailed(f"the program {how}")


def _watch_program(process: subprocess.Popen[bytes], trainer: ExternalTrainer, places: Places, lines: _Lines) -> None:
    """Hear what it says, and look at clock and disk, until it has ended."""
    deadline, looked = time.monotonic() + trainer.within, time.monotonic()
    most = places.count_bytes() + trainer.disk
    open_end = [one.fileno() for one in (process.stdout,) if one is not None]
    while True:
        ended = process.poll() is not None  # asked first: then all that it has said can be read
        if open_end and select.select(open_end, [], [], 0.0 if ended else LOOKED_EVERY)[0]:
            said = os.read(open_end[0], LONGEST_LINE)
            lines.add_bytes(said)
            open_end = open_end if said else []
        elif ended:
            lines.end()
            return
        elif not open_end:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOKED_EVERY)
        now = time.monotonic()
        if now >= deadline:
            raise ProgramFailed(f"the program ran for {trainer.within:.0f} s (within)", Reason.TRAINER_STUCK)
        if now - looked >= LOOKED_EVERY:
            looked = now
            if places.count_bytes() > most:
                raise ProgramFailed(f"the program wrote more than {trainer.disk} bytes (disk)", Reason.DISK_FULL)


class _Lines:
    """Bytes → lines of progress; all else goes to the log, as it is."""

    def __init__(self, report: Callable[[ProgressLine], None]) -> None:
        self._report, self._rest = report, b""

    def add_bytes(self, said: bytes) -> None:
        """What came now."""
        *whole, self._rest = (self._rest + said).split(b"\n")
        for line in whole:
            self._take_line(line)
        if len(self._rest) > LONGEST_LINE:
            self.end()

    def end(self) -> None:
        """There is no more of this line."""
        rest, self._rest = self._rest, b""
        if rest:
            self._take_line(rest)

    def _take_line(self, line: bytes) -> None:
        found: Any = None
        if line.startswith(b"{"):
            with contextlib.suppress(ValueError, RecursionError):
                found = json.loads(line)
        if isinstance(found, dict) and "step" in found:
            with contextlib.suppress(ValidationError):
                self._report(ProgressLine.model_validate(found))
                return
        sys.stderr.write(line.decode("utf-8", "replace") + "\n")
        sys.stderr.flush()
