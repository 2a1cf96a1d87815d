"""What each kind of input means: one small function a kind, (state, input) → decisions or a reason to refuse.

Handlers record; what follows from the record is `rules.advance`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core import quorum, rules
from coordinator.core.admission import judge
from coordinator.core.state import ExperimentState, Phase, Standing, Step, Timer
from messages import codec, kinds
from messages.reasons import Reason
from messages.scores import SplitScores

Decided = tuple[d.AnyDecision, ...]
Answer = Decided | Reason
Handler = Callable[[ExperimentState, Any], Answer]

TRANSFERS = 3
"""How often a transfer whose bytes do not match its digest is asked for before it is refused."""

Wanted = TypeVar("Wanted", bound=kinds.Body)


def _body(given: i.Received, model: type[Wanted]) -> Wanted:
    """The event's body as its kind's model, which decoding has made it."""
    body = given.event.body
    if not isinstance(body, model):
        raise TypeError(f"{given.event.kind} goes to another handler")
    return body


# researchers


def first_start(given: i.Received) -> Decided:
    """experiment-start with an id that is free."""
    return (judge(given),)


def start_again(state: ExperimentState, given: i.Received) -> Answer:
    """experiment-start with an id that is taken: the same content is no news, other content is refused."""
    body, found = _body(given, kinds.ExperimentStart), given.file_check
    if found is not None and found.digest == state.digest:
        return ()
    # The very file that was accepted, whatever the model of today finds in it.
    if codec.pack(body.experiment) == codec.pack(dict(state.file)):
        return ()
    return (d.StartRefused(experiment=state.id, event=given.event.id, reason=Reason.ID_TAKEN),)


def abort(state: ExperimentState, given: i.Received) -> Answer:
    if given.event.sender != state.researcher:
        return Reason.NOT_THE_OWNER
    return (*_left_pending(state), d.Aborted(time=given.time))


def pause(state: ExperimentState, given: i.Received) -> Answer:
    if given.event.sender != state.researcher:
        return Reason.NOT_THE_OWNER
    return (_paused(state, given.time, None),)


def resume(state: ExperimentState, given: i.Received) -> Answer:
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
    # It joined after this round had begun: it takes part from the next one.
    return None if site in state.round.parts else Reason.WRONG_ROUND


def joined(state: ExperimentState, given: i.Received) -> Answer:
    site, body = given.event.sender, _body(given, kinds.Joined)
    if (reason := _uninvited(state, site)) is not None:
        return reason
    if body.cases.train == 0:
        return Reason.NO_CASES
    return (d.SiteJoined(site=site, train=body.cases.train),)


def declined(state: ExperimentState, given: i.Received) -> Answer:
    site, body = given.event.sender, _body(given, kinds.Declined)
    if (reason := _uninvited(state, site)) is not None:
        return reason
    answer: Decided = (d.SiteDeclined(site=site, reason=body.reason),)
    part = state.round.parts.get(site) if state.round is not None and state.round.closed_at is None else None
    if part is not None and not part.reported:
        return (*_superseded(state, site), *answer, d.SiteFailed(site=site, reason=body.reason))
    return answer


def leaving(state: ExperimentState, given: i.Received) -> Answer:
    site = given.event.sender
    if (reason := _uninvited(state, site)) is not None:
        return reason
    if state.members[site].standing is not Standing.JOINED:
        return ()
    return (d.SiteAway(site=site),)


def round_accepted(state: ExperimentState, given: i.Received) -> Answer:
    return _outside(state, given) or (d.SiteAccepted(site=given.event.sender),)


def weights_ready(state: ExperimentState, given: i.Received) -> Answer:
    """Its receipt waits until the whole update is verified and stored, or refused for good."""
    event, body = given.event, _body(given, kinds.WeightsReady)
    if (reason := _outside(state, given)) is not None:
        return reason
    if state.round is None or state.manifest is None or state.round.step is not Step.UPDATES:
        return Reason.WRONG_STATE
    part = state.round.parts[event.sender]
    if part.stored:
        return Reason.DUPLICATE
    if body.transfer.round != event.round:
        return Reason.WRONG_ROUND
    if part.update is not None and body.transfer.attempt <= part.update.attempt:
        return Reason.OLDER_ATTEMPT if body.transfer.attempt < part.update.attempt else Reason.DUPLICATE
    bad = None
    if body.transfer.manifest.codec != state.codec.name:
        bad = Reason.WRONG_CODEC
    elif not body.transfer.manifest.same_tensors(state.manifest):
        bad = Reason.WRONG_SHAPE
    elif body.cases_used == 0:
        bad = Reason.NO_CASES
    elif body.validation is not None and _foreign(state, body.validation):
        bad = Reason.MALFORMED
    superseded = _superseded(state, event.sender)
    if bad is not None:
        return (*superseded, d.SiteFailed(site=event.sender, reason=bad), _told(given, bad))
    announced = d.UpdateAnnounced(
        site=event.sender,
        attempt=body.transfer.attempt,
        seal=body.transfer.seal,
        chunk_bytes=body.transfer.manifest.chunk_bytes,
        event=event.id,
        cases_used=body.cases_used,
        validation=body.validation,
    )
    return (*superseded, announced)


def _foreign(state: ExperimentState, scores: SplitScores) -> bool:
    """Whether scores are told of what the experiment does not ask for: names of regions would be a site's own words."""
    regions = {name for told in scores.metrics.values() for name in told}
    regions |= {name for row in scores.rows or () for name in row}
    return not regions <= set(state.experiment.task.regions)


def _told(given: i.Received, reason: Reason) -> d.Refused:
    event = given.event
    return d.Refused(event=event.id, kind=event.kind, sender=event.sender, reason=reason, round=event.round)


def _superseded(state: ExperimentState, site: str) -> Decided:
    """An attempt that is under way and will not be waited for any more."""
    part = state.round.parts.get(site) if state.round is not None else None
    if state.round is None or part is None or part.update is None or part.stored:
        return ()
    event, number = part.update.event, state.round.number
    return (
        d.Refused(event=event, kind="weights-ready", sender=site, reason=Reason.OLDER_ATTEMPT, round=number),
        d.Settled(event=event, sender=site),
    )


def round_failed(state: ExperimentState, given: i.Received) -> Answer:
    body = _body(given, kinds.RoundFailed)
    if (reason := _outside(state, given)) is not None:
        return reason
    site = given.event.sender
    if state.round is not None and state.round.parts[site].reported:
        return Reason.DUPLICATE
    return (*_superseded(state, site), d.SiteFailed(site=site, reason=body.reason))


def evaluated(state: ExperimentState, given: i.Received) -> Answer:
    body = _body(given, kinds.Evaluated)
    if (reason := _outside(state, given)) is not None:
        return reason
    if state.round is None or state.round.step is not Step.SCORES:
        return Reason.WRONG_STATE
    if state.round.parts[given.event.sender].reported:
        return Reason.DUPLICATE
    expected = {"final": state.models[state.completed + 1].digest}
    if state.selected is not None and state.selected != state.completed:
        expected["selected"] = state.models[state.selected + 1].digest
    for label, scores in body.scores.items():
        if expected.get(label) != scores.model_digest:
            return Reason.WRONG_DIGEST
        if any(_foreign(state, split) for split in scores.splits.values()):
            return Reason.MALFORMED
    return (d.SiteEvaluated(site=given.event.sender, scores=dict(body.scores)),)


def late(state: ExperimentState, given: i.Received) -> Answer:
    """A report about a round in a phase in which none is open."""
    return _outside(state, given) or Reason.WRONG_STATE


# the coordinator's own


def initialised(state: ExperimentState, given: i.Initialised) -> Answer:
    if state.models:
        return ()
    return (d.InitialModel(manifest=given.manifest, seal=given.seal, digest=given.digest, wire=given.wire),)


def initialisation_failed(state: ExperimentState, given: i.InitialisationFailed) -> Answer:
    return () if state.models else (d.Failed(time=given.time, reason=given.reason),)


def _awaited(state: ExperimentState, site: str, number: int, attempt: int) -> bool:
    """Whether a worker's report is about an update that is still waited for."""
    if state.round is None or state.round.number != number or state.round.closed_at is not None:
        return False
    part = state.round.parts.get(site)
    return part is not None and part.update is not None and not part.stored and part.update.attempt == attempt


def update_stored(state: ExperimentState, given: i.UpdateStored) -> Answer:
    if not _awaited(state, given.site, given.round, given.attempt):
        return ()
    update = state.round.parts[given.site].update if state.round is not None else None
    if update is None:
        return ()
    return (d.UpdateTaken(site=given.site), d.Settled(event=update.event, sender=given.site))


def update_bad(state: ExperimentState, given: i.UpdateBad) -> Answer:
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


def aggregated(state: ExperimentState, given: i.Aggregated) -> Answer:
    if state.round is None or state.round.number != given.round:
        return ()
    return (rules.complete_round(state, state.round, given),)


def aggregation_failed(state: ExperimentState, given: i.AggregationFailed) -> Answer:
    if state.round is None or state.round.number != given.round:
        return ()
    return (d.Failed(time=given.time, reason=Reason.AGGREGATION_FAILED),)


def timer_fired(state: ExperimentState, given: i.TimerFired) -> Answer:
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
    if quorum.met(state.round, state.experiment):
        return rules.close_round(state, state.round, given.time)
    return (d.TimerDone(timer=Timer.GRACE),)


def outage(state: ExperimentState, given: i.Outage) -> Answer:
    # Negative where the machine's clock was set back between two starts: the time that remains is what counts.
    lost = given.time - given.since
    if lost == 0 or not state.timers:
        return ()
    return (d.TimersMoved(timers={name: due + lost for name, due in state.timers.items()}),)


def disk_full(state: ExperimentState, given: i.DiskFull) -> Answer:
    return () if state.phase is Phase.PAUSED else (_paused(state, given.time, Reason.DISK_FULL),)


def disk_free(state: ExperimentState, given: i.DiskFree) -> Answer:
    if state.phase is not Phase.PAUSED or state.paused_because is not Reason.DISK_FULL:
        return ()
    return (d.Resumed(timers={name: given.time + left for name, left in state.remaining.items()}),)


def ignore(state: ExperimentState, given: i.Input) -> Answer:
    """A worker's report or a timer that the experiment has left behind."""
    return ()
