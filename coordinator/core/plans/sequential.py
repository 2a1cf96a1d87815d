"""Sequential: cyclic weight transfer. One site after the other trains the model that the one before it left (Chang et
al. 2018, "Distributed deep learning networks among institutions for medical imaging", JAMIA 25(8):945-954).

A round is one visit. A cycle visits each joined site once, in the plan's order. A site that drops out of its visit is
left behind, and the round goes on with the next site at once; the site is due again at the end of the cycle, or in the
next cycle where it is still away then. The next model is the visited site's update itself: the mean of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

from coordinator.core import quorum
from coordinator.core.plans.base import Opening, Plan
from coordinator.core.state import UPDATES, ExperimentState, Round


def _listed_order(state: ExperimentState) -> list[str]:
    """As the experiment file names them."""
    joined = set(state.joined)
    return [site for site in state.experiment.sites if site in joined]


def _seeded_order(state: ExperimentState) -> list[str]:
    """By chance, from the experiment's seed: the same for the same seed and sites, in every cycle."""
    seed = state.experiment.seed
    return sorted(state.joined, key=lambda site: sha256(f"{seed}|{site}".encode()).digest())


def _by_size(state: ExperimentState) -> list[str]:
    """By training cases, the largest last: the model keeps most of whom it visited last."""
    return sorted(state.joined, key=lambda site: (state.members[site].train, site))


ORDERS: Mapping[str, Callable[[ExperimentState], list[str]]] = {
    "listed": _listed_order,
    "seeded": _seeded_order,
    "size": _by_size,
}
"""By the word that `plan.order` of an experiment file has for it."""


class Sequential(Plan):
    """One site a round. `ExperimentState.turns`: whom the cycle has visited so far."""

    def choose_participants(self, state: ExperimentState) -> tuple[str, ...]:
        return self._queue_visits(state)[:1]

    def is_enough(self, state: ExperimentState, round_: Round) -> bool:
        """A visit needs its one site, which may have been excluded; statistics and the final evaluation are every
        site's, with the experiment's quorum."""
        if round_.step != UPDATES:
            return super().is_enough(state, round_)
        return bool(round_.parts) and quorum.everybody_reported(round_)

    def choose_instead(self, state: ExperimentState, round_: Round, *, again: bool = False) -> Opening | None:
        """The next site that is there and was not tried in this round. None: the round waits for its own site.

        Once the deadline is extended, each may be tried again; a site that is still at work goes on.
        """
        if round_.step != UPDATES:
            return None
        at_work = any(part.failed is None and not part.absent for part in round_.parts.values())
        if again and at_work:
            return None
        tried = () if again else (*round_.left_out, *round_.parts)
        here = [site for site in self._queue_visits(state, tried) if not state.members[site].away]
        return Opening(self.steps[0], (here[0],), round_.evaluate) if here else None

    def remember_turns(self, turns: tuple[str, ...], contributors: Iterable[str]) -> tuple[str, ...]:
        """Whom the cycle has visited; a second visit begins a new one."""
        for site in contributors:
            turns = (site,) if site in turns else (*turns, site)
        return turns

    def _queue_visits(self, state: ExperimentState, tried: Iterable[str] = ()) -> tuple[str, ...]:
        """Joined sites as they are to be visited: those that are there first, of these the ones due in this cycle.

        Among equals the order goes on behind the site that was visited last.
        """
        order = ORDERS[state.experiment.plan.order](state)
        behind = order.index(state.turns[-1]) + 1 if state.turns and state.turns[-1] in order else 0
        left = set(tried)
        here = [site for site in order[behind:] + order[:behind] if site not in left]
        return tuple(sorted(here, key=lambda site: (state.members[site].away, site in state.turns)))
