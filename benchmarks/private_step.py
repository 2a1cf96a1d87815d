"""What a step under differential privacy costs beside a plain one: python -m benchmarks.private_step

Both train the same net on the same number of patches: eight patients of four patches each, in turns, in one process.
The plain step is eight batches of four patches that make one step (`training.accumulate`). The private one draws all
eight patients. Counted are CPU seconds of the process, so that others on the machine matter less; a pair gives one
ratio, and the table says the median over all pairs with its 95 % bootstrap.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.paired import spread_median
from deploy.demo.experiments import glioma_demo
from messages.experiment import Experiment
from messages.sections import Preprocessing
from nets.build import build_net
from site_agent.privacy.keys import derive_keys
from site_agent.training.cases import cache
from site_agent.training.cases.cache import CachedCase
from site_agent.training.cases.preprocess import prepare_case
from site_agent.training.engine import train_round
from site_agent.training.private import Patients
from site_agent.training.tasks.segmentation import SegmentationLearner

PATIENTS, PATCHES = 8, 4
SMALL = ([8, 16, 32, 64], [2, 2, 2], 24)
NETS: dict[str, tuple[list[int], list[int], int]] = {
    "small": SMALL,
    "large": ([16, 32, 64, 128, 256], [2, 2, 2, 2], 48),
}
"""Name → channels and strides of a UNet, and its patch's edge."""


def make_cases(folder: Path, edge: int) -> list[CachedCase]:
    """A case a patient, somewhat larger than a patch, of one channel."""
    found = []
    for number in range(PATIENTS):
        rng = np.random.default_rng(number)
        image = rng.uniform(1, 2, (1, edge + 8, edge + 8, edge + 8)).astype(np.float32)
        label = np.zeros(image.shape[1:], dtype=np.uint8)
        label[4:-4, 4:-4, 4:-4] = 1
        cache.store_case(folder, str(number), prepare_case(image, label, np.eye(4), Preprocessing()))
        found.append(cache.fetch_case(folder, str(number), str(number)))
    return found


def experiment(name: str, steps: int, *, private: bool) -> Experiment:
    """The file of one side."""
    channels, strides, edge = NETS[name]
    plain = glioma_demo(1, 1, ["site-a"])
    plain["task"] |= {"channels": ["T1"], "regions": {"WT": ["ED"]}}
    plain["net"] = {"name": "UNet", "channels": channels, "strides": strides}
    plain["training"] = {"patch": [edge] * 3, "local_steps": steps, "batch": PATCHES, "patches_per_case": PATCHES}
    if private:
        dp = {"noise_multiplier": 1.0, "clip_norm": 1.0, "sample_rate": 1.0, "patches_per_patient": PATCHES}
        plain["privacy"] = {"dp": dp}
    else:
        plain["training"]["accumulate"] = PATIENTS
    return Experiment.model_validate(plain)


def make_side(name: str, cases: list[CachedCase], steps: int, *, private: bool) -> tuple[Callable[[], float], int]:
    """What trains so many steps and gives its CPU seconds; and the net's weights."""
    chosen = experiment(name, steps, private=private)
    net = build_net({"name": chosen.net.name, **chosen.net.parameters}, 1, chosen.task.out_channels, seed=1)
    groups = [[number] for number in range(PATIENTS)]
    patients = Patients(groups, PATIENTS, derive_keys(b"benchmark", "work", groups)) if private else None
    rest: dict[str, Any] = {"round_number": 1, "site": "site-a", "device": torch.device("cpu"), "patients": patients}

    def train() -> float:
        began = time.process_time()
        train_round(net, cases, chosen, SegmentationLearner(chosen), **rest)
        return (time.process_time() - began) / steps

    return train, sum(one.numel() for one in net.parameters())


def main() -> int:
    """Prints a row for each net."""
    parser = argparse.ArgumentParser(prog="benchmarks.private_step")
    parser.add_argument("--nets", default="small,large")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="of each side in a pair")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| net | weights | plain, CPU s a step | private | ratio |\n|---|---|---|---|---|")
    for name in options.nets.split(","):
        with tempfile.TemporaryDirectory() as folder:
            cases = make_cases(Path(folder), NETS[name][2])
            plain, weights = make_side(name, cases, options.steps, private=False)
            private, _weights = make_side(name, cases, options.steps, private=True)
            plain()  # the first one warms up
            private()
            pairs = []
            for number in range(options.pairs):
                first, second = (plain, private) if number % 2 else (private, plain)
                one, two = first(), second()
                pairs.append((one, two) if first is plain else (two, one))
        ratios = [two / one for one, two in pairs]
        least, most = spread_median(ratios)
        plain_s, private_s = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(
            f"| {name} | {weights:,} | {plain_s:.2f} | {private_s:.2f}"
            f" | {statistics.median(ratios):.3f} [{least:.3f}, {most:.3f}] |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
