"""What Konsil's training loop costs over the same loop in plain PyTorch: `python -m benchmarks.training_loop --json`.

Two processes stay warm and train the same round in turn (A B, B A, A B, …): Konsil's real training process, asked over
its socket as the agent does, from the model's file to the update's file, progress included; and
`benchmarks.plain_training_loop`. Both start from the same weights with the same cases, patches and augmentation, and
the benchmark fails unless both end with the same weights to the bit. Ratios are taken pair by pair; the interval is a
percentile bootstrap of their median (Efron and Tibshirani 1993). Then the parts of Konsil's step are timed one by one,
and the idle process is watched.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from deploy.demo import phantom
from deploy.demo.experiments import glioma_demo
from messages.experiment import Experiment
from messages.tensors import Manifest, views
from site_agent.training.client import TrainerProcess
from site_agent.training.protocol import Failed, Prepare, Prepared, Progress, Reply, Train, Trained

SITE = "site-a"
WITHIN = 600.0
WARM_UP_STEPS = 20


@dataclass(frozen=True)
class Pair:
    """One round by each: wall seconds as asked for, and processor seconds of the process."""

    konsil: float
    plain: float
    konsil_cpu: float
    plain_cpu: float
    steps: int
    plain_cutting: float


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
        self.process.send(request)
        deadline = time.monotonic() + WITHIN
        while True:
            reply = self._replies.get(timeout=max(0.0, deadline - time.monotonic()))
            if isinstance(reply, Progress):
                self.progress += 1
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


def preparation(folder: Path, experiment: Experiment, threads: int) -> Prepare:
    return Prepare(
        experiment=experiment.plain(),
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


def export(folder: Path, options: argparse.Namespace) -> None:
    """In a process of its own: hand the plain loop cases and start, and time the parts of Konsil's step."""
    from safetensors.numpy import save_file

    from nets.initial import initial_model
    from site_agent.training.session import Session

    experiment = experiment_of(options)
    manifest, buffer = initial_model(experiment)
    (folder / "start").write_bytes(buffer)
    (folder / "manifest.json").write_text(json.dumps(manifest.plain()))
    save_file({name: array.copy() for name, array in views(manifest, buffer).items()}, folder / "start.safetensors")
    session = Session(preparation(folder, experiment, options.threads), lambda _: None)
    cases = session.splits["train"]
    for index, case in enumerate(cases):
        np.save(folder / f"{index}-image.npy", np.asarray(case.image, dtype=np.float32))
        np.save(folder / f"{index}-label.npy", np.asarray(case.label))
        np.save(folder / f"{index}-foreground.npy", np.asarray(case.foreground))
        smallest = min(case.label.shape)
        assert smallest >= options.patch, f"a case of {smallest} voxels is smaller than the patch"
    spec = experiment.net.parameters
    net = {key: spec[key] for key in ("channels", "strides", "num_res_units", "norm")}
    net |= {"in_channels": len(experiment.task.channels), "out_channels": experiment.task.out_channels}
    described = {"threads": options.threads, "cases": len(cases), "net": net}
    (folder / "plain.json").write_text(json.dumps(described))


def parts(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """In a process of its own: milliseconds of each part of Konsil's step, and of a round's beginning and end."""
    import torch

    from nets.weights import arrays
    from site_agent.training.__main__ import _keep_freed_memory
    from site_agent.training.engine import train_round
    from site_agent.training.files import write_update
    from site_agent.training.sampling import Sampler
    from site_agent.training.seeds import derive
    from site_agent.training.session import Session

    _keep_freed_memory()
    experiment = experiment_of(options, local_epochs=None, local_steps=100)
    manifest = Manifest.model_validate(json.loads((folder / "manifest.json").read_text()))
    session = Session(preparation(folder, experiment, options.threads), lambda _: None)
    net, cases = session._net, session.splits["train"]
    seed = derive(experiment.seed, "round", 1, "site", SITE)
    sampler = Sampler(cases, experiment.training, experiment.augmentation, seed)
    _, labels = sampler.batch(0)

    def timed(work: Any, times: int) -> float:
        work(0)
        began = time.perf_counter()
        for index in range(times):
            work(index)
        return 1000 * (time.perf_counter() - began) / times

    def whole(_: int) -> None:
        train_round(
            net, cases, experiment, session.regions,
            round_number=1, site=SITE, device=torch.device("cpu"),
        )  # fmt: skip

    update = folder / "parts-update"
    received = session._load(str(folder / "start"), manifest.plain())
    return {
        "step": timed(whole, 2) / 100,
        "batch": timed(sampler.batch, 100),
        "target": timed(lambda _: session.regions.target(labels), 100),
        "load_model": timed(lambda _: session._load(str(folder / "start"), manifest.plain()), 20),
        "write_update": timed(lambda _: write_update(update, arrays(net), manifest, received), 20),
    }


def median_ratio(ratios: list[float], resamples: int = 10_000) -> dict[str, float]:
    """The median with its 95 % percentile bootstrap interval."""
    values = np.asarray(ratios)
    drawn = np.median(np.random.default_rng(0).choice(values, (resamples, len(values))), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"median": float(np.median(values)), "low": float(low), "high": float(high)}


def same_bits(folder: Path, manifest: Manifest) -> bool:
    from safetensors.numpy import load_file

    ours = views(manifest, (folder / "update").read_bytes())
    theirs = load_file(folder / "plain.safetensors")
    return ours.keys() == theirs.keys() and all(ours[name].tobytes() == theirs[name].tobytes() for name in ours)


def idle(konsil: Konsil, seconds: float) -> dict[str, float]:
    """What the warm process costs while nothing is asked of it."""
    before, began = konsil.cpu(), time.perf_counter()
    time.sleep(seconds)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": konsil.cpu() - before,
        "rss_mib": konsil.rss() / 2**20,
    }


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """All of it, as plain data."""
    if not (folder / "data").is_dir():
        phantom.write_site(folder / "data", site_index=0, cases=options.cases, seed=1)
    child(folder, options, "export")
    manifest = Manifest.model_validate(json.loads((folder / "manifest.json").read_text()))
    experiment = experiment_of(options)
    from site_agent.training.seeds import derive

    seed = derive(experiment.seed, "round", 1, "site", SITE)
    settings = settings_of(experiment)
    found: dict[str, Any] = {"machine": platform.machine(), "processors": os.cpu_count(), "threads": options.threads}
    with processes(folder, options) as (konsil, plain):
        konsil.prepare(experiment_of(options, local_epochs=None, local_steps=WARM_UP_STEPS))
        konsil.train(manifest)
        prepared = konsil.prepare(experiment)
        plain.train(settings | {"epochs": 1}, seed)
        konsil.progress = 0
        pairs, same = [], True
        for number in range(options.pairs):
            if number % 2:
                theirs = plain.train(settings, seed)
                ours, ours_cpu = konsil.train(manifest)
            else:
                ours, ours_cpu = konsil.train(manifest)
                theirs = plain.train(settings, seed)
            same = same and same_bits(folder, manifest)
            pair = Pair(ours, theirs["seconds"], ours_cpu, theirs["cpu"], int(theirs["steps"]), theirs["cutting"])
            pairs.append(pair)
            print(
                f"pair {number + 1}: konsil {pair.konsil:.2f} s, plain {pair.plain:.2f} s,"
                f" ratio {pair.konsil / pair.plain:.4f}, same bits: {same}",
                file=sys.stderr,
            )
        if pairs:
            found |= {
                "torch": prepared.versions["torch"],
                "train_cases": prepared.train,
                "steps": pairs[0].steps,
                "same_bits": same,
                "ratio": median_ratio([pair.konsil / pair.plain for pair in pairs]),
                "cpu_ratio": median_ratio([pair.konsil_cpu / pair.plain_cpu for pair in pairs]),
                "progress_messages_per_round": konsil.progress / len(pairs),
                "plain_batch_ms": 1000 * float(np.median([pair.plain_cutting / pair.steps for pair in pairs])),
                "plain_step_ms": 1000 * float(np.median([pair.plain / pair.steps for pair in pairs])),
                "pairs": [asdict(pair) for pair in pairs],
            }
        if options.idle:
            found["idle"] = idle(konsil, options.idle)
    if options.parts:
        found["konsil_parts_ms"] = json.loads(child(folder, options, "parts"))
    return found


@contextlib.contextmanager
def processes(folder: Path, options: argparse.Namespace) -> Iterator[tuple[Konsil, Plain]]:
    konsil, plain = Konsil(folder, options.threads), Plain(folder)
    try:
        yield konsil, plain
    finally:
        assert plain.process.stdin is not None
        plain.process.stdin.close()
        plain.process.wait(10)
        konsil.process.stop()


def child(folder: Path, options: argparse.Namespace, what: str) -> str:
    """This module in a process of its own, for what imports torch."""
    command = [sys.executable, "-m", "benchmarks.training_loop", "--folder", str(folder), "--child", what]
    for name in ("threads", "patch", "epochs"):
        command += [f"--{name}", str(getattr(options, name))]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> int:
    """Entry point; exit status 1 where the two loops do not end with the same bits."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_loop", description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=8, help="local epochs of a round: how long one takes")
    parser.add_argument("--patch", type=int, default=32, help="voxels along each edge")
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds to watch the idle process for; 0: not at all")
    parser.add_argument("--no-parts", dest="parts", action="store_false", help="do not time the parts of a step")
    parser.add_argument("--folder", type=Path, help="where data and cases are kept for the next time")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=("export", "parts"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "export":
        export(options.folder, options)
        return 0
    if options.child == "parts":
        print(json.dumps(parts(options.folder, options)))
        return 0
    with tempfile.TemporaryDirectory(prefix="konsil-training-loop-") as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(folder, options)
    if options.json:
        print(json.dumps(found))
    else:
        show(found)
    return 0 if found.get("same_bits", True) else 1


def show(found: dict[str, Any]) -> None:
    """For people."""
    if "ratio" in found:
        print(f"steps a round      {found['steps']} on {found['train_cases']} cases, {found['threads']} threads")
        for name in ("ratio", "cpu_ratio"):
            one = found[name]
            print(f"{name:18} {one['median']:.4f}  [{one['low']:.4f}, {one['high']:.4f}]  (95 % bootstrap)")
        print(f"same bits          {found['same_bits']}")
        print(f"plain step         {found['plain_step_ms']:.2f} ms, of it cutting {found['plain_batch_ms']:.2f} ms")
    for name, value in found.get("konsil_parts_ms", {}).items():
        print(f"konsil {name:11} {value:.2f} ms")
    if "idle" in found:
        one = found["idle"]
        print(
            f"idle               {one['cpu_seconds']:.2f} s of CPU in {one['seconds']:.0f} s, {one['rss_mib']:.0f} MiB"
        )


if __name__ == "__main__":
    raise SystemExit(main())
