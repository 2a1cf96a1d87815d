"""Ensemble: the sites train alone, and their models make one prediction together (Chang et al. 2018, "Distributed deep
learning networks among institutions for medical imaging", JAMIA 25(8):945-954: "ensembling single institution models").

First every site scores every site's model. Then all score the ensemble, whose weights may follow from those validation
scores.
"""

from __future__ import annotations

from coordinator.core.ensembles import weigh_parts
from coordinator.core.plans.alone import Alone
from coordinator.core.plans.base import Opening
from coordinator.core.state import SCORES, ExperimentState, Round


class Ensemble(Alone):
    """Scores are asked for twice: of each model, then of the ensemble."""

    def next_step(self, state: ExperimentState, round_: Round) -> Opening | None:
        if round_.step == SCORES and not round_.weights and state.own_models:
            weights = weigh_parts(state, round_.parts)
            return Opening(SCORES, round_.reported, evaluate=True, weights=weights)
        return super().next_step(state, round_)
