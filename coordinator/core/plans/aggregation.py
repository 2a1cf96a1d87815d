"""Aggregation: in each round all joined sites train the same model, and the next one is made of their updates
(McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data")."""

from __future__ import annotations

from coordinator.core.plans.base import Plan


class Aggregation(Plan):
    """Exactly what plans have in common."""
