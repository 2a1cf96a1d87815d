"""Alone: each site trains a model of its own from round to round, and nothing is ever averaged. In the end every site
scores every site's model: the cross-site matrix tells what a federation is worth to whom (cf. Sheller et al. 2020,
"Federated learning in medicine: facilitating multi-institutional collaborations without sharing patient data",
Scientific Reports 10:12598).

A site that was left out of a round goes on from its last model. One that joins late begins with the initial model. What
the experiment yields is the site's model with the best validation score over all sites that scored it.
"""

from __future__ import annotations

from coordinator.core import decisions as d
from coordinator.core.ensembles import mean_own
from coordinator.core.plans.base import Plan
from coordinator.core.state import EMPTY, ExperimentState, Model, Round
from coordinator.core.steps.base import pool_parts


class Alone(Plan):
    """`ExperimentState.own`: each site's model."""

    def find_shared(self, round_: Round) -> int:
        """The initial model: for sites that have none of their own yet."""
        return 1

    def find_own(self, state: ExperimentState, round_: Round, site: str) -> Model | None:
        return state.own.get(round_.number, {}).get(site)

    def end_experiment(self, state: ExperimentState, round_: Round | None, now: float) -> d.Completed:
        """With the site's model that has the best validation score over the sites that scored it; the first of equals
        by name. Before any round was completed there is the initial model alone."""
        if not state.own_models:
            return super().end_experiment(state, round_, now)
        parts = EMPTY if round_ is None else round_.parts
        rank, found = state.experiment.task.reader.rank_score, mean_own(state, parts)
        scored = {label: rank(mean) for label, mean in found.items() if mean is not None}
        label = max(scored, key=lambda one: scored[one]) if scored else next(iter(found))
        return d.Completed(time=now, label=label, rounds=state.completed, test=pool_parts(state, parts, label, "test"))
