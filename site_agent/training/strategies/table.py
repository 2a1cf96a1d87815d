"""What each strategy of an experiment file asks of a site's training; those that are not here ask nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from messages import strategies as s
from site_agent.training.strategies.base import PLAIN, LocalRule
from site_agent.training.strategies.ditto import PersonalRule
from site_agent.training.strategies.feddc import DriftRule
from site_agent.training.strategies.feddyn import DynamicRule
from site_agent.training.strategies.fedprox import ProximalRule
from site_agent.training.strategies.moon import ContrastiveRule
from site_agent.training.strategies.scaffold import ControlledRule

RULES: Mapping[type[s.StrategySpec], Callable[[Any], LocalRule]] = {
    s.FedProxSpec: lambda spec: ProximalRule(spec.mu),
    s.ScaffoldSpec: lambda spec: ControlledRule(),
    s.FedDynSpec: lambda spec: DynamicRule(spec.alpha),
    s.FedDCSpec: lambda spec: DriftRule(spec.alpha),
    s.DittoSpec: lambda spec: PersonalRule(spec.mu),
    s.MoonSpec: lambda spec: ContrastiveRule(spec.mu, spec.temperature),
}


def rule_of(spec: s.StrategySpec) -> LocalRule:
    """The rule with the parameters that the experiment gives it."""
    made = RULES.get(type(spec))
    return PLAIN if made is None else made(spec)
