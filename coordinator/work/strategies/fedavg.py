"""Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized
Data", algorithm 1): the weighted mean of the sites' weights. Differences are averaged likewise and added to the model
that they are differences from, in float64, before the one rounding."""

from __future__ import annotations

from coordinator.work.strategies.base import Strategy


class FedAvg(Strategy):
    """What `Strategy` does unless told otherwise."""
