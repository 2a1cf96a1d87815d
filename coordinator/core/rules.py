"""What the coordinator does of itself once a fact is recorded: close recruiting, open and close rounds, finish.

`advance` is asked after each change of state until it has nothing more to say, so that every handler only records
what it was told, and no way into a state can forget what follows from it. A paused experiment never advances.
"""

from __future__ import annotations

from coordinator.core import decisions as d
from coordinator.core import quorum
from coordinator.core.inputs import Aggregated
from coordinator.core.state import ExperimentState, Phase, Round, Step, Timer
from messages.experiment import Experiment
from messages.reasons import Reason
from messages.scores import SplitScores, pool

Decided = tuple[d.AnyDecision, ...]

ACCEPT_WITHIN = 30.0
"""Seconds until a round-start that was not accepted is announced again (protocol rule 5)."""
ANNOUNCEMENTS = 3
"""The first and two more; then a site that has not accepted is absent."""


def advance(state: ExperimentState, now: float) -> Decided:
    """The next consequence of the state as it is, or nothing."""
    if state.phase is Phase.RECRUITING:
        return close_recruiting(state, now) if state.everybody_answered else ()
    if state.phase in (Phase.INITIALISING, Phase.AGGREGATING) and state.round is None:
        return start_next(state, now) if state.completed + 1 in state.models else ()
    if state.phase in (Phase.RUNNING, Phase.EVALUATING) and state.round is not None:
        if not quorum.met(state.round, state.experiment):
            return ()
        if quorum.everybody_heard(state.round):
            return close_round(state, state.round, now)
        if state.round.quorum_at is None:
            due = now + quorum.grace(state.round, state.experiment, now)
            return (d.QuorumMet(time=now, grace_due=due),)
    return ()


def close_recruiting(state: ExperimentState, now: float) -> Decided:
    """All have answered, or the enrolment deadline has come."""
    if len(state.joined) < state.experiment.least_sites:
        return (d.Failed(time=now, reason=Reason.ENROLMENT_FAILED),)
    return (d.RecruitingClosed(sites=state.joined),)


def start_next(state: ExperimentState, now: float) -> Decided:
    """Open the next round, or the final evaluation after the last."""
    number = state.completed + 1
    last = number > state.experiment.rounds.count
    return (
        d.RoundStarted(
            number=number,
            step=Step.SCORES if last else Step.UPDATES,
            cases={site: state.members[site].train for site in state.joined},
            away=tuple(site for site in state.joined if state.members[site].away),
            evaluate=last or scored_in(state.experiment, number),
            time=now,
            accept_due=now + ACCEPT_WITHIN,
            deadline=now + state.experiment.rounds.train_within,
        ),
    )


def scored_in(experiment: Experiment, number: int) -> bool:
    """Whether round `number` scores the model it receives: the one that a multiple of `every` rounds made.

    The initial model is never scored: it has learnt nothing, and scoring costs a pass over the validation cases.
    """
    return number > 1 and (number - 1) % experiment.evaluation.every == 0


def close_round(state: ExperimentState, round_: Round, now: float) -> Decided:
    """Take no more reports, tell those whose transfer was under way, and go on with what is here."""
    if round_.step is Step.SCORES:
        return (finish(state, round_, now),)
    contributors = {
        site: part.update.cases_used for site in round_.reported if (part := round_.parts[site]).update is not None
    }
    left_out: dict[str, Reason] = {}
    told: list[d.AnyDecision] = []
    for site, part in sorted(round_.parts.items()):
        if part.reported:
            continue
        left_out[site] = part.failed or (Reason.STRAGGLER if part.update else Reason.ABSENT)
        if part.update is not None:
            event = part.update.event
            told.append(
                d.Refused(event=event, kind="weights-ready", sender=site, reason=Reason.LATE, round=round_.number)
            )
            told.append(d.Settled(event=event, sender=site))
    closed = d.RoundClosed(number=round_.number, time=now, contributors=contributors, left_out=left_out)
    return (closed, *told)


def deadline(state: ExperimentState, round_: Round, now: float) -> Decided:
    """The round's deadline came: with quorum close, else extend, else give up (or evaluate with what is here)."""
    rounds = state.experiment.rounds
    if quorum.met(round_, state.experiment):
        return close_round(state, round_, now)
    if rounds.at_deadline == "extend" and round_.extensions < rounds.extensions:
        return (d.DeadlineExtended(times=round_.extensions + 1, deadline=now + rounds.train_within),)
    if round_.step is Step.SCORES:
        # The model is made: too few scores are a reason to say so (n is always told), not to throw it away.
        return (finish(state, round_, now),)
    return (d.Failed(time=now, reason=Reason.QUORUM_NOT_MET),)


def unaccepted(state: ExperimentState, round_: Round, now: float) -> Decided:
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
        for site in round_.reported
        if (part := round_.parts[site]).update is not None and part.update is not None
    }
    scores = [update.validation for update in used.values() if update.validation is not None]
    return d.RoundCompleted(
        number=round_.number,
        contributors={site: update.cases_used for site, update in used.items()},
        left_out=dict(round_.left_out),
        seal=made.seal,
        digest=made.digest,
        wire=made.wire,
        validation=pool(scores) if round_.evaluate and scores else None,
        seconds=(round_.closed_at or round_.started) - round_.started,
        memory=made.memory,
    )


def finish(state: ExperimentState, round_: Round, now: float) -> d.Completed:
    """Choose the model on validation scores; test scores are only reported."""
    chosen: str = "final"
    rounds = state.completed
    best = state.selected
    if best is not None and best != state.completed:
        final = _pooled(round_, "final", "validation")
        final_mean = final.mean() if final is not None else None
        best_mean = next(scored.mean for scored in state.scores if scored.rounds == best)
        if final_mean is None or best_mean > final_mean:
            chosen, rounds = "selected", best
    label = "selected" if chosen == "selected" else "final"
    return d.Completed(time=now, label=label, rounds=rounds, test=_pooled(round_, label, "test"))


def _pooled(round_: Round, label: str, split: str) -> SplitScores | None:
    reports: list[SplitScores] = []
    for site in round_.reported:
        scores = (round_.parts[site].scores or {}).get(label)
        if scores is not None:
            reports += [one for name, one in scores.splits.items() if name == split]
    return pool(reports) if reports else None
