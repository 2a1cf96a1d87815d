"""Which strategy does what the experiment file names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.fedadagrad import FedAdagrad
from coordinator.work.strategies.fedadam import FedAdam
from coordinator.work.strategies.fedavg import FedAvg
from coordinator.work.strategies.fedavgm import FedAvgM
from coordinator.work.strategies.feddc import FedDC
from coordinator.work.strategies.feddyn import FedDyn
from coordinator.work.strategies.fednova import FedNova
from coordinator.work.strategies.fedyogi import FedYogi
from coordinator.work.strategies.robust.geometric_median import GeometricMedian
from coordinator.work.strategies.robust.krum import Krum, MultiKrum
from coordinator.work.strategies.robust.median import Median
from coordinator.work.strategies.robust.norm_bound import NormBound
from coordinator.work.strategies.robust.trimmed_mean import TrimmedMean
from coordinator.work.strategies.scaffold import Scaffold
from messages import strategies as s


def _average(**_at_sites: float) -> FedAvg:
    """What is federated averaging here, and something else at the sites: its parameters count there."""
    return FedAvg()


STRATEGIES: Mapping[type[s.StrategySpec], Callable[..., Strategy]] = {
    s.FedAvgSpec: FedAvg,
    s.FedAvgMSpec: FedAvgM,
    s.FedAdamSpec: FedAdam,
    s.FedYogiSpec: FedYogi,
    s.FedAdagradSpec: FedAdagrad,
    s.FedNovaSpec: FedNova,
    s.FedProxSpec: _average,
    s.FedBNSpec: _average,
    s.ScaffoldSpec: Scaffold,
    s.FedDynSpec: FedDyn,
    s.FedDCSpec: FedDC,
    s.MoonSpec: _average,
    s.DittoSpec: _average,
    s.MedianSpec: Median,
    s.TrimmedMeanSpec: TrimmedMean,
    s.KrumSpec: Krum,
    s.MultiKrumSpec: MultiKrum,
    s.NormBoundSpec: NormBound,
    s.GeometricMedianSpec: GeometricMedian,
}


def strategy_of(spec: s.StrategySpec) -> Strategy:
    """The strategy with the parameters that the experiment gives it."""
    parameters: dict[str, Any] = spec.parameters
    return STRATEGIES[type(spec)](**parameters)
