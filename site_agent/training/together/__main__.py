"""`python -m site_agent.training.together --fd N --parent PID`: a member of a team. Started by `team.Team`."""

from __future__ import annotations

import argparse
import os
import queue
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgpack

from messages.experiment import Experiment
from messages.ground.kernel import die_with_parent
from site_agent.training.__main__ import limit_process
from site_agent.training.protocol import Prepare, read_frame


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="site_agent.training.together")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    if not die_with_parent(options.parent):
        return 1
    for one in (signal.SIGINT, signal.SIGTERM):  # the leader's to handle
        signal.signal(one, signal.SIG_IGN)
    frames: queue.SimpleQueue[dict[str, object]] = queue.SimpleQueue()
    leader = socket.socket(fileno=options.fd)
    threading.Thread(target=_read_frames, args=(leader, frames), daemon=True).start()
    _train_with_leader(frames)
    return 0


def _read_frames(leader: socket.socket, frames: queue.SimpleQueue[dict[str, object]]) -> None:
    while (body := read_frame(leader)) is not None:
        frames.put(msgpack.unpackb(body))
    os._exit(0)  # the leader is gone


def _train_with_leader(frames: queue.SimpleQueue[dict[str, object]]) -> None:
    plain = frames.get()
    request = Prepare.model_validate(plain["prepare"])
    limit_process(request)
    from nets.build import build_for
    from nets.registry import spec_of
    from site_agent.datasets.vault import ARRAYS, Vault
    from site_agent.training.cases.cache import fetch_case
    from site_agent.training.cases.sampling import Batch
    from site_agent.training.engine import draw_steps, make_sampler
    from site_agent.training.machine import choose_device
    from site_agent.training.tasks.registry import learner_for
    from site_agent.training.together import gradients
    from site_agent.training.together.team import BeginRound, Join, TakeStep, meet

    join = Join.model_validate(plain)
    experiment = Experiment.model_validate(request.experiment)
    vault = Vault(request.secret, ARRAYS) if request.dataset.get("encrypt") else None
    cases = [fetch_case(Path(request.cache), one.key, one.name, vault, one.truth) for one in join.cases]
    strict = experiment.training.dims in spec_of(experiment).deterministic_on_cuda
    device = choose_device(request.gpus, request.threads, strict=strict)
    net = build_for(experiment).to(device).train()
    learner = learner_for(experiment)
    learner.look_at_cases(cases)
    meet(join.meeting, join.rank, join.size, device)
    steps: Iterator[list[Batch]] = iter(())
    while True:
        frame = frames.get()
        if frame["kind"] == "begin":
            begun = BeginRound.model_validate(frame)
            sampler = make_sampler(cases, experiment, begun.round, request.site)
            steps = draw_steps(sampler, device, begun.first)
            continue
        taken = TakeStep.model_validate(frame)
        net.zero_grad(set_to_none=True)
        gradients.send_weights(net, leads=False)
        gradients.add_gradients(
            net, next(steps), learner, precision=experiment.training.precision, scale=taken.scale,
            rank=join.rank, size=join.size, device=device,
        )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
