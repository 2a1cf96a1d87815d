"""Toy federations for tests of strategies: sites with quadratics, trained by the sites' rules as the engine trains, and
combined by the coordinator's strategies as its engine combines."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from coordinator.work.aggregate import Memory, aggregate
from coordinator.work.strategies.table import strategy_of
from messages.sections import Training
from messages.strategies import StrategySpec
from messages.tensors.layout import Manifest, manifest_of, tensors_of, write_into
from messages.tensors.travelling import is_beside
from site_agent.training.strategies.table import rule_of

Vector = NDArray[np.float64]


class Weights(torch.nn.Module):
    """A net that is nothing but one vector."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(size))


@dataclass
class QuadraticSite:
    """A site whose loss is 1/2 * the sum of curvature * (w - optimum)²."""

    optimum: Vector
    curvature: Vector
    steps: int = 10
    kept: dict[str, torch.Tensor] = field(default_factory=dict)

    def train(self, spec: StrategySpec, received: dict[str, NDArray[np.float32]], rate: float) -> dict[str, NDArray]:
        """One round of plain gradient descent, by the strategy's rule; what the site sends."""
        rule, net = rule_of(spec), Weights(len(self.optimum))
        with torch.no_grad():
            net.w.copy_(torch.from_numpy(received["w"].copy()))
        rule.begin_round(net, {name: one for name, one in received.items() if is_beside(name)}, self.kept)
        rule.set_pace(Training(), rate, self.steps)
        optimizer = torch.optim.SGD(net.parameters(), rate)
        optimum, curvature = (torch.tensor(one, dtype=torch.float32) for one in (self.optimum, self.curvature))
        for _ in range(self.steps):
            optimizer.zero_grad()
            (0.5 * (curvature * (net.w - optimum) ** 2).sum()).backward()
            rule.adjust_gradients()
            optimizer.step()
        leaves = rule.end_round(self.steps)
        self.kept = dict(leaves.kept)
        return {"w": net.w.detach().numpy(), **leaves.beside}


class ToyFederation:
    """Sites under a strategy, from the zero vector on."""

    def __init__(self, spec: StrategySpec, sites: list[QuadraticSite], rate: float) -> None:
        self.spec, self.sites, self.rate = spec, sites, rate
        self.strategy = strategy_of(spec)
        built = manifest_of({"w": np.zeros(len(sites[0].optimum), np.float32)})
        self.manifest = Manifest(tensors=spec.choose_travelling(built.tensors))
        self.model = np.zeros(self.manifest.nbytes, np.uint8)
        self._memory: NDArray[np.uint8] | None = None

    @property
    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The model as it is, by name."""
        return {name: one.read_all() for name, one in tensors_of(self.manifest, self.model).items()}

    @property
    def optimum(self) -> Vector:
        """Where the mean of the sites' losses is least."""
        pull = sum(one.curvature * one.optimum for one in self.sites)
        return np.asarray(pull / sum(one.curvature for one in self.sites))

    @property
    def error(self) -> float:
        """How far the model is from there."""
        return float(np.abs(self.tensors["w"] - self.optimum).max())

    def play(self, rounds: int, away: Collection[int] = ()) -> None:
        """So many rounds; sites of these numbers send nothing."""
        for _ in range(rounds):
            updates = []
            for number, site in enumerate(self.sites):
                if number not in away:
                    buffer = np.zeros(self.manifest.nbytes, np.uint8)
                    write_into(site.train(self.spec, self.tensors, self.rate), self.manifest, buffer.data)
                    updates.append(buffer)
            layout, out = self.strategy.memory(self.manifest), np.zeros(self.manifest.nbytes, np.uint8)
            after = None if layout is None else np.zeros(layout.nbytes, np.uint8)
            assert aggregate(
                self.manifest,
                [(1 / len(updates), one) for one in updates],
                out,
                master=self.model,
                threads=1,
                strategy=self.strategy,
                memory=None if after is None else Memory(self._memory, after),
                steps=tuple(site.steps for number, site in enumerate(self.sites) if number not in away),
                parties=len(self.sites),
            )
            self.model, self._memory = out, after
