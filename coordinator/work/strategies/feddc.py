"""FedDC (Gao et al. 2022, "FedDC: Federated Learning with Non-IID Data via Local Drift Decoupling and Correction",
arXiv 2203.11751, algorithm 1): the sites send their weights with their drift added, and beside each trained weight what
the round changed of it (`site_agent.training.strategies.feddc`). Of both the mean is what the next round receives."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.work.strategies.base import Strategy


@dataclass(frozen=True)
class FedDC(Strategy):
    """`alpha` counts at the sites."""

    alpha: float
