"""Work that goes on from round to round, under a plan that keeps it: which updates come in, how old they may be, and
how much they count. Pure.

A round here is one model in the making. A site's events name the round whose model it works with: its *base*. Of an
update that goes into round r with base b, the staleness is r - b: how many models were made since it began.
"""

from __future__ import annotations

import math

from coordinator.core.state import ExperimentState, Round
from messages.reasons import Reason
from messages.sections import StalenessRule


def discount_update(rule: StalenessRule, staleness: int) -> float:
    """What an update's share is multiplied by (s of Nguyen et al. 2022). Divisions and square roots have one right
    result in IEEE 754, which a power has not."""
    if rule == "none":
        return 1.0
    return 1.0 / (math.sqrt(1.0 + staleness) if rule == "sqrt" else 1.0 + staleness)


def next_number(round_: Round) -> int:
    """The round that an update which comes now goes into at the earliest."""
    return round_.number if round_.closed_at is None else round_.number + 1


def takes_more(state: ExperimentState) -> bool:
    """Whether updates are taken: a round is open, or closed and the plan keeps work for the next one."""
    round_ = state.round
    if round_ is None or round_.closed_at is None:
        return round_ is not None
    return state.experiment.plan.keeps_work and next_number(round_) <= state.experiment.rounds.count


def is_too_stale(state: ExperimentState, base: int, number: int) -> bool:
    """Whether what began with the model of round `base` is too old for round `number`."""
    return number - base > state.experiment.plan.max_staleness


def refuse_number(state: ExperimentState, round_: Round, site: str, number: int) -> Reason | None:
    """Why what a site says of its work for round `number` is not about its part, where work goes on.

    What it says of the open round, though it was to go on with an earlier one, is: it lost that, and begins anew.
    """
    part = round_.parts.get(site)
    if number > round_.number or (part is None and number == next_number(round_)):
        return Reason.WRONG_ROUND  # or it joined after this round had begun: it takes part from the next one
    if part is None or not takes_more(state):
        return Reason.LATE
    base = round_.base_of(site)
    if number == base and part.reported:
        return None  # the handler says that it is here already
    if is_too_stale(state, number, next_number(round_)):
        return Reason.TOO_STALE
    if number not in (base, round_.number):
        return Reason.LATE
    return Reason.DUPLICATE if part.reported else None
