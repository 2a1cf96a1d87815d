"""Evaluation: nothing is trained. All joined sites score the model that the file names (`net.from`), and the experiment
is done: what MedPerf does (Karargyris et al. 2023, "Federated benchmarking of medical artificial intelligence with
MedPerf", Nature Machine Intelligence 5:799-810)."""

from __future__ import annotations

from coordinator.core.plans.base import Plan
from coordinator.core.state import Member


class EvaluationOnly(Plan):
    """`rounds.count` is 0, so that the first thing that opens is the evaluation."""

    def count_cases(self, member: Member) -> int:
        """Those that are scored: a site may bring no training case."""
        return (member.validation or 0) + (member.test or 0)
