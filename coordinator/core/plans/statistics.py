"""Statistics: nothing is trained. All joined sites tell the fingerprint of their training cases, and the experiment is
done: federated statistics, as one asks for before anything else."""

from __future__ import annotations

from coordinator.core.plans.base import Plan


class StatisticsOnly(Plan):
    """The step STATISTICS opens before any model is there, and ends the experiment."""
