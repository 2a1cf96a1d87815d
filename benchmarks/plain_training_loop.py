"""The round that `benchmarks.training_loop` compares with: the same work in plain PyTorch and MONAI, nothing of Konsil.

A process of its own, with PyTorch's default flags: it loads what Konsil preprocessed (arrays in a folder, float32 in
memory), then trains a round for each line on standard input and answers with one JSON line. The random numbers are
drawn in the same order from the same generators, so that equal weights prove equal work.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceLoss
from monai.networks.nets import UNet
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Case:
    """image float32 (C, x, y, z); label uint8 (x, y, z); foreground: flat indices into the label."""

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    foreground: NDArray[np.int32]


def generator(seed: int, step: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))


def cut(case: Case, rng: np.random.Generator, settings: dict[str, Any], image: Any, label: Any) -> None:
    """One patch around a foreground voxel or anywhere, mirrored by chance, into `image` and `label`."""
    shape = case.label.shape
    if rng.random() < settings["foreground_share"]:
        centre = np.unravel_index(case.foreground[rng.integers(case.foreground.size)], shape)
    else:
        centre = tuple(rng.integers(edge) for edge in shape)
    x, y, z = (
        min(max(int(c) - p // 2, 0), edge - p) for c, edge, p in zip(centre, shape, settings["patch"], strict=True)
    )
    a, b, c = settings["patch"]
    fx, fy, fz = (slice(None, None, -1 if rng.random() < settings["flip"] else None) for _ in range(3))
    image[:] = case.image[:, x : x + a, y : y + b, z : z + c][:, fx, fy, fz]
    label[:] = case.label[x : x + a, y : y + b, z : z + c][fx, fy, fz]


def batch(
    cases: list[Case], chosen: NDArray[np.int64], rng: np.random.Generator, settings: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    channels = cases[0].image.shape[0]
    images = np.empty((len(chosen), channels, *settings["patch"]), dtype=np.float32)
    labels = np.empty((len(chosen), *settings["patch"]), dtype=np.uint8)
    for row, draw in enumerate(chosen):
        cut(cases[int(draw) % len(cases)], rng, settings, images[row], labels[row])
    scale, shift = settings["scale_intensity"], settings["shift_intensity"]
    images *= rng.uniform(1 - scale, 1 + scale, (len(chosen), channels, 1, 1, 1)).astype(np.float32)
    images += rng.uniform(-shift, shift, (len(chosen), channels, 1, 1, 1)).astype(np.float32)
    return torch.from_numpy(images), torch.from_numpy(labels)


def targets(labels: torch.Tensor, regions: list[list[int]]) -> torch.Tensor:
    """Labels (B, x, y, z) → overlapping regions as float32 (B, R, x, y, z)."""
    masks = []
    for values in regions:
        mask = labels == values[0]
        for value in values[1:]:
            mask |= labels == value
        masks.append(mask)
    return torch.stack(masks, 1).float()


def train(
    net: torch.nn.Module, start: dict[str, torch.Tensor], cases: list[Case], settings: dict[str, Any], seed: int
) -> dict[str, float]:
    """One round from the weights `start`; where its wall seconds went."""
    began = time.perf_counter()
    cutting = 0.0
    net.load_state_dict(start)
    net.train()
    optimizer = torch.optim.Adam(net.parameters(), settings["lr"])
    dice, bce = DiceLoss(sigmoid=True, batch=True), torch.nn.BCEWithLogitsLoss()
    total = torch.zeros((), dtype=torch.float64)
    step, size = 0, settings["batch"]
    draws = len(cases) * settings["patches_per_case"]
    for epoch in range(settings["epochs"]):
        order = generator(seed, 2**40 + epoch).permutation(draws)
        for begin in range(0, draws, size):
            here = time.perf_counter()
            images, labels = batch(cases, order[begin : begin + size], generator(seed, step), settings)
            cutting += time.perf_counter() - here
            target = targets(labels, settings["regions"])
            optimizer.zero_grad()
            logits = net(images)
            loss = dice(logits, target) + bce(logits, target)
            loss.backward()
            optimizer.step()
            total += loss.detach()
            step += 1
    mean = total.item() / step
    return {"seconds": time.perf_counter() - began, "cutting": cutting, "steps": step, "loss": mean}


def main() -> None:
    """`python -m benchmarks.plain_training_loop FOLDER`: answers lines `{"settings", "seed", "output"}`."""
    folder = Path(sys.argv[1])
    described = json.loads((folder / "plain.json").read_text())
    torch.set_num_threads(described["threads"])
    cases = [
        Case(*(np.load(folder / f"{index}-{what}.npy") for what in ("image", "label", "foreground")))
        for index in range(described["cases"])
    ]
    net = UNet(spatial_dims=3, **described["net"])
    start = load_file(folder / "start.safetensors")
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        cpu = time.process_time()
        figures = train(net, start, cases, asked["settings"], asked["seed"])
        figures["cpu"] = time.process_time() - cpu
        save_file(net.state_dict(), asked["output"])
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
