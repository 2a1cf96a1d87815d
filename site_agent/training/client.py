"""`TrainerProcess`: the agent's end of a training process. No torch here."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from messages.ground.errors import KonsilError, WorkFailed
from site_agent.training.protocol import Reply, Request, Stop, decode_reply, encode, read_frame

OnReply = Callable[[Reply], None]
OnExit = Callable[[int], None]


class TrainerProcess:
    """A training process in a process group of its own, warm between rounds; it dies with the agent.

    The process is started by the reader thread and not by the caller: the kernel's parent-death signal
    (prctl(2), PR_SET_PDEATHSIG) goes by the *thread* that forked, and the reader thread lives as long as the
    process does. The process also ends when its socket closes.

    Args:
        on_reply: called on the reader thread for each reply: hand over and return.
        on_exit: called once on the reader thread when the process has ended, with its exit status
            (negative: the signal that killed it, as in `subprocess`).
        log: file that takes the process's standard output and error (appended); None: discarded.
        nice: niceness added to the agent's.
        program: another program that the site's operator installed and that speaks the protocol; None: Konsil's.

    Raises:
        WorkFailed: the process could not be started.
    """

    def __init__(
        self,
        on_reply: OnReply,
        on_exit: OnExit,
        *,
        log: Path | None = None,
        nice: int = 0,
        program: Sequence[str] | None = None,
    ) -> None:
        self._on_reply = on_reply
        self._on_exit = on_exit
        self._log = log
        self._nice = nice
        self._program = [sys.executable, "-m", "site_agent.training"] if program is None else [*program]
        self._write_lock = threading.Lock()
        self._started = threading.Event()
        self._ended = threading.Event()
        self._start_error: OSError | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket, self._child_socket = socket.socketpair()
        self._reader = threading.Thread(target=self._run, name="trainer-reader", daemon=True)
        self._reader.start()
        self._started.wait()
        if self._start_error is not None:
            raise WorkFailed(
                "the training process could not be started",
                where=sys.executable,
                advice=str(self._start_error),
            ) from self._start_error

    @property
    def pid(self) -> int:
        """Process id, which is also the id of its process group."""
        assert self._process is not None  # noqa: S101 (for mypy: the constructor raises otherwise)
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended yet."""
        return not self._ended.is_set()

    def send(self, request: Request) -> None:
        """Hand a request over; raises WorkFailed if the process has ended. Thread-safe."""
        frame = encode(request)
        try:
            with self._write_lock:
                self._socket.sendall(frame)
        except OSError as error:
            raise WorkFailed("the training process has ended", where=f"pid {self.pid}") from error

    def stop(self, timeout: float = 5.0) -> int | None:
        """Ask the process to end, and kill it after `timeout` seconds. Returns its exit status."""
        try:
            self.send(Stop())
        except WorkFailed:
            return self.wait(timeout)
        if self.wait(timeout) is None:
            self.kill()
        return self.wait(timeout)

    def terminate(self) -> None:
        """SIGTERM to the process: it may save what it has, and ends. Idempotent."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the whole process group. Idempotent."""
        if self._process is not None and self._process.returncode is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit status once the process has ended and `on_exit` has returned; None on time-out."""
        if not self._ended.wait(timeout):
            return None
        return self._process.returncode if self._process else None

    def _run(self) -> None:
        command = [*self._program, "--fd", str(self._child_socket.fileno())]
        command += ["--parent", str(os.getpid()), "--nice", str(self._nice)]
        try:
            with open(self._log or os.devnull, "ab") as log:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=[self._child_socket.fileno()],
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
        except OSError as error:
            self._start_error = error
            self._socket.close()
            self._ended.set()
            return
        finally:
            self._child_socket.close()
            self._started.set()
        self._read_until_closed()
        status = self._process.wait()
        with self._write_lock:
            self._socket.close()
        try:
            self._on_exit(status)
        finally:
            self._ended.set()

    def _read_until_closed(self) -> None:
        try:
            while (body := read_frame(self._socket)) is not None:
                self._on_reply(decode_reply(body))
        except KonsilError:
            # A trainer that writes nonsense is broken: end it, and let on_exit tell.
            self.kill()
