"""A step that exists in tests only: before a round's updates each site says a word. What adding a step takes.

A row for each kind of event, a row at the coordinator, a row at the site; and a plan whose rounds have the step.
"""

from __future__ import annotations

import pytest

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core import machine
from coordinator.core.plans import table as plans
from coordinator.core.plans.aggregation import Aggregation
from coordinator.core.state import UPDATES, ExperimentState, Phase, Round
from coordinator.core.steps import table as steps
from coordinator.core.steps.base import Answer, Decided, StepRow, body_of
from messages import kinds
from messages.envelope import Event
from messages.names import DOWNLINK, UPLINK
from messages.reasons import Reason
from site_agent.core import agenda
from site_agent.core import steps as site_steps
from site_agent.core.jobs import Job
from site_agent.core.jobs import Phase as SitePhase

REHEARSAL = "rehearsal"


class RehearsalStart(kinds.Body):
    sites: kinds.Sites
    within: float


class Rehearsed(kinds.Body):
    word: kinds.Word


def _body(state: ExperimentState, round_: Round) -> kinds.Body:
    return RehearsalStart(sites=sorted(round_.parts), within=60.0)


def _rehearsed(state: ExperimentState, round_: Round, given: i.Received) -> Answer:
    """rehearsed, when a site has said its word. Records `StepAnswered`."""
    return (d.StepAnswered(site=given.event.sender, answer=body_of(given, Rehearsed).as_plain()),)


def _overdue(state: ExperimentState, round_: Round, now: float) -> Decided:
    return (d.Failed(time=now, reason=Reason.QUORUM_NOT_MET),)


ROW = StepRow(
    name=REHEARSAL,
    phase=Phase.RUNNING,
    opens="rehearsal-start",
    answers="rehearsed",
    takes_updates=False,
    within=lambda experiment: 60.0,
    body=_body,
    transfers=lambda state, round_: (),
    answered=_rehearsed,
    close=_overdue,
    overdue=_overdue,
)


class InTwoSteps(Aggregation):
    """Aggregation whose rounds begin with the rehearsal."""

    steps = (REHEARSAL, UPDATES)


def _read(event: Event, site: str) -> site_steps.Opened:
    body = event.body
    assert isinstance(body, RehearsalStart)
    return site_steps.Opened(tuple(body.sites), body.within)


def _answer(job: Job) -> kinds.Body:
    return Rehearsed(word=f"round-{job.round}")


SITE_ROW = site_steps.StepRow("rehearsal-start", "rehearsed", SitePhase.IDLE, _read, _answer)


def register(patch: pytest.MonkeyPatch) -> None:
    """Add the step to both sides, and give it to every aggregation."""
    patch.setitem(kinds.ROWS, ROW.opens, kinds.KindSpec(
        queue=DOWNLINK, body=RehearsalStart, history=True, senders=frozenset({"coordinator"})
    ))  # fmt: skip
    patch.setitem(kinds.ROWS, ROW.answers, kinds.KindSpec(
        queue=UPLINK, body=Rehearsed, history=True, senders=frozenset({"site"})
    ))  # fmt: skip
    patch.setattr(kinds, "ROUTES", {kind: spec.queue for kind, spec in kinds.KINDS.items()})
    patch.setitem(steps.ROWS, REHEARSAL, ROW)
    patch.setitem(plans.ROWS, "aggregation", InTwoSteps())
    patch.setattr(machine, "TABLE", machine.build_table(steps.STEPS.values(), (*machine.WIRE, ROW.answers)))
    patch.setitem(site_steps.ROWS, ROW.opens, SITE_ROW)
    patch.setattr(agenda, "TABLE", agenda.build_table(site_steps.STEPS, (*agenda.HEARD, ROW.opens)))
