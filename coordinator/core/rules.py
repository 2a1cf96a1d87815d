"""What the coordinator does of itself once a fact is recorded: close recruiting, open and close rounds, finish.

`advance_state` is asked after each change of state until it has nothing more to say, so that every handler only records
what it was told, and no way into a state can forget what follows from it. A paused experiment never advances.
"""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.core import decisions as d
from coordinator.core import quorum
from coordinator.core.checks import list_outliers
from coordinator.core.inputs import Aggregated
from coordinator.core.plans.base import Opening
from coordinator.core.plans.table import plan_of
from coordinator.core.state import EMPTY, STATISTICS, ExperimentState, Phase, Round, Timer
from coordinator.core.steps.base import left_behind, poolable
from coordinator.core.steps.table import STEPS, row_of
from messages.reasons import Reason
from messages.scores import SplitScores

Decided = tuple[d.AnyDecision, ...]

ACCEPT_WITHIN = 30.0
"""Seconds until a round-start that was not accepted is announced again (protocol rule 5)."""
ANNOUNCEMENTS = 3
"""The first and two more; then a site that has not accepted is absent."""


def advance_state(state: ExperimentState, now: float) -> Decided:
    """The next consequence of the state as it is, or nothing."""
    if state.phase is Phase.RECRUITING:
        return close_recruiting(state, now) if state.everybody_answered else ()
    if state.phase is Phase.INITIALISING and state.awaits_statistics:
        return (open_step(state, Opening(STATISTICS, state.joined, evaluate=False), now),)
    if state.phase in (Phase.INITIALISING, Phase.AGGREGATING) and state.is_between:
        return start_next(state, now) if state.has_next else ()
    if state.phase in (Phase.RUNNING, Phase.EVALUATING) and state.round is not None:
        plan = plan_of(state)
        heard = quorum.everybody_heard(state.round)
        if not plan.is_enough(state, state.round):
            other = plan.choose_instead(state, state.round) if heard else None
            return () if other is None else go_on(state, state.round, other, now)
        if heard or not plan.waits_for_others(state.round):
            return close_round(state, state.round, now)
        if plan.waits_for_all(state.round):
            return ()
        if state.round.quorum_at is None:
            due = now + quorum.grace_seconds(state.round, state.experiment, now)
            return (d.QuorumMet(time=now, grace_due=due),)
    return ()


def close_recruiting(state: ExperimentState, now: float) -> Decided:
    """All have answered, or the enrolment deadline has come."""
    if len(state.joined) < state.experiment.least_sites:
        return (d.Failed(time=now, reason=Reason.ENROLMENT_FAILED),)
    return (d.RecruitingClosed(sites=state.joined),)


def start_next(state: ExperimentState, now: float) -> Decided:
    """Open the next round, or the final evaluation after the last."""
    return (open_step(state, plan_of(state).next_round(state), now),)


def open_step(
    state: ExperimentState, opening: Opening, now: float, left_out: Mapping[str, Reason] = EMPTY
) -> d.RoundStarted:
    """Open a step: of a new round where none is open, else one more of the open round."""
    before = None if state.is_between else state.round
    first = 2 if opening.step == STATISTICS else 1  # a site that has joined stands at the first opening of round 0
    plan = plan_of(state)
    cases = {site: plan.count_cases(state.members[site]) for site in opening.sites}
    going_on = dict(plan.list_going_on(state)) if before is None else {}
    if before is not None:
        cases |= {site: count for site, count in before.cases.items() if site in cases}
    elif state.round is not None:
        cases |= {site: state.round.cases[site] for site in going_on}
    return d.RoundStarted(
        number=0 if opening.step == STATISTICS else state.completed + 1,
        step=opening.step,
        cases=cases,
        away=tuple(site for site in opening.sites if state.members[site].away),
        evaluate=opening.evaluate,
        time=now,
        accept_due=now + ACCEPT_WITHIN,
        deadline=now + STEPS[opening.step].within(state.experiment),
        opening=first if before is None else before.opening + 1,
        left_out=dict(left_out),
        weights=dict(opening.weights),
        going_on=going_on,
        tried=opening.tried,
        weighed=dict(opening.weighed),
    )


def go_on(state: ExperimentState, round_: Round, opening: Opening, now: float, *, forgiving: bool = False) -> Decided:
    """Open another step of the round; who has not reported in the open one, and takes no part in the next, is left
    behind and told.

    Args:
        forgiving: nobody counts as left behind: each may be tried once more.
    """
    left_out, told = left_behind(round_)
    left = {site: why for site, why in {**round_.left_out, **left_out}.items() if site not in opening.sites}
    left_out = {} if forgiving else dict(sorted(left.items()))
    return (open_step(state, opening, now, left_out), *told)


def close_round(state: ExperimentState, round_: Round, now: float) -> Decided:
    """Take no more reports in the open step, and go on with what is here: to the round's next step, or out of it.

    Updates beyond the operator's bound are left out first: then it is asked anew whether enough is here.
    """
    if state.logic >= 3 and (far := list_outliers(state, round_)):
        return leave_out(round_, far)
    following = plan_of(state).next_step(state, round_)
    if following is not None:
        return go_on(state, round_, following, now)
    return row_of(round_).close(state, round_, now)


def leave_out(round_: Round, sites: tuple[str, ...]) -> Decided:
    """These sites' updates are not used; each has had its receipt, and is told why."""
    told: list[d.AnyDecision] = []
    for site in sites:
        update, why = round_.parts[site].update, Reason.OUTLYING_UPDATE
        told.append(d.UpdateLeftOut(site=site, reason=why))
        if update is not None:
            told.append(
                d.Refused(event=update.event, kind="weights-ready", sender=site, reason=why, round=round_.base_of(site))
            )
    return tuple(told)


def meet_deadline(state: ExperimentState, round_: Round, now: float) -> Decided:
    """The step's deadline came: with quorum close, else ask others, extend, or do what the step does then."""
    rounds, plan = state.experiment.rounds, plan_of(state)
    if plan.is_enough(state, round_):
        return close_round(state, round_, now)
    other = plan.choose_instead(state, round_) or plan.try_again(state, round_)
    if other is not None:
        return go_on(state, round_, other, now)
    row = row_of(round_)
    if row.extends and rounds.at_deadline == "extend" and round_.extensions < rounds.extensions:
        extended = d.DeadlineExtended(times=round_.extensions + 1, deadline=now + row.within(state.experiment))
        other = plan.choose_instead(state, round_, again=True)
        return (extended, *(() if other is None else go_on(state, round_, other, now, forgiving=True)))
    return row.overdue(state, round_, now)


def meet_silence(state: ExperimentState, round_: Round, now: float) -> Decided:
    """A while after a round-start: announce it again to those who keep silent, or count them as absent."""
    silent = tuple(
        site
        for site, part in sorted(round_.parts.items())
        if not (part.accepted or part.reported or part.absent or part.failed)
    )
    if not silent:
        return (d.TimerDone(timer=Timer.ACCEPT),)
    if round_.announced < ANNOUNCEMENTS:
        return (d.AnnouncedAgain(times=round_.announced + 1, accept_due=now + ACCEPT_WITHIN),)
    return (d.SitesAbsent(sites=silent),)


def complete_round(state: ExperimentState, round_: Round, made: Aggregated) -> d.RoundCompleted:
    """The aggregate is made."""
    used = {
        site: part.update
        for site in plan_of(state).choose_contributors(state, round_)
        if (part := round_.trained[site]).update is not None and part.update is not None
    }
    # Of the model that this round received: what began with an earlier one has scored another.
    told = (update.validation for site, update in used.items() if round_.trained[site].base is None)
    scores = poolable(state, (one for one in told if one is not None))
    began = round_.started if round_.began is None else round_.began
    return d.RoundCompleted(
        number=round_.number,
        contributors={site: update.cases_used for site, update in used.items()},
        left_out=dict(round_.left_out),
        seal=made.seal,
        digest=made.digest,
        wire=made.wire,
        validation=made.validation or _pool_scores(state, round_, scores),
        seconds=(round_.closed_at or began) - began,
        memory=made.memory,
        cosines=made.cosines if state.logic >= 3 else {},
        own=made.own,
        staleness={site: round_.number - base for site in used if (base := _base_of(round_, site)) < round_.number},
        pooled=made.pooled,
    )


def _pool_scores(state: ExperimentState, round_: Round, scores: list[SplitScores]) -> SplitScores | None:
    return state.experiment.task.reader.pool_reports(scores) if round_.evaluate and scores else None


def _base_of(round_: Round, site: str) -> int:
    base = round_.trained[site].base
    return round_.number if base is None else base
