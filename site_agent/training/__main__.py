"""`python -m site_agent.training --fd N --parent PID`: the training process. Started by `client.TrainerProcess`.

It reads requests from an inherited socket and ends when that closes, whatever it is doing: an agent that was killed
leaves no trainer behind.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import queue
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from messages.experiment import Experiment
from messages.ground import crash
from messages.ground.errors import KonsilError
from messages.ground.kernel import die_with_parent
from messages.ground.starting import settle_process
from messages.reasons import Reason
from site_agent.training.protocol import (
    Evaluate,
    Evaluated,
    Failed,
    Measure,
    Measured,
    Prepare,
    Prepared,
    Reply,
    Request,
    Stop,
    Train,
    Trained,
    decode_request,
    encode_frame,
    greeting,
    read_frame,
    step_of,
)
from site_agent.training.resuming.interrupt import Interrupt, Interrupted

if TYPE_CHECKING:  # imports torch
    from site_agent.training.session import TrainingSession
    from site_agent.training.statistics.session import MeasuringSession

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_THRESHOLD = 32 * 2**20
"""The most that glibc takes for M_MMAP_THRESHOLD on 64 bits."""


class AnswersRequests(Protocol):
    """What answers an experiment's requests, once its data are read."""

    @property
    def prepared(self) -> Prepared: ...

    def train_round(self, request: Train) -> Trained: ...

    def evaluate_model(self, request: Evaluate) -> Evaluated: ...


@runtime_checkable
class MeasuresCases(Protocol):
    """What answers before there is a net."""

    def measure_cases(self, request: Measure) -> Measured: ...


OpenSession = Callable[[Prepare, Callable[[Reply], None], Interrupt], AnswersRequests]
"""(request, where its words go, whether it was asked to end) → what answers the requests that follow."""


def main(opens: OpenSession | None = None) -> int:
    """Entry point; returns the exit status.

    Args:
        opens: called for each `Prepare`; None: `open_session`.
    """
    settle_process()  # its words go to a log, whose disk may be full
    parser = argparse.ArgumentParser(prog="site_agent.training")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--nice", type=int, default=0)
    options = parser.parse_args()
    if not die_with_parent(options.parent):
        return 1
    if options.nice:
        os.nice(options.nice)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the agent's to handle
    interrupt = Interrupt()
    interrupt.take_sigterm()
    connection = socket.socket(fileno=options.fd)
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(connection, requests), daemon=True).start()
    _serve_requests(connection, requests, interrupt, opens or open_session)
    return 0


def _keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one, instead of having the kernel clear it anew.

    A step allocates the same activations as the one before it; by default each of some MiB is mapped, cleared page by
    page and unmapped again, a tenth of a small net's round (mallopt(3); `benchmarks.training_loop`).
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # glibc
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _give_freed_memory_back() -> None:
    """While it waits, the process holds no more than it needs (malloc_trim(3))."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)


def _read_requests(connection: socket.socket, requests: queue.SimpleQueue[Request]) -> None:
    try:
        while (body := read_frame(connection)) is not None:
            requests.put(decode_request(body))
    except KonsilError as error:
        print(error, file=sys.stderr, flush=True)  # noqa: T201 (the local log)
    # The agent is gone or talks nonsense. Nothing here is worth keeping: updates are renamed into place when whole.
    os._exit(0)


def _serve_requests(
    connection: socket.socket,
    requests: queue.SimpleQueue[Request],
    interrupt: Interrupt,
    opens: OpenSession,
) -> None:
    lock = threading.Lock()

    def send(reply: Reply) -> None:
        crash.pass_step(step_of(reply))
        with lock:
            connection.sendall(encode_frame(reply))

    connection.sendall(greeting())
    session: AnswersRequests | None = None
    while True:
        request = requests.get()
        number = getattr(request, "round", 0)
        try:
            match request:
                case Stop():
                    return
                case Prepare():
                    session = None
                    session = opens(request, send, interrupt)
                    send(session.prepared)
                case Train() | Evaluate() | Measure() if session is None:
                    send(Failed(code="training-error", round=number, detail="not prepared"))
                case Train():
                    send(session.train_round(request))
                case Evaluate():
                    send(session.evaluate_model(request))
                case Measure() if isinstance(session, MeasuresCases):
                    send(session.measure_cases(request))
                case Measure():
                    send(Failed(code="training-error", round=number, detail="there is a net, and nothing was measured"))
        except Interrupted:
            return
        except Exception as error:  # noqa: BLE001 (the boundary: every failure becomes a code)
            traceback.print_exc()
            send(_failed_reply(error, number))
        if interrupt.asked:
            return
        _give_freed_memory_back()


def open_session(
    request: Prepare, send: Callable[[Reply], None], interrupt: Interrupt
) -> TrainingSession | MeasuringSession:
    """Import torch only now, under the limits that the request sets."""
    limit_process(request)
    if Experiment.model_validate(request.experiment).measures_first:
        from site_agent.training.statistics.session import MeasuringSession

        return MeasuringSession(request, send)
    from site_agent.training.session import TrainingSession

    return TrainingSession(request, send, interrupt)


def limit_process(request: Prepare) -> None:
    """Hold this process to what a request lends it, before torch is imported."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(request.threads)
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, request.gpus))
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS gives the same bits only with a fixed workspace
    if request.ram_bytes is not None and not request.gpus:
        # RLIMIT_DATA counts private writable memory (Linux 4.7). CUDA reserves far more than it uses: not there.
        resource.setrlimit(resource.RLIMIT_DATA, (request.ram_bytes, request.ram_bytes))
    _keep_freed_memory()


def _failed_reply(error: Exception, number: int) -> Failed:
    named = getattr(error, "reason", None)
    if isinstance(named, Reason) and named is not Reason.GPU_ERROR:  # our own errors carry their code: no torch
        return Failed(code=str(named), round=number, detail=f"{type(error).__name__}: {error}"[:2000])
    from site_agent.training.failures import code_of, spoils_the_process

    return Failed(
        code=str(code_of(error)),
        round=number,
        detail=f"{type(error).__name__}: {error}"[:2000],
        fatal=spoils_the_process(error),
    )


if __name__ == "__main__":
    raise SystemExit(main())
