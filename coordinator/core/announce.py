"""The events that tell an experiment's state: built from the state alone, to be said again at any time."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.core import models
from coordinator.core.ensembles import combine_own
from coordinator.core.state import ExperimentState, Phase
from coordinator.core.steps.table import row_of
from messages import kinds
from messages.abilities import WORDS_3
from messages.kinds import Body
from messages.reasons import Reason

MOST_EXCLUDED = 5
"""Excluded sites that a standing tells of, the last ones: it holds eight events. One fewer beside statistics."""


STATISTICS_ALONE = "end"
"""The attempt of a statistics-pooled that ends its experiment."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """One event of the coordinator on `downlink`; the same fields always give the same event id."""

    kind: str
    experiment: str
    body: Body
    round: int = 0
    attempt: int | str = 1


def announce_accepted(state: ExperimentState) -> Announcement:
    body = kinds.ExperimentAccepted(
        experiment=dict(state.file),
        digest=state.digest,
        researcher=state.researcher,
        original=state.original,
        enrol_within=state.experiment.rounds.enrol_within,
    )
    return Announcement("experiment-accepted", state.id, body)


def round_opened(state: ExperimentState) -> Announcement:
    """The event that opened the open step: round-start, evaluation-start, …"""
    if state.round is None:
        raise ValueError("no round is open")
    row = row_of(state.round)
    return Announcement(row.opens, state.id, row.body(state, state.round), state.round.number, state.round.opening)


def complete_body(state: ExperimentState) -> kinds.ExperimentComplete:
    if state.outcome is None:
        raise ValueError("not complete")
    combined = combine_own(state, state.outcome.weights)
    if combined is None:
        model = models.candidate_of(state, state.outcome.label, state.outcome.rounds)
    else:
        sent = next(iter(combined.transfers().values()))
        model = kinds.Candidate(label=combined.label, transfer=sent, model_digest=combined.model_digest)
    final = state.models.get(state.completed + 1)
    return kinds.ExperimentComplete(
        model=model,
        model_round=state.outcome.rounds,
        final_digest=model.model_digest if final is None else final.digest,
        test=state.outcome.test,
        rounds=state.completed,
        combined=combined,
    )


def announce_statistics(state: ExperimentState) -> Announcement:
    """statistics-pooled: what the experiment goes on with, or ends with."""
    if state.measured is None:
        raise ValueError("nothing was measured")
    found = state.measured
    body = kinds.StatisticsPooled(
        statistics=found.statistics,
        contributors=dict(found.contributors),
        left_out={site: state.tellable_reason(reason) for site, reason in found.left_out.items()},
        memory_mib=found.memory_mib,
        configuration=found.configuration,
    )
    return Announcement("statistics-pooled", state.id, body, attempt=1 if state.ended is None else STATISTICS_ALONE)


def announce_ended(state: ExperimentState) -> Announcement:
    if state.phase is Phase.COMPLETE and state.outcome is None:
        return announce_statistics(state)
    if state.phase is Phase.COMPLETE:
        return Announcement("experiment-complete", state.id, complete_body(state), state.completed)
    if state.phase is Phase.FAILED and state.reason is not None:
        return Announcement("experiment-failed", state.id, kinds.ExperimentFailed(reason=state.reason))
    return Announcement("experiment-aborted", state.id, kinds.ExperimentAborted())


def announce_paused(state: ExperimentState) -> Announcement:
    body = kinds.ExperimentPaused(reason=state.paused_because)
    return Announcement("experiment-paused", state.id, body, attempt=state.pauses)


def announce_resumed(state: ExperimentState) -> Announcement:
    return Announcement("experiment-resumed", state.id, kinds.ExperimentResumed(), attempt=state.resumes)


def may_tell_excluded(state: ExperimentState) -> bool:
    """Whether all who are in the experiment, and who were, know the event that tells of excluded sites."""
    return state.may_use(WORDS_3, *state.excluded)


def announce_excluded(state: ExperimentState, site: str) -> Announcement:
    body = kinds.SiteExcluded(site=site, reason=state.members[site].reason or Reason.EXCLUDED)
    return Announcement("site-excluded", state.id, body, attempt=site)


Mark = tuple[Phase, int, tuple[int, int] | None, tuple[str, ...], bool]


def state_mark(state: ExperimentState) -> Mark:
    """What `current_announcements` follows from, cheap to compare: as long as it is the same, so are the events."""
    is_open = state.round is not None and state.round.closed_at is None
    opening = (state.round.number, state.round.opening) if state.round is not None and is_open else None
    return state.phase, state.pauses, opening, _told_excluded(state), state.measured is not None


def _told_excluded(state: ExperimentState) -> tuple[str, ...]:
    most = MOST_EXCLUDED if state.measured is None else MOST_EXCLUDED - 1
    return state.excluded[-most:] if state.excluded and may_tell_excluded(state) else ()


def current_announcements(state: ExperimentState) -> tuple[Announcement, ...]:
    """What a site that returns has to know (protocol rule 1)."""
    if state.ended is not None:
        return (announce_ended(state),)
    measured = () if state.measured is None else (announce_statistics(state),)
    told = [announce_accepted(state), *measured, *(announce_excluded(state, site) for site in _told_excluded(state))]
    if state.round is not None and state.round.closed_at is None:
        told.append(round_opened(state))
    if state.phase is Phase.PAUSED:
        told.append(announce_paused(state))
    return tuple(told)
