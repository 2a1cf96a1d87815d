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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training_parts import export, parts
from benchmarks.training_sides import SITE, Konsil, Plain, experiment_of, settings_of
from deploy.demo.phantoms import phantom
from messages.tensors.layout import Manifest, view_tensors

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


def median_ratio(ratios: list[float], resamples: int = 10_000) -> dict[str, float]:
    """The median with its 95 % percentile bootstrap interval."""
    values = np.asarray(ratios)
    drawn = np.median(np.random.default_rng(0).choice(values, (resamples, len(values))), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"median": float(np.median(values)), "low": float(low), "high": float(high)}


def same_bits(folder: Path, manifest: Manifest) -> bool:
    from safetensors.numpy import load_file

    ours = view_tensors(manifest, (folder / "update").read_bytes())
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
    from site_agent.training.seeds import derive_seed

    seed = derive_seed(experiment.seed, "round", 1, "site", SITE)
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
