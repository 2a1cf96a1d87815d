"""What is told while the process works: progress to the agent, and lines to the trainer's own log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from messages.reasons import Reason
from site_agent.datasets.opening import show_name
from site_agent.training.protocol import CheckpointEvent, Phase, Progress, Written

REPORT_SECONDS = 0.4
Send = Callable[[Progress | CheckpointEvent | Written], None]


class ProgressTeller:
    """Tells how far a phase is: now and then, and when it is done."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self._sent = 0.0

    def begin_phase(self) -> None:
        """What comes next is told at once."""
        self._sent = 0.0

    def tell_progress(
        self,
        round_number: int,
        phase: Phase,
        done: int,
        total: int,
        *,
        epoch: int = 0,
        epochs: int = 0,
        loss: float | None = None,
        eta_seconds: float | None = None,
    ) -> None:
        """So much of so much is done."""
        now = time.monotonic()
        if now - self._sent < REPORT_SECONDS and done != total:
            return
        self._sent = now
        self.send(
            Progress(
                round=round_number,
                phase=phase,
                done=done,
                total=total,
                epoch=epoch,
                epochs=epochs,
                loss=loss,
                eta_seconds=eta_seconds,
            )
        )


def say_line(text: str) -> None:
    """A line in the trainer's own log, which stays at the site."""
    sys.stderr.write(f"{text}\n")


def name_left_out(key: str, reason: Reason, text: str) -> None:
    """Say which case is left out, and why."""
    say_line(f"left out: {show_name(key)} ({reason}): {text}")
