"""What a site's figures may be: held against what it joined with, and updates against the others of their round. Pure.

A site's word on its cases, scores and loss cannot be checked where its data are. It can be bounded: by what the site
said before, by what the operator allows (`Bounds`), and by what no data can yield. What passes here pools without fail.
All of it holds from logic 3 on.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from coordinator.core.inputs import Aggregated
from coordinator.core.state import ExperimentState, Member, Round
from messages import kinds
from messages.reasons import Reason
from messages.scores import MOST_CASES, SplitScores, is_sound

LEAST_COMPARED = 3
"""Updates of a round below which none of them can be told from the others."""


def judge_counts(state: ExperimentState, cases: kinds.CaseCounts) -> Reason | None:
    """Why a site cannot join with so many cases."""
    most = MOST_CASES if state.bounds.cases_max is None else min(MOST_CASES, state.bounds.cases_max)
    return Reason.TOO_MANY_CASES if cases.train + cases.validation + cases.test > most else None


def judge_update(round_: Round, member: Member, site: str, body: kinds.WeightsReady) -> Reason | None:
    """Why what a site says of its update cannot be: more cases than were frozen for the round, an absurd loss, scores.

    A data set that grew counts from the round after the `joined` that says so.
    """
    if body.cases_used > round_.cases[site]:
        return Reason.TOO_MANY_CASES
    if body.loss is not None and abs(body.loss) > kinds.MOST_LOSS:
        return Reason.MALFORMED
    return None if body.validation is None else judge_scores(member, {"validation": body.validation})


def judge_steps(state: ExperimentState, round_: Round, site: str, body: kinds.WeightsReady) -> Reason | None:
    """Why it cannot have taken so many optimiser steps, where the strategy counts them.

    A site may round its cases before it tells them, by less than half: so twice as many are the most that it can have.
    """
    if not state.experiment.plan.strategy.counts_steps:
        return None
    training = state.experiment.training
    most = training.count_steps(2 * round_.cases[site])
    least = most if training.local_steps is not None else 1
    return None if least <= body.steps <= most else Reason.MALFORMED


def judge_scores(member: Member, splits: Mapping[str, SplitScores]) -> Reason | None:
    """Why scores by split cannot be those of the cases that the site joined with."""
    announced = {"validation": member.validation, "test": member.test}
    for split, scores in splits.items():
        most = announced.get(split)
        if (most is not None and scores.cases > most) or not is_sound(scores):
            return Reason.IMPLAUSIBLE_SCORES
    return None


def judge_pooled(state: ExperimentState, round_: Round, made: Aggregated) -> Reason | None:
    """Why what a secure round pools cannot be: more cases than its sites have, an absurd loss, impossible scores.

    Of a sum only this can be seen; which site is to blame, nobody can. A site may round the cases that it tells by less
    than half. So twice as many are the most that it can have scored.
    """
    if made.pooled is None:
        return None
    sites = list(round_.trained)
    if made.pooled.cases > sum(part.update.cases_used for part in round_.trained.values() if part.update is not None):
        return Reason.SUM_OUT_OF_RANGE
    if made.pooled.loss is not None and abs(made.pooled.loss) > kinds.MOST_LOSS:
        return Reason.SUM_OUT_OF_RANGE
    if made.validation is None:
        return None
    most = sum(2 * (state.members[site].validation or 0) for site in sites)
    return Reason.IMPLAUSIBLE_SCORES if made.validation.cases > most or not is_sound(made.validation) else None


def list_outliers(state: ExperimentState, round_: Round) -> tuple[str, ...]:
    """Sites whose update is beyond the operator's factor times the median of its round, by name.

    Of two updates none can be told from the other. A median of 0 tells nothing: nobody has trained.
    """
    factor = state.bounds.norm_factor
    if factor is None:
        return ()
    found: set[str] = set()
    for lengths in lengths_of(round_):
        middle = median(lengths.values()) if len(lengths) >= LEAST_COMPARED else 0.0
        found |= {site for site, length in lengths.items() if middle and length > factor * middle}
    return tuple(sorted(found))


def lengths_of(round_: Round) -> tuple[dict[str, float], dict[str, float]]:
    """How far each update that is here moves the model: by trained numbers, and by measured statistics."""
    here = {site: part for site, part in round_.parts.items() if part.stored and part.update is not None}
    norms = {site: part.norm for site, part in here.items() if part.norm is not None}
    return norms, {site: part.statistics for site, part in here.items() if part.statistics is not None}
