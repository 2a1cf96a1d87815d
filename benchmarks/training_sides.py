"""The two that `benchmarks.training_loop` compares, and what each is told."""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from deploy.demo.experiments import glioma_demo
from deploy.demo.phantoms import phantom
from messages.experiment import Experiment
from messages.tasks.segmentation import SegmentationTask
from messages.tensors.layout import Manifest
from site_agent.training.client import TrainerProcess
from site_agent.training.protocol import Failed, Prepare, Prepared, Progress, Reply, Train, Trained, Written

SITE = "site-a"

WITHIN = 600.0


def experiment_of(options: argparse.Namespace, **training: Any) -> Experiment:
    """The demo's experiment with this patch and as many epochs as asked for."""
    plain = glioma_demo(1, 1, [SITE])
    plain["training"] |= {"patch": [options.patch] * 3, "local_epochs": options.epochs} | training
    return Experiment.model_validate(plain)


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """What the plain loop is told."""
    training, augmentation = experiment.training, experiment.augmentation
    assert not augmentation.noise
    assert training.clip_norm is None
    assert isinstance(experiment.task, SegmentationTask)
    return {
        "epochs": training.epochs,
        "patch": list(training.patch),
        "patches_per_case": training.patches_per_case,
        "batch": training.batch,
        "foreground_share": training.foreground_share,
        "lr": training.optimizer.lr * training.schedule.factor(1, experiment.rounds.count),
        "flip": augmentation.flip,
        "scale_intensity": augmentation.scale_intensity,
        "shift_intensity": augmentation.shift_intensity,
        "regions": [
            [experiment.task.concepts.index(concept) + 1 for concept in members]
            for members in experiment.task.regions.values()
        ],
    }


def preparation(folder: Path, experiment: Experiment, threads: int) -> Prepare:
    return Prepare(
        experiment=experiment.as_plain(),
        dataset={
            "source": "brats",
            "path": str(folder / "data"),
            "labels": {str(integer): concept for integer, concept in phantom.site_labels(0).items()},
            "patient_id": phantom.PATIENT_ID,
        },
        site=SITE,
        secret=b"benchmark",
        threads=threads,
        cache=str(folder / "cache"),
    )


class Konsil:
    """The real training process and its answers."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder, self._threads = folder, threads
        self._replies: queue.Queue[Reply] = queue.Queue()
        self.progress = 0
        self.process = TrainerProcess(self._replies.put, lambda _: None, log=folder / "trainer.log")
        self._watched = psutil.Process(self.process.pid)

    def prepare(self, experiment: Experiment) -> Prepared:
        reply = self._ask(preparation(self._folder, experiment, self._threads))
        assert isinstance(reply, Prepared), reply
        return reply

    def train(self, manifest: Manifest) -> tuple[float, float]:
        """Wall and processor seconds of one round."""
        before, began = self.cpu(), time.perf_counter()
        reply = self._ask(
            Train(
                round=1,
                attempt=1,
                model=str(self._folder / "start"),
                manifest=manifest.plain(),
                update=manifest.plain(),
                output=str(self._folder / "update"),
            )
        )
        took = time.perf_counter() - began
        assert isinstance(reply, Trained), reply
        return took, self.cpu() - before

    def cpu(self) -> float:
        times = self._watched.cpu_times()
        return float(times.user + times.system)

    def rss(self) -> int:
        return int(self._watched.memory_info().rss)

    def _ask(self, request: Any) -> Reply:
        self.process.send_request(request)
        deadline = time.monotonic() + WITHIN
        while True:
            reply = self._replies.get(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(reply, Progress):
                self.progress += 1
            if isinstance(reply, Progress | Written):  # what is on its way; the answer comes at the end
                continue
            if isinstance(reply, Failed):
                raise SystemExit(f"the trainer failed: {reply.code}: {reply.detail}")
            return reply


class Plain:
    """`benchmarks.plain_training_loop` and its answers."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.plain_training_loop", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._folder = folder
        self._answer()

    def train(self, settings: dict[str, Any], seed: int) -> dict[str, float]:
        assert self.process.stdin is not None
        asked = {"settings": settings, "seed": seed, "output": str(self._folder / "plain.safetensors")}
        print(json.dumps(asked), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the plain loop ended")
        answer: dict[str, float] = json.loads(line)
        return answer
