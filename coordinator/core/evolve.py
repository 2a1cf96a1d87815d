"""`evolve(state, decision) -> state`: what each decision does to the state. Pure; recovery is nothing but this."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from coordinator.core import decisions as d
from coordinator.core import quorum
from coordinator.core.plans.table import plan_of
from coordinator.core.state import (
    EMPTY,
    KEYS,
    SECURE,
    ExperimentState,
    Kept,
    Measured,
    Model,
    Outcome,
    Part,
    Phase,
    Pooled,
    Round,
    RoundResult,
    Scored,
    Standing,
    StepName,
    Timer,
    Update,
    VoidRound,
    invite_members,
    role_of,
)
from coordinator.core.steps.table import STEPS
from messages.experiment import read_recorded
from messages.reasons import Reason
from messages.statistics.configuration import configure_experiment

State = ExperimentState


def evolve(state: State | None, decision: d.AnyDecision) -> State | None:
    """Apply one decision. ValueError where it speaks of an experiment that has not begun."""
    if isinstance(decision, d.Accepted):
        return _begin_experiment(decision)
    if isinstance(decision, d.Settled | d.Witnessed | d.Refused | d.StartRefused):
        return state
    if state is None:
        raise ValueError(f"decision {decision.decision!r} without an experiment")
    return _APPLY[type(decision)](state, decision)


def fold_decisions(state: State | None, decided: Iterable[d.AnyDecision]) -> State | None:
    """Apply decisions one after the other."""
    for decision in decided:
        state = evolve(state, decision)
    return state


def _begin_experiment(decision: d.Accepted) -> State:
    experiment = read_recorded(decision.experiment)
    return State(
        experiment=experiment,
        digest=decision.digest,
        researcher=decision.researcher,
        original=decision.original,
        started=decision.time,
        phase=Phase.RECRUITING,
        members=invite_members(experiment.sites),
        keep_updates=decision.keep_updates,
        timers={Timer.ENROL: decision.enrol_due},
        file=decision.experiment,
        bounds=decision.bounds,
        origin=decision.origin,
    )


def _change_member(state: State, site: str, **changes: Any) -> State:
    return replace(state, members=state.members.with_replaced(site, replace(state.members[site], **changes)))


def _change_part(state: State, site: str, **changes: Any) -> State:
    if state.round is None or site not in state.round.parts:
        return state
    parts = state.round.parts.with_replaced(site, replace(state.round.parts[site], **changes))
    return replace(state, round=replace(state.round, parts=parts))


def _open_round(state: State) -> Round:
    if state.round is None:
        raise ValueError("no round is open")
    return state.round


def _change_timers(state: State, *without: Timer, **changes: float) -> Mapping[Timer, float]:
    kept = {name: due for name, due in state.timers.items() if name not in without}
    return kept | {Timer(name): due for name, due in changes.items()}


def _enter_phase(state: State, phase: Phase, **changes: Any) -> State:
    """Enter a phase, under a pause too."""
    if state.phase is Phase.PAUSED:
        return replace(state, paused_from=phase, **changes)
    return replace(state, phase=phase, **changes)


def _note_joined(state: State, x: d.SiteJoined) -> State:
    can = frozenset(x.abilities)
    cases = {"train": x.train, "validation": x.validation, "test": x.test}
    return _change_member(state, x.site, standing=Standing.JOINED, reason=None, away=False, abilities=can, **cases)


def _note_declined(state: State, x: d.SiteDeclined) -> State:
    return _change_member(state, x.site, standing=Standing.DECLINED, reason=x.reason)


def _note_excluded(state: State, x: d.Excluded) -> State:
    state = _change_member(state, x.site, standing=Standing.EXCLUDED, reason=x.reason, away=False)
    return replace(_without_part(_without_own(state, x.site), x.site), excluded=(*state.excluded, x.site))


def _without_own(state: State, site: str) -> State:
    """Without the site's own model. While models are made or scored it stays: a round that is closed stands."""
    here = state.own.get(state.completed + 1, EMPTY)
    if site not in here or state.stage is not Phase.RUNNING:
        return state
    left = {name: model for name, model in here.items() if name != site}
    return replace(state, own={**state.own, state.completed + 1: left})


def _without_part(state: State, site: str) -> State:
    """The open step without a site: neither its report nor its cases count. A round that is closed stands."""
    round_ = state.round
    if round_ is None or round_.closed_at is not None or site not in round_.parts:
        return state
    # Keys and shares of a secure round stay: the masks of the others follow from them.
    earlier = (
        round_.earlier
        if round_.tried
        else {
            step: {name: part for name, part in parts.items() if name != site} for step, parts in round_.earlier.items()
        }
    )
    left = replace(
        round_,
        parts=round_.parts.without(site),
        cases={name: count for name, count in round_.cases.items() if name != site},
        left_out={**round_.left_out, site: Reason.EXCLUDED},
        earlier=earlier,
    )
    return replace(state, round=left)


def _note_away(state: State, x: d.SiteAway) -> State:
    return _change_part(_change_member(state, x.site, away=True), x.site, absent=True)


def _note_back(state: State, x: d.SiteBack) -> State:
    return _change_part(_change_member(state, x.site, away=False), x.site, absent=False)


def _recruiting_closed(state: State, x: d.RecruitingClosed) -> State:
    return _enter_phase(state, Phase.INITIALISING, timers=_change_timers(state, Timer.ENROL))


def _initial_model(state: State, x: d.InitialModel) -> State:
    return replace(state, manifest=x.manifest, models={1: Model(x.seal, x.digest, x.wire)})


def _note_statistics(state: State, x: d.StatisticsPooled) -> State:
    """The experiment goes on as it is configured now, or is complete where it asked for nothing else."""
    found = Measured(x.statistics, x.contributors, x.left_out, x.memory_mib, x.configuration)
    if state.experiment.plan.kind == "statistics" or x.configuration is None:
        return _end_in_phase(state, Phase.COMPLETE, x.time, measured=found)
    configured = configure_experiment(state.experiment, x.configuration)
    after = _enter_phase(state, Phase.INITIALISING, round=None, timers=EMPTY)
    return replace(after, measured=found, experiment=configured)


def _round_started(state: State, x: d.RoundStarted) -> State:
    parts = quorum.make_roll(_take_parts(state, x), x.cases)
    opened = Round(
        x.number,
        x.step,
        x.time,
        parts,
        x.cases,
        x.evaluate,
        opening=x.opening,
        left_out=x.left_out,
        began=x.time,
        weights=x.weights,
        going_on=x.going_on,
        tried=x.tried,
        taken=0 if state.round is None else state.round.taken,
    )
    if state.round is not None and not state.is_between:
        opened = replace(
            opened,
            began=state.round.began,
            extensions=state.round.extensions,
            earlier=_earlier_reports(state.round, x.step),
            weighed=x.weighed or (state.round.weighed if x.tried == state.round.tried else EMPTY),
            unopened=state.round.unopened if x.tried == state.round.tried else frozenset(),
        )
    timers = {Timer.ACCEPT: x.accept_due, Timer.DEADLINE: x.deadline}
    return _enter_phase(state, STEPS[x.step].phase, round=opened, timers=timers)


def _take_parts(state: State, x: d.RoundStarted) -> Mapping[str, Part]:
    """A part for each site: a new one, or the one that goes on from an earlier round."""
    away = frozenset(x.away)
    # Who takes part in a later step of a secure round has taken the round on.
    parts = {site: Part(accepted=role_of(x.step) in SECURE[1:], absent=site in away) for site in x.cases}
    if state.round is None:
        return parts
    return parts | {site: replace(state.round.parts[site], base=base) for site, base in x.going_on.items()}


def _earlier_reports(round_: Round, following: StepName) -> Mapping[StepName, Mapping[str, Part]]:
    """What was reported before a step that follows; nothing of a step that is opened anew for others, or of a try that
    is begun anew."""
    if role_of(following) == KEYS:
        return EMPTY
    if following == round_.step:
        return round_.earlier
    return {**round_.earlier, round_.role: {site: round_.parts[site] for site in round_.reported}}


def _site_accepted(state: State, x: d.SiteAccepted) -> State:
    anew = {"base": None, "update": None} if x.anew else {}
    return _change_part(
        _change_member(state, x.site, away=False), x.site, accepted=True, absent=False, failed=None, **anew
    )


def _announced_again(state: State, x: d.AnnouncedAgain) -> State:
    return replace(
        state, round=replace(_open_round(state), announced=x.times), timers=_change_timers(state, accept=x.accept_due)
    )


def _sites_absent(state: State, x: d.SitesAbsent) -> State:
    for site in x.sites:
        state = _change_part(state, site, absent=True)
    return replace(state, timers=_change_timers(state, Timer.ACCEPT))


def _update_announced(state: State, x: d.UpdateAnnounced) -> State:
    update = Update(x.attempt, x.seal, x.chunk_bytes, x.event, x.cases_used, x.validation, steps=x.steps)
    return _change_part(
        _change_member(state, x.site, away=False), x.site, accepted=True, absent=False, failed=None, update=update
    )


def _update_taken(state: State, x: d.UpdateTaken) -> State:
    round_ = _open_round(state)
    state = replace(state, round=replace(round_, taken=round_.taken + 1))
    return _change_part(state, x.site, stored=True, norm=x.norm, statistics=x.statistics, place=round_.taken + 1)


def _update_left_out(state: State, x: d.UpdateLeftOut) -> State:
    nothing = {"update": None, "stored": False, "norm": None, "statistics": None, "place": 0}
    return _change_part(state, x.site, failed=x.reason, **nothing)


def _transfer_again(state: State, x: d.TransferAgain) -> State:
    update = _open_round(state).parts[x.site].update
    return _change_part(state, x.site, update=update and replace(update, asked_again=x.times))


def _site_failed(state: State, x: d.SiteFailed) -> State:
    return _change_part(state, x.site, failed=x.reason, update=None, answer=None, said=None, accepted=True)


def _quorum_met(state: State, x: d.QuorumMet) -> State:
    return replace(
        state, round=replace(_open_round(state), quorum_at=x.time), timers=_change_timers(state, grace=x.grace_due)
    )


def _extend_deadline(state: State, x: d.DeadlineExtended) -> State:
    return replace(
        state, round=replace(_open_round(state), extensions=x.times), timers=_change_timers(state, deadline=x.deadline)
    )


def _round_closed(state: State, x: d.RoundClosed) -> State:
    closed = replace(_open_round(state), closed_at=x.time, left_out=x.left_out)
    kept = tuple(
        Kept(x.number, site, part.update.seal, closed.number if closed.tried else closed.base_of(site))
        for site, part in sorted(closed.trained.items())
        if site in x.contributors and part.update is not None
    )
    if state.keep_updates is not None:
        kept = tuple(one for one in state.kept + kept if one.round > x.number - state.keep_updates)
    else:
        kept = state.kept + kept
    return _enter_phase(state, Phase.AGGREGATING, round=closed, timers=EMPTY, kept=kept)


def _round_completed(state: State, x: d.RoundCompleted) -> State:
    mean = state.experiment.task.reader.headline_score(x.validation) if x.validation is not None else None
    # Where each site has a model of its own, a round's score is of no one model: it chooses none.
    scores = state.scores if mean is None or x.own else (*state.scores, Scored(x.number - 1, mean))
    models = state.models if x.own else {**state.models, x.number + 1: Model(x.seal, x.digest, x.wire, x.memory)}
    turns = plan_of(state).remember_turns(state.turns, x.contributors)
    pooled = None if x.pooled is None else Pooled(x.pooled.cases, x.pooled.loss)
    result = RoundResult(x.number, x.contributors, x.left_out, x.digest, x.validation, x.seconds, x.staleness, pooled)
    rest = _leave_contributors(state, x)
    made = replace(state, round=rest, completed=x.number, last_result=result, models=models, scores=scores, turns=turns)
    made = replace(made, void=None, voided=0)
    return _with_own(made, x) if x.own else made


def _void_round(state: State, x: d.RoundVoided) -> State:
    """The model that the round received is the next one's, too."""
    passed = state.models[x.number]
    told = VoidRound(x.number, x.reason, x.left_out, passed.digest, x.seconds)
    models = {**state.models, x.number + 1: passed}
    after = replace(state, round=None, completed=x.number, models=models, timers=EMPTY)
    return _enter_phase(replace(after, void=told, voided=state.voided + 1), Phase.AGGREGATING)


def _share_unopened(state: State, x: d.ShareUnopened) -> State:
    """Nobody reckons with that share any more."""
    round_ = _open_round(state)
    return replace(state, round=replace(round_, unopened=round_.unopened | {(x.dealer, x.holder)}))


def _leave_contributors(state: State, x: d.RoundCompleted) -> Round | None:
    """What goes on from a round that has made its model: the parts of those whose update is not in it."""
    plan = plan_of(state)
    if state.round is None or not state.experiment.plan.keeps_work or plan.is_trained(state.experiment, x.number):
        return None
    left = state.round.parts
    for site in x.contributors:
        left = left.without(site)
    return replace(state.round, parts=left)


def _with_own(state: State, x: d.RoundCompleted) -> State:
    """Who was left out keeps the model that it had."""
    mine = {site: Model(one.seal, one.digest, one.wire) for site, one in x.own.items()}
    known = {**state.own.get(x.number, {}), **mine}
    left = {site: model for site, model in known.items() if site not in state.excluded}
    return replace(state, own={**state.own, x.number + 1: left})


def _note_evaluated(state: State, x: d.SiteEvaluated) -> State:
    return _change_part(
        _change_member(state, x.site, away=False), x.site, scores=x.scores, accepted=True, absent=False, failed=None
    )


def _note_answered(state: State, x: d.StepAnswered) -> State:
    return _change_part(
        _change_member(state, x.site, away=False),
        x.site,
        answer=x.answer,
        said=x.said,
        accepted=True,
        absent=False,
        failed=None,
    )


def _end_in_phase(state: State, phase: Phase, time: float, **changes: Any) -> State:
    return replace(
        state, phase=phase, paused_from=None, timers=EMPTY, remaining=EMPTY, round=None, ended=time, **changes
    )


def _complete_experiment(state: State, x: d.Completed) -> State:
    return _end_in_phase(state, Phase.COMPLETE, x.time, outcome=Outcome(x.label, x.rounds, x.test, x.weights))


def _pause_experiment(state: State, x: d.Paused) -> State:
    return replace(
        state,
        phase=Phase.PAUSED,
        paused_from=state.stage,
        paused_because=x.reason,
        pauses=state.pauses + 1,
        timers=EMPTY,
        remaining=x.remaining,
    )


def _resume_experiment(state: State, x: d.Resumed) -> State:
    return replace(
        state,
        phase=state.stage,
        paused_from=None,
        paused_because=None,
        resumes=state.resumes + 1,
        timers=x.timers,
        remaining=EMPTY,
    )


_APPLY: dict[type[d.Decision], Callable[[State, Any], State]] = {
    d.SiteJoined: _note_joined,
    d.SiteDeclined: _note_declined,
    d.Excluded: _note_excluded,
    d.SiteAway: _note_away,
    d.SiteBack: _note_back,
    d.RecruitingClosed: _recruiting_closed,
    d.InitialModel: _initial_model,
    d.RoundStarted: _round_started,
    d.SiteAccepted: _site_accepted,
    d.AnnouncedAgain: _announced_again,
    d.SitesAbsent: _sites_absent,
    d.UpdateAnnounced: _update_announced,
    d.UpdateTaken: _update_taken,
    d.UpdateLeftOut: _update_left_out,
    d.TransferAgain: _transfer_again,
    d.SiteFailed: _site_failed,
    d.QuorumMet: _quorum_met,
    d.DeadlineExtended: _extend_deadline,
    d.RoundClosed: _round_closed,
    d.RoundCompleted: _round_completed,
    d.RoundVoided: _void_round,
    d.ShareUnopened: _share_unopened,
    d.ShareWrong: lambda state, x: state,
    d.StatisticsPooled: _note_statistics,
    d.SiteEvaluated: _note_evaluated,
    d.StepAnswered: _note_answered,
    d.Completed: _complete_experiment,
    d.Failed: lambda state, x: _end_in_phase(state, Phase.FAILED, x.time, reason=x.reason),
    d.Aborted: lambda state, x: _end_in_phase(state, Phase.ABORTED, x.time),
    d.Paused: _pause_experiment,
    d.Resumed: _resume_experiment,
    d.TimersMoved: lambda state, x: replace(state, timers=x.timers),
    d.TimerDone: lambda state, x: replace(state, timers=_change_timers(state, x.timer)),
}
