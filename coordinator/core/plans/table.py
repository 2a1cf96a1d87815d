"""Every plan by the word that `plan.kind` of an experiment file has for it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from coordinator.core.plans.aggregation import Aggregation
from coordinator.core.plans.alone import Alone
from coordinator.core.plans.asynchronous import Asynchronous
from coordinator.core.plans.base import Plan
from coordinator.core.plans.ensemble import Ensemble
from coordinator.core.plans.evaluation import EvaluationOnly
from coordinator.core.plans.secure import SecureAggregation, SecureEvaluation
from coordinator.core.plans.sequential import Sequential
from coordinator.core.plans.statistics import StatisticsOnly
from coordinator.core.state import ExperimentState

ROWS: dict[str, Plan] = {
    "aggregation": Aggregation(),
    "sequential": Sequential(),
    "alone": Alone(),
    "ensemble": Ensemble(),
    "evaluation": EvaluationOnly(),
    "asynchronous": Asynchronous(),
    "statistics": StatisticsOnly(),
}
PLANS: Mapping[str, Plan] = MappingProxyType(ROWS)
MASKED_PLANS: Mapping[str, Plan] = MappingProxyType(
    {"aggregation": SecureAggregation(), "evaluation": SecureEvaluation()}
)
"""The same where nobody is to see a single update."""


def plan_of(state: ExperimentState) -> Plan:
    """The experiment's plan."""
    return MASKED_PLANS[state.experiment.plan.kind] if state.is_masked else PLANS[state.experiment.plan.kind]
