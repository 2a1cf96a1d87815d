"""The processes that train a round together, from the leader's side: it is the training process that the agent knows.

The others are its children. They end with it, whatever ends it: the kernel kills them, and their sockets close. Where
one of them ends by itself, the leader ends too: the agent starts it anew, and the round goes on from its checkpoint.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.distributed as dist

from messages.experiment import Experiment
from site_agent.training.cases.sampling import Batch
from site_agent.training.protocol import Frame, Prepare, encode_frame
from site_agent.training.tasks.base import Learner
from site_agent.training.together import gradients

MEMBER_GONE = 70
"""Exit status of a leader whose member has ended."""


class SharedCase(Frame):
    """A training case: its key in the cache, its name, and what a table says of it."""

    key: str
    name: str
    truth: list[float]


class Join(Frame):
    """A member's first frame.

    Attributes:
        rank: its number, from 1. size: of the team, the leader with it.
        meeting: file by which the processes find each other.
        prepare: the agent's request, with this member's share of threads, memory and GPUs.
        cases: the training cases in their order.
    """

    kind: Literal["join"] = "join"
    rank: int
    size: int
    meeting: str
    prepare: dict[str, Any]
    cases: list[SharedCase]


class BeginRound(Frame):
    """A round begins, or goes on: its steps come from `first` on."""

    kind: Literal["begin"] = "begin"
    round: int
    first: int


class TakeStep(Frame):
    """The next step of the round; `scale` of its loss."""

    kind: Literal["step"] = "step"
    scale: float


def share_limits(request: Prepare, rank: int) -> Prepare:
    """What one of the processes may use of what the site lends."""
    size = request.processes
    return request.model_copy(
        update={
            "threads": max(1, request.threads // size),
            "gpus": request.gpus[rank : rank + 1],
            "ram_bytes": None if request.ram_bytes is None else request.ram_bytes // size,
        }
    )


def meet(meeting: str, rank: int, size: int, device: torch.device) -> None:
    """Join the group of processes: NCCL between GPUs, gloo between CPUs, both on this machine's loopback alone."""
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=size)


class Team:
    """The leader's members; one at a time in a process.

    Args:
        request: the agent's, for the whole team.
        cases: to train on, in their order.
    """

    _present: ClassVar[Team | None] = None

    def __init__(self, request: Prepare, cases: Sequence[SharedCase], device: torch.device) -> None:
        self.size = request.processes
        self._device, self._experiment = device, Experiment.model_validate(request.experiment)
        Team.close_present()
        Team._present = self
        self.closed = False
        self._members: list[subprocess.Popen[bytes]] = []
        self._sockets: list[socket.socket] = []
        self._folder = tempfile.TemporaryDirectory(prefix="konsil-team-")
        meeting = str(Path(self._folder.name) / "meeting")
        for rank in range(1, self.size):
            ours, theirs = socket.socketpair()
            command = [sys.executable, "-m", "site_agent.training.together", "--fd", str(theirs.fileno())]
            command += ["--parent", str(os.getpid())]
            # A group of its own: a signal to end is the leader's alone, which saves a checkpoint first.
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()], process_group=0, stdin=subprocess.DEVNULL)
            theirs.close()
            self._members.append(process)
            threading.Thread(target=self._watch_member, args=(process,), daemon=True).start()
            plain = share_limits(request, rank).model_dump()
            whole = Join(rank=rank, size=self.size, meeting=meeting, prepare=plain, cases=list(cases))
            ours.sendall(encode_frame(whole))
            self._sockets.append(ours)
        meet(meeting, 0, self.size, device)

    @classmethod
    def close_present(cls) -> None:
        """End the members of the team that there is: another session begins."""
        if cls._present is not None:
            cls._present.close()

    def begin_round(self, round_number: int, first: int) -> None:
        """A round goes on from this step."""
        self._tell(BeginRound(round=round_number, first=first))

    def add_gradients(
        self, net: torch.nn.Module, learner: Learner, batches: Sequence[Batch], scaler: torch.amp.GradScaler
    ) -> torch.Tensor:
        """The next step's gradients, in the net; its loss. Where it fails the team is closed: its members may wait for
        each other."""
        precision = self._experiment.training.precision
        scaler.scale(torch.zeros((), device=self._device))  # a scaler makes its scale with the first loss that it sees
        scale = scaler.get_scale()
        try:
            self._tell(TakeStep(scale=scale))
            gradients.send_weights(net, leads=True)
            return gradients.add_gradients(
                net, batches, learner, precision=precision, scale=scale, rank=0, size=self.size, device=self._device
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the members."""
        if self.closed:
            return
        self.closed = True
        for member, ours in zip(self._members, self._sockets, strict=True):
            member.kill()
            ours.close()
        dist.destroy_process_group()
        self._folder.cleanup()

    def _tell(self, frame: Frame) -> None:
        body = encode_frame(frame)
        for one in self._sockets:
            one.sendall(body)

    def _watch_member(self, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        if not self.closed:
            print(f"a process that trains with this one has ended ({status})", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(MEMBER_GONE)


def name_bits(processes: int) -> Mapping[str, str]:
    """What decides a round's bits beside the versions of libraries."""
    return {"processes": str(processes)} if processes > 1 else {}
