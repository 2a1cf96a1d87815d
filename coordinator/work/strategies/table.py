"""Which strategy does what the experiment file names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.fedadam import FedAdam
from coordinator.work.strategies.fedavg import FedAvg
from messages.strategies import FedAdamSpec, FedAvgSpec, StrategySpec

STRATEGIES: Mapping[type[StrategySpec], Callable[..., Strategy]] = {FedAvgSpec: FedAvg, FedAdamSpec: FedAdam}


def strategy_of(spec: StrategySpec) -> Strategy:
    """The strategy with the parameters that the experiment gives it."""
    parameters: dict[str, Any] = spec.parameters
    return STRATEGIES[type(spec)](**parameters)
