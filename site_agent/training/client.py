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

import structlog

from messages.ground.errors import KonsilError, MalformedMessage, WorkFailed
from messages.reasons import Reason
from site_agent.training.compatibility import (
    UNSAID,
    ForeignTrainer,
    NewerThanTrainer,
    ProtocolVersion,
    encode_for,
    read_ready,
    read_reply,
)
from site_agent.training.protocol import ANNOUNCED, PROTOCOL, Failed, Reply, Request, Stop, read_frame

log = structlog.get_logger()

READY_WITHIN = 30.0
"""Seconds for a process to say its version, where a request waits that 0.1's protocol has no words for."""

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
        self._version: ProtocolVersion | None = None
        self._spoke = threading.Event()
        self._held: list[Request] = []
        """Requests that wait until the process has said its version."""
        self._said = False
        self._foreign: ForeignTrainer | None = None
        self._started = threading.Event()
        self._ended = threading.Event()
        self._start_error: OSError | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket, self._child_socket = socket.socketpair()
        self._reader = threading.Thread(target=self._read_replies, name="trainer-reader", daemon=True)
        self._reader.start()
        self._started.wait()
        if self._start_error is not None:
            raise WorkFailed(
                "the training process could not be started",
                where=self._program[0],
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

    def send_request(self, request: Request) -> None:
        """Hand a request over; raises WorkFailed if the process has ended. Thread-safe.

        What its version of the protocol has no words for is answered with `Failed` (unsupported) in its stead.
        """
        try:
            with self._write_lock:
                if self._held:
                    self._held.append(request)
                    return
                try:
                    self._socket.sendall(encode_for(request, self._version or UNSAID))
                except NewerThanTrainer as error:
                    if self._version is not None:
                        self._refuse(request, error)
                        return
                    self._held.append(request)
                    timer = threading.Timer(READY_WITHIN, self._take_version, (UNSAID,))
                    timer.daemon = True
                    timer.start()
        except OSError as error:
            raise WorkFailed("the training process has ended", where=f"pid {self.pid}") from error

    def wait_version(self, timeout: float) -> ProtocolVersion | None:
        """The version that the process has said; None: it has said none so far, or has ended.

        Raises:
            ForeignTrainer: another major version; it was ended.
        """
        self._spoke.wait(timeout)
        if self._foreign is not None:
            raise self._foreign
        return self._version if self._said else None

    def _take_version(self, version: ProtocolVersion, *, said: bool = False) -> None:
        """The process has said its version, or none in time; what waited for that is handed over."""
        with self._write_lock:
            if self._version is not None and not said:
                return
            self._version, self._said = version, said
            held, self._held = self._held, []
        for request in held:
            with contextlib.suppress(WorkFailed):  # it has ended: its exit tells
                self.send_request(request)

    def _refuse(self, request: Request | None, error: KonsilError) -> None:
        log.error("the trainer cannot be used", problem=error.what, where=error.where, advice=error.advice)
        number, fatal = getattr(request, "round", 0), request is None
        self._on_reply(Failed(code=Reason.UNSUPPORTED.value, round=number, detail=str(error)[:2000], fatal=fatal))

    def stop(self, timeout: float = 5.0) -> int | None:
        """Ask the process to end, and kill it after `timeout` seconds. Returns its exit status."""
        try:
            self.send_request(Stop())
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

    def _read_replies(self) -> None:
        command = [*self._program, "--fd", str(self._child_socket.fileno())]
        command += ["--parent", str(os.getpid()), "--nice", str(self._nice)]
        try:
            with open(self._log or os.devnull, "ab") as words:
                self._process = subprocess.Popen(
                    command,
                    pass_fds=[self._child_socket.fileno()],
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=words,
                    stderr=words,
                    env={**os.environ, ANNOUNCED: PROTOCOL},
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
        self._spoke.set()
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
                self._hear(body)
        except ForeignTrainer as error:
            self._foreign = error
            self._refuse(None, error)
            self.kill()
        except MalformedMessage as error:
            # A trainer that writes nonsense is broken: end it, and let on_exit tell.
            log.error("the trainer says what its protocol does not have, ending it", reason=error.reason, pid=self.pid)
            self.kill()
        except KonsilError:
            self.kill()
        except Exception:  # a reader that ends in silence leaves a trainer of whom nobody hears again
            log.critical("a trainer's words cannot be read, ending it", pid=self.pid, exc_info=True)
            self.kill()

    def _hear(self, body: bytes) -> None:
        version = None if self._said else read_ready(body)
        if version is not None:
            self._take_version(version, said=True)
            self._spoke.set()
            return
        if self._version is None:
            log.warning(
                "the trainer says no version of its protocol: taken for Konsil 0.1's, which the next release refuses",
                advice=f"Have it say version {PROTOCOL} first (docs/site.md, a trainer of one's own)",
            )
            self._take_version(UNSAID)
        reply = read_reply(body, self._version or UNSAID)
        if reply is not None:
            self._on_reply(reply)
