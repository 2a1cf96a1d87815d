"""Test hook: a process that ends itself with SIGKILL at a named step of the protocol.

KONSIL_CRASH_AT names a file. While that file holds "STEP COUNT", the process that passes the step for the COUNT-th
time removes the file and kills itself, so a process that runs can be armed, and what comes back lives. Without the
variable (always, outside tests) a step costs one comparison.

Coordinator and agent pass a step once what it decides is on disk, before anything is done about it: the worst moment
there is. The steps within transfers and training are passed in the middle of them.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

AT = "KONSIL_CRASH_AT"

COORDINATOR = (
    "coordinator:experiment-start",
    "coordinator:joined",
    "coordinator:initialised",
    "coordinator:sending-model",
    "coordinator:round-accepted",
    "coordinator:weights-ready",
    "coordinator:verifying",
    "coordinator:update-stored",
    "coordinator:aggregating",
    "coordinator:aggregated",
    "coordinator:evaluated",
    "coordinator:head-witnessed",
)
"""Entries of the journal by what they take in, and the middle of what takes long."""
AGENT = (
    "agent:invite",
    "agent:join",
    "agent:takeround",
    "agent:fetching",
    "agent:fetched",
    "agent:begin",
    "agent:keep",
    "agent:sending",
    "agent:seal",
    "agent:deliver",
    "agent:keepscores",
    "agent:report",
    "agent:end",
)
"""Decisions of the agenda, and the middle of both transfers."""
TRAINER = (
    "trainer:prepared",
    "trainer:training",
    "trainer:written",
    "trainer:writing",
    "trainer:trained",
    "trainer:evaluated",
)
"""Just before the trainer says so; "training": at a step of it, "writing": before the update is renamed into place."""
PREPARATION = (
    "dicom:spooled",
    "dicom:storing",
    "dicom:stored",
    "dicom:judged",
    "dicom:publishing",
    "dicom:published",
)
"""Of a data set from DICOM: after an object, before and after a case, after its verdict, around a new state."""
STEPS = COORDINATOR + AGENT + TRAINER

_file = os.environ.get(AT)
_lock = threading.Lock()


def pass_step(step: str) -> None:
    """This process is at a step: go on, or die here."""
    if _file is None:
        return
    with _lock:
        path = Path(_file)
        try:
            wanted, count = path.read_text().split()
        except (OSError, ValueError):
            return
        if wanted != step:
            return
        if int(count) > 1:
            path.write_text(f"{wanted} {int(count) - 1}")
            return
        path.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
