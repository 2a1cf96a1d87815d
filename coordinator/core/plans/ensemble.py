"""Ensemble: the sites train alone, and their models make one prediction together (Chang et al. 2018, "Distributed deep
learning networks among institutions for medical imaging", JAMIA 25(8):945-954: "ensembling single institution models").

First every site scores every site's model. Then all score the ensemble, whose weights may follow from those validation
scores.
"""

from __future__ import annotations

from coordinator.core import decisions as d
from coordinator.core.ensembles import ENSEMBLE, weigh_parts
from coordinator.core.plans.alone import Alone
from coordinator.core.plans.base import Opening
from coordinator.core.state import SCORES, ExperimentState, Round
from coordinator.core.steps.base import pool_parts


class Ensemble(Alone):
    """Scores are asked for twice: of each model, then of the ensemble."""

    def next_step(self, state: ExperimentState, round_: Round) -> Opening | None:
        if round_.step == SCORES and not round_.weights and state.own_models:
            weights = weigh_parts(state, round_.parts)
            return Opening(SCORES, round_.reported, evaluate=True, weights=weights)
        return super().next_step(state, round_)

    def end_experiment(self, state: ExperimentState, round_: Round | None, now: float) -> d.Completed:
        """With the ensemble as it was scored; before that, with the weights that follow from what has been reported."""
        if not state.own_models:
            return super().end_experiment(state, round_, now)
        parts = {} if round_ is None or round_.step != SCORES else round_.parts
        weights = dict(round_.weights) if round_ is not None and round_.weights else weigh_parts(state, parts)
        test = pool_parts(state, parts, ENSEMBLE, "test")
        return d.Completed(time=now, label=ENSEMBLE, rounds=state.completed, test=test, weights=weights)
