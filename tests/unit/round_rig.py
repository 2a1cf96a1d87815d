"""Rounds of training on a site's folder as a training process does them, cut off wherever a test likes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deploy.demo.experiments import glioma_demo
from messages.experiment import Experiment
from messages.sections import Preprocessing
from nets.build import build_net
from site_agent.privacy.keys import derive_keys
from site_agent.training.cases import cache
from site_agent.training.cases.cache import CachedCase
from site_agent.training.cases.preprocess import prepare_case
from site_agent.training.engine import RoundResult, train_round
from site_agent.training.optimise import KeptState
from site_agent.training.private import Patients
from site_agent.training.protocol import CheckpointEvent
from site_agent.training.resuming.checkpoint import Checkpoints
from site_agent.training.resuming.interrupt import Interrupt, Interrupted
from site_agent.training.resuming.kept import KeptTensors
from site_agent.training.resuming.resume import Keeper
from site_agent.training.strategies.base import Leaves
from site_agent.training.strategies.table import rule_of
from site_agent.training.tasks.segmentation import SegmentationLearner

STEPS = 5
CPU = torch.device("cpu")
UNET: dict[str, Any] = {"name": "UNet", "channels": [4, 8], "strides": [2], "norm": "batch", "dropout": 0.3}


def make_cases(folder: Path, count: int = 3) -> list[CachedCase]:
    """Cases of 14 x 14 x 14 voxels and two channels."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        image = np.zeros((2, 18, 18, 18), dtype=np.float32)
        image[:, 2:-2, 2:-2, 2:-2] = rng.uniform(1, 2, (2, 14, 14, 14))
        label = np.zeros((18, 18, 18), dtype=np.uint8)
        label[6:12, 6:12, 6:12] = 1
        cache.store_case(folder, str(seed), prepare_case(image, label, np.eye(4), Preprocessing()))
        found.append(cache.fetch_case(folder, str(seed), f"case-{seed}"))
    return found


def experiment(
    net: dict[str, Any],
    optimizer: dict[str, Any],
    strategy: str = "FedAvg",
    augmentation: dict[str, Any] | None = None,
    **training: Any,
) -> Experiment:
    plain = glioma_demo(3, 1, ["site-a"])
    plain["task"] |= {"channels": ["T1", "T2"], "regions": {"WT": ["ED", "ET"], "ET": ["ET"]}}
    plain["net"] = net
    plain["training"] |= {"patch": [8, 8, 8], "batch": 2, "local_steps": STEPS, "clip_norm": 1.0}
    plain["training"].pop("local_epochs", None)
    plain["training"]["optimizer"] |= optimizer
    plain["training"] |= training
    plain["augmentation"] = {"flip": 0.5, "noise": 0.1} if augmentation is None else augmentation
    plain["plan"] = {"strategy": strategy}
    return Experiment.model_validate(plain)


class Site:
    """A site's cache folder, and rounds on it as a training process does them."""

    def __init__(self, folder: Path, cases: list[CachedCase], chosen: Experiment) -> None:
        self.folder, self.cases, self.experiment = folder, cases, chosen
        self.events: list[CheckpointEvent] = []
        self.reports: list[tuple[int, int, float | None]] = []
        self.key = "one"
        self.net: torch.nn.Module = torch.nn.Identity()
        self.spoilt = False
        self.leaves = Leaves()
        self.groups: Sequence[Sequence[int]] = [[number] for number in range(len(cases))]
        self.secret = b"secret"

    def patients_of(self, round_number: int) -> Patients | None:
        """Whom a round trains on, where the file asks for differential privacy."""
        if self.experiment.privacy.dp is None:
            return None
        keys = derive_keys(self.secret, f"{self.key} {round_number}", self.groups)
        return Patients(self.groups, len(self.groups), keys)

    def start(self, round_number: int, *, stop_at: int | None = None, every: float | None = 0.0) -> RoundResult:
        """A fresh process's round, from weights that the round decides; interrupted once `stop_at` steps are done."""
        interrupt = Interrupt()

        def say(event: CheckpointEvent) -> None:
            self.events.append(event)
            if event.what == "written" and event.step == stop_at:
                # The write of this step is over; the next one is the last thing that this process does.
                raise Interrupted

        keeper = Keeper(Checkpoints(self.folder), round_number, lambda: self.key, every, interrupt, say)
        keeper.look_for_checkpoint()
        spec = self.experiment.net
        self.net = build_net({"name": spec.name, **spec.parameters}, 2, 2, seed=round_number)
        if self.spoilt:
            with torch.no_grad():
                next(self.net.parameters()).fill_(float("nan"))
        torch.manual_seed(len(self.events))  # what was drawn before must not matter
        kept = KeptState(self.folder / "optimizer") if not self.experiment.training.optimizer.reset else None
        rule, memory = rule_of(self.experiment.plan.strategy), KeptTensors(self.folder / "strategy")
        rule.begin_round(self.net, {}, memory.read_before(round_number) or {})
        result = train_round(
            self.net,
            self.cases,
            self.experiment,
            SegmentationLearner(self.experiment),
            round_number=round_number,
            site="site-a",
            device=CPU,
            kept=kept,
            keeper=keeper,
            report=lambda done, total, _epoch, loss, left: self.reports.append((done, total, left)),
            rule=rule,
            patients=self.patients_of(round_number),
        )
        self.leaves = rule.end_round(result.steps)
        if self.leaves.kept:
            memory.write_round(self.leaves.kept, round_number)
        return result

    def weights(self) -> dict[str, bytes]:
        left = {f"kept {name}": tensor for name, tensor in self.leaves.kept.items()}
        left |= {f"sent {name}": torch.from_numpy(array) for name, array in self.leaves.beside.items()}
        return {name: tensor.numpy().tobytes() for name, tensor in (self.net.state_dict() | left).items()}

    def said(self, what: str) -> list[int]:
        return [event.step for event in self.events if event.what == what]


def cut_off(site: Site, round_number: int, steps: list[int]) -> RoundResult:
    """A round that is cut off after each of these steps, and then ends."""
    for step in steps:
        with pytest.raises(Interrupted):
            site.start(round_number, stop_at=step)
    return site.start(round_number)


def private_experiment(
    net: dict[str, Any] | None = None, optimizer: dict[str, Any] | None = None, strategy: str = "FedAvg", **dp: Any
) -> Experiment:
    """A file with `[privacy.dp]`: half of the patients in each step, a little noise."""
    chosen = {"name": "SegResNet", "blocks_down": [1, 1], "blocks_up": [1], "dropout": 0.2} if net is None else net
    plain = experiment(chosen, optimizer or {}, strategy, clip_norm=None).as_plain()
    plain["training"].pop("clip_norm", None)
    said = {"noise_multiplier": 0.5, "clip_norm": 1.0, "sample_rate": 0.5, "patches_per_patient": 2} | dp
    return Experiment.model_validate(plain | {"privacy": {"dp": said}})
