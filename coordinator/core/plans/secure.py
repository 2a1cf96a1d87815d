"""Aggregation of which nobody sees a single update (Bonawitz et al. 2017, "Practical Secure Aggregation for
Privacy-Preserving Machine Learning", CCS): a round has five steps, and sites train meanwhile.

| step | goes on with |
|---|---|
| KEYS, SHARES | all; at the deadline with as many as a sum needs, else another try begins |
| MASKED | as rounds close elsewhere, and as many as a sum needs |
| CONSENT, REVEAL | as many as the threshold asks for |
"""

from __future__ import annotations

from coordinator.core import quorum
from coordinator.core.plans.aggregation import Aggregation
from coordinator.core.plans.base import Opening
from coordinator.core.secure.facts import least_of, rebuild_from, threshold_in
from coordinator.core.secure.weights import weigh_sites
from coordinator.core.state import CONSENT, KEYS, MASKED, REVEAL, SCORES, SECURE, SHARES, ExperimentState, Round
from messages.reasons import Reason
from messages.secure.rules import MOST_TRIES

_TRIED_AGAIN = frozenset({Reason.ABSENT, Reason.STRAGGLER})
"""Why a site was left behind that may take part in another try."""


class SecureAggregation(Aggregation):
    """Aggregation under masks."""

    steps = SECURE

    def next_round(self, state: ExperimentState) -> Opening:
        opening = super().next_round(state)
        return Opening(opening.step, opening.sites, opening.evaluate, tried=1) if opening.step == KEYS else opening

    def ends_unscored(self, state: ExperimentState) -> bool:
        """An evaluation would show each site's own scores."""
        return super().next_round(state).step == SCORES

    def next_step(self, state: ExperimentState, round_: Round) -> Opening | None:
        following = super().next_step(state, round_)
        if following is None:
            return None
        # Whose update is in the sum may reveal, whether or not its consent came in time.
        sites = tuple(sorted(round_.parts)) if following.step == REVEAL else following.sites
        weighed = self.weigh(state, round_) if following.step == MASKED else {}
        return Opening(following.step, sites, following.evaluate, tried=round_.tried, weighed=weighed)

    def weigh(self, state: ExperimentState, round_: Round) -> dict[str, int]:
        """The weights of those who have shared."""
        plan = state.experiment.plan
        caps = [one for one in (plan.weight_cap, state.bounds.weight_cap) if one is not None]
        return weigh_sites(
            {site: round_.cases[site] for site in round_.reported}, weight_by=plan.weight_by, cap=min(caps)
        )

    def is_enough(self, state: ExperimentState, round_: Round) -> bool:
        here = quorum.count_reported(round_)
        if round_.step in (KEYS, SHARES):
            return here >= least_of(state, round_)
        if round_.step == CONSENT:
            return here >= threshold_in(state, round_)
        if round_.step == REVEAL:
            return here >= threshold_in(state, round_) and rebuild_from(state, round_).complete
        enough = super().is_enough(state, round_)
        return enough and here >= least_of(state, round_) if round_.step == MASKED else enough

    def waits_for_others(self, round_: Round) -> bool:
        return round_.step not in (CONSENT, REVEAL)

    def waits_for_all(self, round_: Round) -> bool:
        return round_.step in (KEYS, SHARES)

    def try_again(self, state: ExperimentState, round_: Round) -> Opening | None:
        if round_.step not in (KEYS, SHARES) or round_.tried >= MOST_TRIES:
            return None
        sites = {site for site, part in round_.parts.items() if part.failed is None}
        sites |= {site for site, why in round_.left_out.items() if why in _TRIED_AGAIN and site in state.joined}
        if len(sites) < least_of(state, round_):
            return None
        return Opening(KEYS, tuple(sorted(sites)), round_.evaluate, tried=round_.tried + 1)

    def choose_contributors(self, state: ExperimentState, round_: Round) -> tuple[str, ...]:
        return tuple(sorted(round_.trained)) if MASKED in round_.earlier else round_.reported
