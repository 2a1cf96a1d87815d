"""What each kind of input means: one small function a kind, (state, input) → decisions or a reason to refuse.

Handlers record; what follows from the record is `rules.advance`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core import rules
from coordinator.core.admission import judge
from coordinator.core.plans.table import plan_of
from coordinator.core.state import ExperimentState, Phase, Standing, Timer
from coordinator.core.steps.base import Answer, Decided, StepRow, body_of, superseded
from messages import kinds
from messages.experiment import Experiment
from messages.reasons import Reason

Handler = Callable[[ExperimentState, i.Input], Answer]
"""What a kind of input means in a state: decisions, or a reason to refuse it."""

Given = TypeVar("Given", bound=i.Input)


def on(kind: type[Given]) -> Callable[[Callable[[ExperimentState, Given], Answer]], Handler]:
    """Makes a handler of one class of input fit into the table; TypeError where it is given another."""

    def fitted(handler: Callable[[ExperimentState, Given], Answer]) -> Handler:
        @wraps(handler)
        def handle(state: ExperimentState, given: i.Input) -> Answer:
            if not isinstance(given, kind):
                raise TypeError(f"{type(given).__name__} goes to another handler than {handler.__name__}")
            return handler(state, given)

        return handle

    return fitted


TRANSFERS = 3
"""How often a transfer whose bytes do not match its digest is asked for before it is refused."""

# researchers


def first_start(given: i.Received) -> Decided:
    """experiment-start with an id that is free. Records `Accepted`, or `StartRefused` with the reason."""
    return (judge(given),)


@on(i.Received)
def start_again(state: ExperimentState, given: i.Received) -> Answer:
    """experiment-start with an id that is taken: the same content is no news, other content is refused.

    Records nothing, or `StartRefused`.
    """
    body = body_of(given, kinds.ExperimentStart)
    try:
        same = Experiment.model_validate(body.experiment).digest() == state.digest
    except ValueError:
        same = False
    if same:
        return ()
    return (d.StartRefused(experiment=state.id, event=given.event.id, reason=Reason.ID_TAKEN),)


@on(i.Received)
def abort(state: ExperimentState, given: i.Received) -> Answer:
    """experiment-abort, by the researcher who started the experiment.

    Records `Aborted`, and receipts for updates that are under way: nobody will ask for them any more (rule 2).
    """
    if given.event.sender != state.researcher:
        return Reason.NOT_THE_OWNER
    return (*_left_pending(state), d.Aborted(time=given.time))


@on(i.Received)
def pause(state: ExperimentState, given: i.Received) -> Answer:
    """experiment-pause, by the researcher who started the experiment.

    Records `Paused` with what is left on each timer. What comes in meanwhile is still recorded; nothing advances.
    """
    if given.event.sender != state.researcher:
        return Reason.NOT_THE_OWNER
    return (_paused(state, given.time, None),)


@on(i.Received)
def resume(state: ExperimentState, given: i.Received) -> Answer:
    """experiment-resume of a paused experiment, by the researcher who started it.

    Records `Resumed`: each timer gets what was left on it.
    """
    if given.event.sender != state.researcher:
        return Reason.NOT_THE_OWNER
    return (d.Resumed(timers={name: given.time + left for name, left in state.remaining.items()}),)


def _paused(state: ExperimentState, now: float, reason: Reason | None) -> d.Paused:
    return d.Paused(reason=reason, remaining={name: max(0.0, due - now) for name, due in state.timers.items()})


def _left_pending(state: ExperimentState) -> Decided:
    """Receipts for updates that are under way when an experiment ends: nobody will ask for them any more."""
    if state.round is None:
        return ()
    return tuple(
        d.Settled(event=part.update.event, sender=site)
        for site, part in sorted(state.round.parts.items())
        if part.update is not None and not part.stored
    )


# sites


def _uninvited(state: ExperimentState, site: str) -> Reason | None:
    return None if site in state.members else Reason.NOT_INVITED


def _outside(state: ExperimentState, given: i.Received) -> Reason | None:
    """Why an event about a round is not about this site's part in the open one."""
    site, number = given.event.sender, given.event.round
    if (reason := _uninvited(state, site)) is not None:
        return reason
    if state.members[site].standing is not Standing.JOINED:
        return Reason.NOT_JOINED
    current = state.round.number if state.round is not None else state.completed
    closed = state.round is None or state.round.closed_at is not None
    if number < current or (number == current and closed and number > 0):
        return Reason.LATE
    if state.round is None or number != current:
        return Reason.WRONG_ROUND
    if site in state.round.left_out:
        return Reason.LATE
    # It joined after this round had begun: it takes part from the next one.
    return None if site in state.round.parts else Reason.WRONG_ROUND


@on(i.Received)
def joined(state: ExperimentState, given: i.Received) -> Answer:
    """joined, when a site has read its data and wants to take part (protocol rule 5).

    Records `SiteJoined`. At any time before the evaluation: the site takes part from the next round.
    """
    site, body = given.event.sender, body_of(given, kinds.Joined)
    if (reason := _uninvited(state, site)) is not None:
        return reason
    if body.cases.train == 0:
        return Reason.NO_CASES
    return (d.SiteJoined(site=site, train=body.cases.train),)


@on(i.Received)
def declined(state: ExperimentState, given: i.Received) -> Answer:
    """declined, when a site does not take part, or no longer (protocol rule 5).

    Records `SiteDeclined`, and `SiteFailed` where the open step waited for it.
    """
    site, body = given.event.sender, body_of(given, kinds.Declined)
    if (reason := _uninvited(state, site)) is not None:
        return reason
    answer: Decided = (d.SiteDeclined(site=site, reason=body.reason),)
    part = state.round.parts.get(site) if state.round is not None and state.round.closed_at is None else None
    if part is not None and not part.reported:
        return (*superseded(state, site), *answer, d.SiteFailed(site=site, reason=body.reason))
    return answer


@on(i.Received)
def leaving(state: ExperimentState, given: i.Received) -> Answer:
    """leaving, when a site's agent is stopped (protocol rule 5).

    Records `SiteAway`: the open step does not wait for it once there is a quorum. Whatever is next heard of it brings
    it back.
    """
    site = given.event.sender
    if (reason := _uninvited(state, site)) is not None:
        return reason
    if state.members[site].standing is not Standing.JOINED:
        return ()
    return (d.SiteAway(site=site),)


@on(i.Received)
def round_accepted(state: ExperimentState, given: i.Received) -> Answer:
    """round-accepted, when a site has read the event that opened the step and takes it on (protocol rule 5).

    Records `SiteAccepted`: the step is not announced again for this site.
    """
    return _outside(state, given) or (d.SiteAccepted(site=given.event.sender),)


@on(i.Received)
def round_failed(state: ExperimentState, given: i.Received) -> Answer:
    """round-failed, when a site cannot deliver its part of the open step (protocol rule 5).

    Records `SiteFailed`, and receipts for an update that was under way (rule 2).
    """
    body = body_of(given, kinds.RoundFailed)
    if (reason := _outside(state, given)) is not None:
        return reason
    site = given.event.sender
    if state.round is not None and state.round.parts[site].reported:
        return Reason.DUPLICATE
    return (*superseded(state, site), d.SiteFailed(site=site, reason=body.reason))


def answered(row: StepRow) -> Handler:
    """The answer that a step asks for: once, from a site that takes part, while the step is open."""

    @on(i.Received)
    @wraps(row.answered)
    def handler(state: ExperimentState, given: i.Received) -> Answer:
        if (reason := _outside(state, given)) is not None:
            return reason
        if state.round is None or state.round.step != row.name:
            return Reason.WRONG_STATE
        if state.round.parts[given.event.sender].reported:
            return Reason.DUPLICATE
        return row.answered(state, state.round, given)

    return handler


@on(i.Received)
def late(state: ExperimentState, given: i.Received) -> Answer:
    """An answer about a round in a phase in which none is open: refused as late, or for what else is wrong with it."""
    return _outside(state, given) or Reason.WRONG_STATE


# the coordinator's own


@on(i.Initialised)
def initialised(state: ExperimentState, given: i.Initialised) -> Answer:
    """The worker has built and stored the initial model.

    Records `InitialModel`; round 1 opens with it (protocol rule 3).
    """
    if state.models:
        return ()
    return (d.InitialModel(manifest=given.manifest, seal=given.seal, digest=given.digest, wire=given.wire),)


@on(i.InitialisationFailed)
def initialisation_failed(state: ExperimentState, given: i.InitialisationFailed) -> Answer:
    """The worker could not build the initial model. Records `Failed`."""
    return () if state.models else (d.Failed(time=given.time, reason=given.reason),)


def _awaited(state: ExperimentState, site: str, number: int, attempt: int) -> bool:
    """Whether a worker's report is about an update that is still waited for."""
    if state.round is None or state.round.number != number or state.round.closed_at is not None:
        return False
    part = state.round.parts.get(site)
    return part is not None and part.update is not None and not part.stored and part.update.attempt == attempt


@on(i.UpdateStored)
def update_stored(state: ExperimentState, given: i.UpdateStored) -> Answer:
    """The worker has verified a site's update and stored it under its seal.

    Records `UpdateTaken` and the receipt that frees the update's file at the site (protocol rule 2).
    """
    if not _awaited(state, given.site, given.round, given.attempt):
        return ()
    update = state.round.parts[given.site].update if state.round is not None else None
    if update is None:
        return ()
    return (d.UpdateTaken(site=given.site), d.Settled(event=update.event, sender=given.site))


@on(i.UpdateBad)
def update_bad(state: ExperimentState, given: i.UpdateBad) -> Answer:
    """The worker cannot use a site's update as it came.

    Records `TransferAgain` where its bytes are not those sealed, so that all chunks are asked for again (protocol rule
    4); else, or the third time, `SiteFailed` with a refusal and the receipt (rule 2).
    """
    if not _awaited(state, given.site, given.round, given.attempt):
        return ()
    update = state.round.parts[given.site].update if state.round is not None else None
    if update is None:
        return ()
    if given.reason is Reason.WRONG_DIGEST and update.asked_again + 1 < TRANSFERS:
        return (d.TransferAgain(site=given.site, times=update.asked_again + 1),)
    refused = d.Refused(
        event=update.event, kind="weights-ready", sender=given.site, reason=given.reason, round=given.round
    )
    failed = d.SiteFailed(site=given.site, reason=given.reason)
    return (failed, refused, d.Settled(event=update.event, sender=given.site))


@on(i.Aggregated)
def aggregated(state: ExperimentState, given: i.Aggregated) -> Answer:
    """The worker has made and stored the round's aggregate.

    Records `RoundCompleted`; the next round or the evaluation opens with it (protocol rule 5).
    """
    if state.round is None or state.round.number != given.round:
        return ()
    return (rules.complete_round(state, state.round, given),)


@on(i.AggregationFailed)
def aggregation_failed(state: ExperimentState, given: i.AggregationFailed) -> Answer:
    """The worker could not make the round's aggregate. Records `Failed`."""
    if state.round is None or state.round.number != given.round:
        return ()
    return (d.Failed(time=given.time, reason=Reason.AGGREGATION_FAILED),)


@on(i.TimerFired)
def timer_fired(state: ExperimentState, given: i.TimerFired) -> Answer:
    """A timer is due: enrolment, acceptance, grace or deadline (protocol rule 5).

    Records what the timer is for: recruiting closes, the step is announced again or sites count as absent, the step
    closes, its deadline is extended, or the experiment fails. `TimerDone` where nothing is left to do.
    """
    due = state.timers.get(given.timer)
    if due is None or given.time < due:
        return ()
    if given.timer is Timer.ENROL:
        return rules.close_recruiting(state, given.time)
    if state.round is None:
        return ()
    if given.timer is Timer.ACCEPT:
        return rules.unaccepted(state, state.round, given.time)
    if given.timer is Timer.DEADLINE:
        ended = rules.deadline(state, state.round, given.time)
        return (*_left_pending(state), *ended) if isinstance(ended[0], d.Failed) else ended
    if plan_of(state).is_enough(state, state.round):
        return rules.close_round(state, state.round, given.time)
    return (d.TimerDone(timer=Timer.GRACE),)


@on(i.Outage)
def outage(state: ExperimentState, given: i.Outage) -> Answer:
    """Nothing could be received for a while. Records `TimersMoved`: sites get that time back."""
    # Negative where the machine's clock was set back between two starts: the time that remains is what counts.
    lost = given.time - given.since
    if lost == 0 or not state.timers:
        return ()
    return (d.TimersMoved(timers={name: due + lost for name, due in state.timers.items()}),)


@on(i.DiskFull)
def disk_full(state: ExperimentState, given: i.DiskFull) -> Answer:
    """The coordinator's disk is full. Records `Paused` with that reason; a pause of the researcher stays."""
    return () if state.phase is Phase.PAUSED else (_paused(state, given.time, Reason.DISK_FULL),)


@on(i.DiskFree)
def disk_free(state: ExperimentState, given: i.DiskFree) -> Answer:
    """There is space again. Records `Resumed` where only the full disk made the experiment wait."""
    if state.phase is not Phase.PAUSED or state.paused_because is not Reason.DISK_FULL:
        return ()
    return (d.Resumed(timers={name: given.time + left for name, left in state.remaining.items()}),)


@on(i.Input)
def ignore(state: ExperimentState, given: i.Input) -> Answer:
    """A worker's report or a timer that the experiment has left behind. Records nothing."""
    return ()
