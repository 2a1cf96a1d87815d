"""Alone: each site trains a model of its own from round to round, and nothing is ever averaged. In the end every site
scores every site's model: the cross-site matrix tells what a federation is worth to whom (cf. Sheller et al. 2020,
"Federated learning in medicine: facilitating multi-institutional collaborations without sharing patient data",
Scientific Reports 10:12598).

A site that was left out of a round goes on from its last model. One that joins late begins with the initial model. What
the experiment yields is the site's model with the best validation score over all sites that scored it.
"""

from __future__ import annotations

from coordinator.core.plans.base import Plan
from coordinator.core.state import ExperimentState, Model, Round


class Alone(Plan):
    """`ExperimentState.own`: each site's model."""

    makes_own = True

    def model_for(self, state: ExperimentState, round_: Round, site: str) -> int:
        """The initial model, where the site has none of its own yet."""
        return 1

    def own_model(self, state: ExperimentState, round_: Round, site: str) -> Model | None:
        return state.own.get(round_.number, {}).get(site)
