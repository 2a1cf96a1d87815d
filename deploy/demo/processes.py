"""The demo's child processes: each in a session of its own, with a log, tethered to this process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from deploy.local import tether
from messages.ground.errors import KonsilError, RequestError, Unreachable, WorkFailed

_BY_STATUS: dict[int, type[KonsilError]] = {2: RequestError, 3: Unreachable}


class Child:
    """One running program.

    Args:
        name: as shown to the person ("coordinator", "site-a").
        command: program and arguments.
        log: takes its standard error, and its standard output unless `piped`.
        piped: standard output comes to this process (`process.stdout`).
        environment: added to this process's.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        piped: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else out,
                stderr=out,
                start_new_session=True,  # Ctrl-C is for the demo; the demo ends its children in order
                env={**os.environ, **(environment or {})},
            )

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.poll() is None

    def check_alive(self) -> None:
        """Raise where it ended although it should not have: with its last words, and the exit status it stands for."""
        status = self.process.poll()
        if status is None:
            return
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        raise _BY_STATUS.get(status, WorkFailed)(f"{self.name} {how}: {last_words(self.log)}", where=str(self.log))

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to it alone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def kill_group(self) -> None:
        """SIGKILL to it and to what shares its process group; idempotent."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Children:
    """All that the demo started; leaving the context ends every one."""

    def __init__(self) -> None:
        self._all: list[Child] = []

    def start_child(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        piped: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start a program and look after it."""
        child = Child(name, command, log, piped=piped, environment=environment)
        self._all.append(child)
        return child

    def end_child(self, child: Child, patience: float = 0.0) -> None:
        """End one, with `patience` seconds for an orderly end."""
        self._end_children([child], patience)

    def end_all(self, patience: float = 8.0) -> None:
        """End every one: SIGTERM, and SIGKILL after `patience` seconds."""
        self._end_children(list(self._all), patience)

    def _end_children(self, several: list[Child], patience: float) -> None:
        deadline = time.monotonic() + patience
        if patience:
            for child in several:
                if child.running:
                    child.send_signal(signal.SIGTERM)
        for child in several:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(max(0.0, deadline - time.monotonic()))
        for child in several:
            child.kill_group()
            if child.process.stdout is not None:
                child.process.stdout.close()
            if child in self._all:
                self._all.remove(child)

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # When something went wrong nobody waits for an orderly end: nothing of it is used any more.
        self.end_all(8.0 if kind is None else 1.0)


def last_words(log: Path) -> str:
    """The last line of a log that says something: of JSON lines the message, else the line itself."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return "it left no log"
    for line in reversed(lines):
        text = line.strip()
        if not text:
            continue
        with contextlib.suppress(ValueError, AttributeError):
            record = json.loads(text)
            text = " ".join(str(record[key]) for key in ("event", "error", "detail") if record.get(key))
        return text.removeprefix("konsil: ")[:300]
    return "it said nothing"
