"""Aggregation of which nobody sees a single update (Bonawitz et al. 2017, "Practical Secure Aggregation for
Privacy-Preserving Machine Learning", CCS): a round has five steps, and sites train meanwhile.

| step | goes on with |
|---|---|
| KEYS, SHARES | all; at the deadline with as many as a sum needs, else another try begins |
| MASKED | as rounds close elsewhere, and as many as a sum needs |
| CONSENT, REVEAL | as many as the threshold asks for |
"""

from __future__ import annotations

from dataclasses import replace

from coordinator.core import quorum
from coordinator.core.plans.aggregation import Aggregation
from coordinator.core.plans.base import Opening
from coordinator.core.plans.evaluation import EvaluationOnly
from coordinator.core.secure.facts import least_of, rebuild_from, threshold_in
from coordinator.core.secure.scoring import open_scores
from coordinator.core.secure.weights import weigh_sites
from coordinator.core.state import (
    CONSENT,
    KEYS,
    MASKED,
    REVEAL,
    SCORES,
    SCORING,
    SECURE,
    SHARES,
    ExperimentState,
    Member,
    Round,
    role_of,
)
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.secure.rules import MOST_TRIES

_TRIED_AGAIN = frozenset({Reason.ABSENT, Reason.STRAGGLER})
"""Why a site was left behind that may take part in another try."""


class SecureAggregation(Aggregation):
    """Aggregation under masks."""

    steps = SECURE

    def next_round(self, state: ExperimentState) -> Opening:
        """A secure round, or a secure evaluation: an open one would show each site's own scores."""
        opening = super().next_round(state)
        return replace(opening, step=SCORING[0] if opening.step == SCORES else opening.step, tried=1)

    def next_step(self, state: ExperimentState, round_: Round) -> Opening | None:
        steps = SCORING if round_.is_scoring else self.steps
        later = steps[steps.index(round_.step) + 1 :] if round_.step in steps else ()
        if not later:
            return None
        # Whose update is in the sum may reveal, whether or not its consent came in time.
        sites = tuple(sorted(round_.parts)) if role_of(later[0]) == REVEAL else round_.reported
        weighed = self.weigh(state, round_) if role_of(later[0]) == MASKED else {}
        return Opening(later[0], sites, round_.evaluate, tried=round_.tried, weighed=weighed)

    def weigh(self, state: ExperimentState, round_: Round) -> dict[str, int]:
        """The weights of those who have shared; scores are added up as they are."""
        if round_.is_scoring:
            return dict.fromkeys(round_.reported, 1)
        plan = state.experiment.plan
        caps = [one for one in (plan.weight_cap, state.bounds.weight_cap) if one is not None]
        return weigh_sites(
            {site: round_.cases[site] for site in round_.reported}, weight_by=plan.weight_by, cap=min(caps)
        )

    def is_enough(self, state: ExperimentState, round_: Round) -> bool:
        here = quorum.count_reported(round_)
        if round_.role in (KEYS, SHARES):
            return here >= least_of(state, round_)
        if round_.role == CONSENT:
            return here >= threshold_in(state, round_)
        if round_.role == REVEAL:
            return here >= threshold_in(state, round_) and rebuild_from(state, round_).complete
        enough = super().is_enough(state, round_)
        return enough and here >= least_of(state, round_) if round_.role == MASKED else enough

    def waits_for_others(self, round_: Round) -> bool:
        return round_.role not in (CONSENT, REVEAL)

    def waits_for_all(self, round_: Round) -> bool:
        return round_.role in (KEYS, SHARES)

    def try_again(self, state: ExperimentState, round_: Round) -> Opening | None:
        if round_.role not in (KEYS, SHARES) or round_.tried >= MOST_TRIES:
            return None
        sites = {site for site, part in round_.parts.items() if part.failed is None}
        sites |= {site for site, why in round_.left_out.items() if why in _TRIED_AGAIN and site in state.joined}
        if len(sites) < least_of(state, round_):
            return None
        step = SCORING[0] if round_.is_scoring else KEYS
        return Opening(step, tuple(sorted(sites)), round_.evaluate, tried=round_.tried + 1)

    def choose_contributors(self, state: ExperimentState, round_: Round) -> tuple[str, ...]:
        return tuple(sorted(round_.trained)) if MASKED in round_.earlier else round_.reported

    def pool_scores(self, state: ExperimentState, round_: Round | None, label: str, split: str) -> SplitScores | None:
        if round_ is None or round_.step != SCORING[-1] or not self.is_enough(state, round_):
            return None
        return open_scores(state, round_).get((label, split))


class SecureEvaluation(SecureAggregation):
    """Nothing is trained: the model that the file names is scored in one secure round."""

    def count_cases(self, member: Member) -> int:
        return EvaluationOnly().count_cases(member)
