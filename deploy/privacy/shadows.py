"""Shadow models: the experiment's net, trained at this site alone on some of its patients; after a kill it goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from deploy.privacy.apart import Tell
from messages.ground.durable import replace_file, writing_beside
from messages.ground.errors import WorkFailed
from nets.build import build_for
from nets.weights import arrays_of, load_weights
from site_agent.privacy.keys import derive_keys
from site_agent.training.cases.cache import CachedCase
from site_agent.training.engine import train_round
from site_agent.training.optimise import KeptState
from site_agent.training.private import Patients
from site_agent.training.session import TrainingSession


class ShadowTrainer:
    """Trains as the federation trains: the same initial model, rounds, schedule and optimiser; no other site.

    Raises:
        WorkFailed: its sites share their noise.

    Args:
        folder: where the weights of the model in work lie after each of its rounds.
        secret: the site's, for noise and draws where the experiment asks for them.
    """

    def __init__(self, session: TrainingSession, folder: Path, secret: bytes) -> None:
        dp = session.experiment.privacy.dp
        if dp is not None and dp.is_shared:
            what = 'one site alone does not train as many do under noise = "shared"'
            raise WorkFailed(what, where="--shadows", advice="Leave --shadows out: the loss alone is tested then")
        self._session, self._folder, self._secret = session, folder, secret
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def train(self, name: str, patients: Sequence[Sequence[CachedCase]], tell: Tell, what: str) -> torch.nn.Module:
        """A model trained on these patients' cases; it goes on from the last round that an earlier call of this name
        finished."""
        session, experiment = self._session, self._session.experiment
        rounds = experiment.rounds.count
        net = build_for(experiment)
        first = self._resume(name, net) + 1
        net.to(session.device)
        optimizer = None
        if not experiment.training.optimizer.reset:
            optimizer = KeptState(self._folder / f"{name}-optimizer")
        for number in range(first, rounds + 1):
            tell(f"{what}: round {number} of {rounds}")
            train_round(
                net,
                [case for cases in patients for case in cases],
                experiment,
                session.learner,
                round_number=number,
                site=name,
                device=session.device,
                kept=optimizer,
                patients=self._protect(patients, f"{name}, round {number}"),
            )
            with writing_beside(self._path(name)) as beside:
                save_file(arrays_of(net), beside, metadata={"round": str(number)})
        return net

    def _protect(self, patients: Sequence[Sequence[CachedCase]], work: str) -> Patients | None:
        """Whom a round protects under `[privacy.dp]`; None without it."""
        if self._session.experiment.privacy.dp is None:
            return None
        numbers = iter(range(sum(len(cases) for cases in patients)))
        groups = [[next(numbers) for _case in cases] for cases in patients]
        return Patients(groups, len(groups), derive_keys(self._secret, work, groups))

    def keep_losses(self, path: Path, losses: Sequence[float]) -> None:
        """Keep what a finished model says, in place of its weights."""
        replace_file(path, json.dumps(losses).encode())
        for left in self._folder.glob("*.safetensors"):
            left.unlink()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"

    def _resume(self, name: str, net: torch.nn.Module) -> int:
        """Load the weights of the last finished round into the net; its number, 0 where there is none."""
        path = self._path(name)
        try:
            with safe_open(path, framework="numpy") as file:
                told: dict[str, Any] = file.metadata() or {}
            load_weights(net, load_file(path))
            return int(told["round"])
        except (OSError, SafetensorError, KeyError, ValueError):
            return 0
