"""A trainer that trains nothing: adds a small constant that seed, site and round decide. No torch.

For rehearsals of a network, benchmarks of everything but training, and tests in which processes are killed. Only a
site's operator can choose it, in site.toml:

    [training]
    command = ["python", "-m", "site_agent.training.null", "--cases", "40", "--seconds", "0.1"]
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from messages.experiment import Experiment
from messages.ground import crash
from messages.ground.durable import replace_file
from messages.ground.kernel import die_with_parent
from messages.secure.shared import SHARED_UNITS, is_shared
from messages.tasks.base import Task, TaskRows
from messages.tensors.codecs import Tensor
from messages.tensors.layout import Manifest
from site_agent.training.files import open_model, write_update
from site_agent.training.protocol import (
    Evaluate,
    Evaluated,
    Failed,
    Measure,
    Measured,
    MeasuredCase,
    MeasuredChannel,
    Prepare,
    Prepared,
    Progress,
    Reply,
    Request,
    Split,
    Stop,
    Train,
    Trained,
    UsedCase,
    Written,
    decode_request,
    encode_frame,
    greeting,
    read_frame,
    step_of,
)

STEPS = 10


def round_addend(seed: int, site: str, round_number: int, memory: str = "") -> np.float32:
    """What a round adds to every weight; in (0, 1), exact in float32."""
    return np.float32(sha256(f"{seed}|{site}|{round_number}{memory}".encode()).digest()[0] / 256)


class Memory:
    """What a site's trainer remembers of the rounds it trained: a hash over each round and the model that began it.

    It enters every later update, so a round that is lost, or trained from another model, changes all that follows. A
    round that is trained again (its trainer or agent was killed) begins from what was remembered before it.

    Args:
        folder: the experiment's cache folder at the site.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "memory.json"

    def remember_round(self, round_number: int, model: bytes) -> str:
        """Remember a round; the hash over all so far.

        Raises:
            ValueError: a later round was trained already.
        """
        known: dict[str, Any] = {"round": 0, "before": "", "after": ""}
        if self._path.exists():
            known = json.loads(self._path.read_text())
        if known["round"] > round_number:
            raise ValueError(f"round {known['round']} was trained, and now round {round_number}")
        before = known["before"] if known["round"] == round_number else known["after"]
        after = sha256(f"{before}|{round_number}|{model.hex()}".encode()).hexdigest()
        replace_file(self._path, json.dumps({"round": round_number, "before": before, "after": after}).encode())
        return after


class _Moved(Mapping[str, NDArray[Any]]):
    """The received tensors with something added to each, made when they are asked for: one is in memory at a time."""

    def __init__(self, received: Mapping[str, Tensor], step: np.float32) -> None:
        self._received, self._step = received, step

    def __getitem__(self, name: str) -> NDArray[Any]:
        array = self._received[name].read_all()
        array += self._step.astype(array.dtype)
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._received)

    def __len__(self) -> int:
        return len(self._received)


class _Words(Mapping[str, NDArray[Any]]):
    """A whole number for all elements of each tensor, in the place of weights (`messages.secure.shared`)."""

    def __init__(self, received: Mapping[str, Tensor], step: np.float32) -> None:
        self._received, self._word = received, np.int32(word_of(step))

    def __getitem__(self, name: str) -> NDArray[Any]:
        return np.full(self._received[name].read_all().shape, self._word).view(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._received)

    def __len__(self) -> int:
        return len(self._received)


def word_of(step: np.float32) -> int:
    """What a site of shared noise tells of each weight, in the place of what it would have added to it."""
    return round(float(step) * SHARED_UNITS)


class NullTrainer:
    """Answers every request of the protocol.

    Args:
        cases: usable cases it claims; 70 % train, 10 % validate, 20 % test.
        seconds: how long a round takes.
        fail: reason code with which every round fails; "die", "hang": what it does instead.
        memory: updates follow from all rounds that this site trained, and from the models they began with (`Memory`).
    """

    def __init__(
        self, connection: socket.socket, cases: int, seconds: float, fail: str, *, memory: bool = False
    ) -> None:
        self._connection, self._cases, self._seconds, self._fail = connection, cases, seconds, fail
        self._remembers = memory
        self._prepare: Prepare | None = None
        self._task: Task | None = None

    def answer_request(self, request: Request) -> None:
        """Do what is asked, and say so."""
        if isinstance(request, Prepare):
            self._send_reply(self._prepare_reply(request))
        elif isinstance(request, Train):
            self._train_round(request)
        elif isinstance(request, Measure):
            self._send_reply(Measured(round=request.round, cases=self._measure_cases()))
        elif isinstance(request, Evaluate):
            rows = [self._make_rows(split) for split in request.splits]
            self._send_reply(Evaluated(round=request.round, label=request.label, scores=rows))

    def _send_reply(self, reply: Reply) -> None:
        crash.pass_step(step_of(reply))
        self._connection.sendall(encode_frame(reply))

    def _split_shares(self) -> dict[Split, int]:
        validation, test = max(1, self._cases // 10), max(1, self._cases // 5)
        return {"train": self._cases - validation - test, "validation": validation, "test": test}

    def _prepare_reply(self, request: Prepare) -> Prepared:
        experiment = Experiment.model_validate(request.experiment)
        self._prepare, self._task = request, experiment.task
        shares = self._split_shares()
        return Prepared(
            found=self._cases,
            used=self._cases,
            left_out={},
            train=shares["train"],
            validation=shares["validation"],
            test=shares["test"],
            device="none",
            device_type="cpu",
            threads=request.threads,
            versions={"trainer": "null-1"},
            deterministic=True,
            fingerprint=sha256(str(self._cases).encode()).hexdigest(),
            cases=[*self._invent_cases()],
            patients=0 if experiment.privacy.dp is None else shares["train"],
        )

    def _invent_cases(self) -> Iterator[UsedCase]:
        """ "null-1", "null-2", …, each of a patient of its own: first those that train, then the others."""
        number = 0
        for split, count in self._split_shares().items():
            for _ in range(count):
                number += 1
                name = f"null-{number}"
                digest = sha256(name.encode()).hexdigest()
                yield UsedCase(case=name, patient=f"patient-{number}", split=split, digest=digest)

    def _train_round(self, request: Train) -> None:
        assert self._prepare is not None  # noqa: S101 (the agent prepares first)
        began = time.monotonic()
        if self._fail == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fail == "hang":
            time.sleep(86400)
        if self._fail:
            self._send_reply(Failed(code=self._fail, round=request.round))
            return
        for done in range(1, STEPS + 1):
            time.sleep(self._seconds / STEPS)
            self._send_reply(
                Progress(
                    round=request.round,
                    phase="training",
                    done=done,
                    total=STEPS,
                    epoch=1,
                    epochs=1,
                    loss=1 / (request.round + done),
                )
            )
        self._write_update(request)
        self._send_reply(
            Trained(
                round=request.round,
                attempt=request.attempt,
                cases=self._split_shares()["train"],
                steps=1 if is_shared(Experiment.model_validate(self._prepare.experiment)) else STEPS,
                epochs=1.0,
                loss=1 / (request.round + 1),
                seconds=time.monotonic() - began,
                evaluation=self._make_rows("validation") if request.evaluate else None,
            )
        )

    def _write_update(self, request: Train) -> None:
        assert self._prepare is not None  # noqa: S101 (as above)
        experiment = Experiment.model_validate(self._prepare.experiment)
        number = request.round + experiment.rounds_before
        received = open_model(request.model, Manifest.model_validate(request.manifest))
        memory = self._remember_model(request) if self._remembers else ""
        step = round_addend(experiment.seed, self._prepare.site, number, memory)
        trained = _Words(received, step) if is_shared(experiment) else _Moved(received, step)

        def written(first: int, digests: list[bytes]) -> None:
            cases = self._split_shares()["train"]
            self._send_reply(
                Written(round=request.round, attempt=request.attempt, cases=cases, first=first, digests=digests)
            )

        # Not durable: a rehearsal has nothing to lose that it could not make again.
        update = Manifest.model_validate(request.update)
        write_update(request.output, trained, update, received, durable=False, on_chunks=written)

    def _remember_model(self, request: Train) -> str:
        assert self._prepare is not None  # noqa: S101 (as above)
        folder = Path(self._prepare.cache)
        folder.mkdir(parents=True, exist_ok=True)
        return Memory(folder).remember_round(request.round, sha256(Path(request.model).read_bytes()).digest())

    def _measure_cases(self) -> list[MeasuredCase]:
        """Images of 1 mm that differ a little in size, with one grey value in each concept."""
        assert self._prepare is not None and self._task is not None  # noqa: S101, PT018 (as above)
        made: list[MeasuredCase] = []
        for number in range(self._split_shares()["train"]):
            edges = [40 + number % 5, 48, 36]
            grey = MeasuredChannel(bins=[900 + number % 7], counts=[10_000])
            made.append(
                MeasuredCase(
                    spacing=[1.0, 1.0, 1.0],
                    shape=[64, 64, 64],
                    cropped=edges,
                    channels=dict.fromkeys(self._task.channels, grey),
                    volumes=dict.fromkeys(self._task.concepts, 1000.0 + number),
                )
            )
        return made

    def _make_rows(self, split: Split) -> TaskRows:
        assert self._task is not None  # noqa: S101 (as above)
        return self._task.rehearse_split(split, self._split_shares()[split])


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="site_agent.training.null")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--fail", default="")
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    if not die_with_parent(options.parent):
        return 1
    connection = socket.socket(fileno=options.fd)
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(connection, requests), daemon=True).start()
    connection.sendall(greeting())
    trainer = NullTrainer(connection, options.cases, options.seconds, options.fail, memory=options.memory)
    while not isinstance(request := requests.get(), Stop):
        trainer.answer_request(request)
    return 0


def _read_requests(connection: socket.socket, requests: queue.SimpleQueue[Request]) -> None:
    while (body := read_frame(connection)) is not None:
        requests.put(decode_request(body))
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
