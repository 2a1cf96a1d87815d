"""What the coordinator's own workers, timers and disk report: one small function a kind, (state, input) → decisions.

As handlers of events they record; what follows from the record is `rules.advance_state`'s business.
"""

from __future__ import annotations

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core import rules
from coordinator.core.checks import judge_pooled
from coordinator.core.handlers.answers import handles, paused_by, receipts_left
from coordinator.core.plans.buffering import takes_more
from coordinator.core.plans.table import plan_of
from coordinator.core.state import ExperimentState, Phase, Standing, Timer
from coordinator.core.steps import secure
from coordinator.core.steps.base import Answer, supersede_attempt
from messages.reasons import Reason

_SETTLED = (Standing.JOINED, Standing.EXCLUDED)
_OF_A_SUM = ("aggregated", "aggregation-failed", "sum-refused")
TRANSFERS = 3
"""How often a transfer whose bytes do not match its digest is asked for before it is refused."""


@handles(i.Initialised)
def take_initialised(state: ExperimentState, given: i.Initialised) -> Answer:
    """The worker has built and stored the initial model.

    Records `InitialModel`; round 1 opens with it (protocol rule 3). Records `Failed` where the experiment is to begin
    with another model than came.
    """
    if state.models:
        return ()
    if state.origin is not None and state.origin.digest != given.digest:
        return (d.Failed(time=given.time, reason=Reason.INITIALISATION_FAILED),)
    return (d.InitialModel(manifest=given.manifest, seal=given.seal, digest=given.digest, wire=given.wire),)


@handles(i.InitialisationFailed)
def initialisation_failed(state: ExperimentState, given: i.InitialisationFailed) -> Answer:
    """The worker could not build the initial model. Records `Failed`."""
    return () if state.models else (d.Failed(time=given.time, reason=given.reason),)


def _is_awaited(state: ExperimentState, site: str, number: int, attempt: int) -> bool:
    """Whether a worker's report is about an update that is still waited for."""
    part = None if state.round is None else state.round.parts.get(site)
    if part is None or state.round is None or state.round.base_of(site) != number or not takes_more(state):
        return False
    if state.members[site].standing is Standing.EXCLUDED:
        return False
    return part.update is not None and not part.stored and part.update.attempt == attempt


@handles(i.UpdateStored)
def update_stored(state: ExperimentState, given: i.UpdateStored) -> Answer:
    """The worker has verified a site's update and stored it under its seal.

    Records `UpdateTaken` and the receipt that frees the update's file at the site (protocol rule 2).
    """
    if not _is_awaited(state, given.site, given.round, given.attempt):
        return ()
    update = state.round.parts[given.site].update if state.round is not None else None
    if update is None:
        return ()
    taken = d.UpdateTaken(site=given.site, norm=given.norm, statistics=given.statistics)
    return (taken, d.Settled(event=update.event, sender=given.site))


@handles(i.UpdateBad)
def update_bad(state: ExperimentState, given: i.UpdateBad) -> Answer:
    """The worker cannot use a site's update as it came.

    Records `TransferAgain` where its bytes are not those sealed, so that all chunks are asked for again (protocol rule
    4); else, or the third time, `SiteFailed` with a refusal and the receipt (rule 2).
    """
    if not _is_awaited(state, given.site, given.round, given.attempt):
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


@handles(i.Aggregated)
def take_aggregated(state: ExperimentState, given: i.Aggregated) -> Answer:
    """The worker has made and stored the round's aggregate.

    Records `RoundCompleted`; the next round or the evaluation opens with it (protocol rule 5). `RoundVoided` where what
    a secure round pools cannot be.
    """
    if state.round is None or state.round.number != given.round or state.is_between:
        return ()
    if (bad := judge_pooled(state, state.round, given)) is not None:
        return secure.void_round(state, state.round, bad, given.time)
    return (rules.complete_round(state, state.round, given),)


@handles(i.SumRefused)
def take_sum_refused(state: ExperimentState, given: i.SumRefused) -> Answer:
    """The worker has unmasked a sum that no honest sites can have. Records `RoundVoided`: the model stays."""
    if state.round is None or state.round.number != given.round or state.is_between:
        return ()
    return secure.void_round(state, state.round, given.reason, given.time)


@handles(i.AggregationFailed)
def aggregation_failed(state: ExperimentState, given: i.AggregationFailed) -> Answer:
    """The worker could not make the round's aggregate. Records `Failed`."""
    if state.round is None or state.round.number != given.round or state.is_between:
        return ()
    return (d.Failed(time=given.time, reason=Reason.AGGREGATION_FAILED),)


@handles(i.TimerFired)
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
        return rules.meet_silence(state, state.round, given.time)
    if given.timer is Timer.DEADLINE:
        ended = rules.meet_deadline(state, state.round, given.time)
        return (*receipts_left(state), *ended) if isinstance(ended[0], d.Failed) else ended
    if plan_of(state).is_enough(state, state.round):
        return rules.close_round(state, state.round, given.time)
    return (d.TimerDone(timer=Timer.GRACE),)


@handles(i.HandlingFailed)
def handling_failed(state: ExperimentState, given: i.HandlingFailed) -> Answer:
    """What came raised, and was set aside: a defect.

    Records a code for what waits for it: `SiteFailed` or `SiteDeclined` of the site whose word it was, `Failed` where
    the experiment cannot go on without it, or where this very input was set aside too. Nothing else.
    """
    reason = Reason.AGGREGATION_FAILED
    if given.site is not None:
        return _site_unheard(state, given, given.site, reason)
    if given.kind in ("initialised", "initialisation-failed") and not state.models:
        return (d.Failed(time=given.time, reason=Reason.INITIALISATION_FAILED),)
    closed = state.round is not None and state.round.closed_at is not None and state.round.number == given.round
    again = given.kind == "handling-failed" and state.logic >= 3
    if given.kind == "timer-fired" or again or (given.kind in _OF_A_SUM and closed):
        return (*receipts_left(state), d.Failed(time=given.time, reason=reason))
    return ()


def _site_unheard(state: ExperimentState, given: i.HandlingFailed, site: str, reason: Reason) -> Answer:
    member = state.members.get(site)
    if given.kind == "joined" and member is not None and member.standing not in _SETTLED:
        return (d.SiteDeclined(site=site, reason=reason),)
    if given.kind == "declined" and state.logic >= 3 and member is not None:
        here = 0 if state.round is None or site not in state.round.parts else state.round.base_of(site)
        waits = _site_unheard(state, given.model_copy(update={"kind": "round-failed", "round": here}), site, reason)
        return (d.SiteDeclined(site=site, reason=reason), *waits) if member.standing is not Standing.EXCLUDED else ()
    part = None if state.round is None else state.round.parts.get(site)
    if state.round is None or part is None or state.round.base_of(site) != given.round or not takes_more(state):
        return ()
    if part.reported:
        return ()
    return (*supersede_attempt(state, site), d.SiteFailed(site=site, reason=reason))


@handles(i.Outage)
def take_outage(state: ExperimentState, given: i.Outage) -> Answer:
    """Nothing could be received for a while. Records `TimersMoved`: sites get that time back."""
    # Negative where the machine's clock was set back between two starts: the time that remains is what counts.
    lost = given.time - given.since
    if lost == 0 or not state.timers:
        return ()
    return (d.TimersMoved(timers={name: due + lost for name, due in state.timers.items()}),)


@handles(i.DiskFull)
def disk_full(state: ExperimentState, given: i.DiskFull) -> Answer:
    """The coordinator's disk is full. Records `Paused` with that reason; a pause of the researcher stays."""
    return () if state.phase is Phase.PAUSED else (paused_by(state, given.time, Reason.DISK_FULL),)


@handles(i.DiskFree)
def disk_free(state: ExperimentState, given: i.DiskFree) -> Answer:
    """There is space again. Records `Resumed` where only the full disk made the experiment wait."""
    if state.phase is not Phase.PAUSED or state.paused_because is not Reason.DISK_FULL:
        return ()
    return (d.Resumed(timers={name: given.time + left for name, left in state.remaining.items()}),)


@handles(i.Input)
def ignore_report(state: ExperimentState, given: i.Input) -> Answer:
    """A worker's report or a timer that the experiment has left behind. Records nothing."""
    return ()
