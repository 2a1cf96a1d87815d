"""The step STATISTICS: before anything is trained, sites tell the fingerprint of their training cases.

It is round 0 of an experiment whose net is "auto". What is pooled, and the configuration that follows from it, is one
decision: the experiment goes on with that, or is complete where its plan is "statistics".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.planning.planner import NoConfiguration, plan_configuration
from coordinator.core.state import STATISTICS, ExperimentState, Member, Phase, Round
from coordinator.core.steps.base import Answer, Decided, StepRow, body_of, left_behind
from messages import kinds
from messages.reasons import Reason
from messages.statistics.fingerprint import (
    SAMPLED,
    DataFingerprint,
    count_bins,
    pool_fingerprints,
    thin_fingerprint,
)
from messages.statistics.histograms import Histogram

_NO_PLAN = (NoConfiguration, ValueError, ArithmeticError)
ROUNDED_UP = 3
"""Counts of a site add up to at most so many times its cases: each may be rounded by half, and so may their number."""


def make_body(state: ExperimentState, round_: Round) -> kinds.StatisticsStart:
    """statistics-start."""
    return kinds.StatisticsStart(sites=sorted(round_.parts), within=state.experiment.rounds.train_within)


def take_statistics(state: ExperimentState, round_: Round, given: i.Received) -> Answer:
    """statistics-ready, when a site has measured its training cases.

    Records `StepAnswered`; `SiteFailed` where it tells of more cases than it joined with, or of other names than the
    file's.
    """
    event, body = given.event, body_of(given, kinds.StatisticsReady)
    bad = _find_fault(state, state.members[event.sender], body.statistics)
    if bad is None:
        return (d.StepAnswered(site=event.sender, answer=body.model_dump(mode="json", exclude_none=True)),)
    told = d.Refused(event=event.id, kind=event.kind, sender=event.sender, reason=bad, round=event.round)
    return (d.SiteFailed(site=event.sender, reason=bad), told)


def _find_fault(state: ExperimentState, member: Member, told: DataFingerprint) -> Reason | None:
    if told.cases > member.train:
        return Reason.TOO_MANY_CASES
    task, most = state.experiment.task, ROUNDED_UP * told.cases
    if not told.names_only(task.channels, task.concepts):
        return Reason.MALFORMED
    counts = [one.total for one in _list_by_case(told)] + [one.cases for one in told.classes.values()]
    counts += [-(-one.total // SAMPLED) for one in told.intensities.values()]
    return Reason.TOO_MANY_CASES if max(counts) > most else None


def _list_by_case(told: DataFingerprint) -> Iterable[Histogram]:
    """Histograms that count cases."""
    volumes = (one.volumes for one in told.classes.values())
    return (*told.spacing, *told.shape, *told.cropped, *told.extent, told.kept, *volumes)


Told = Mapping[str, kinds.StatisticsReady]


def close_statistics(state: ExperimentState, round_: Round, now: float) -> Decided:
    """Pool what is here, and plan by it. Where nothing follows from it, an experiment that was to train has failed.

    No site counts more than all others together, so that a median lies where honest sites have cases. A site without
    which the others pool, or a configuration follows, is left out.
    """
    told: Told = {
        site: kinds.StatisticsReady.model_validate(dict(round_.parts[site].answer or {})) for site in round_.reported
    }
    left_out, _told = left_behind(round_)
    broken: dict[str, Reason] = {}
    if state.logic >= 6:
        told, broken = _leave_out_broken(state, told)
    named = tuple(d.SiteFailed(site=site, reason=reason) for site, reason in sorted(broken.items()))
    if broken and len(told) < state.experiment.least_sites:
        return (*named, d.Failed(time=now, reason=Reason.QUORUM_NOT_MET))
    try:
        pooled = pool_fingerprints([one.statistics for one in told.values()])
    except ValueError:  # together they are more than a fingerprint may hold, which no honest data are
        return (d.Failed(time=now, reason=Reason.NO_CONFIGURATION),)
    memory = _find_memory(told)
    try:
        configuration = plan_configuration(state.experiment, pooled, memory)
    except _NO_PLAN:  # or extremes that no configuration may hold
        if state.experiment.plan.kind != "statistics":
            return (*named, d.Failed(time=now, reason=Reason.NO_CONFIGURATION))
        configuration = None
    return (
        d.StatisticsPooled(
            time=now,
            statistics=pooled,
            contributors={site: one.statistics.cases for site, one in told.items()},
            left_out=dict(sorted({**round_.left_out, **left_out, **broken}.items())),
            memory_mib=memory,
            configuration=configuration,
        ),
    )


def _find_memory(told: Told) -> int | None:
    return min((one.memory_mib for one in told.values() if one.memory_mib), default=None)


def _leave_out_broken(state: ExperimentState, told: Told) -> tuple[Told, dict[str, Reason]]:
    """What sites told, as it counts, without those that break it; and these, with the reason.

    While it does not pool, the site whose histogram has the most bins goes. Where no configuration follows, the one
    site goes without which one follows: of several, one that gives none alone, then the one of most cases.
    """
    broken: dict[str, Reason] = {}
    counted = _cap_cases(told)
    while len(counted) > 1 and not _pools(counted):
        worst = max(sorted(counted), key=lambda site: (count_bins(told[site].statistics), told[site].statistics.cases))
        broken[worst] = Reason.MALFORMED
        counted = _cap_cases({site: one for site, one in told.items() if site not in broken})
    if len(counted) > 1 and not _gives_plan(state, counted):
        others = {site: _cap_cases({name: told[name] for name in counted if name != site}) for site in sorted(counted)}
        blamed = [site for site, rest in others.items() if _gives_plan(state, rest)]
        if blamed:
            worst = max(
                blamed,
                key=lambda site: (not _gives_plan(state, {site: told[site]}), told[site].statistics.cases),
            )
            broken[worst] = Reason.NO_CONFIGURATION
            counted = others[worst]
    return counted, broken


def _cap_cases(told: Told) -> dict[str, kinds.StatisticsReady]:
    """No site of three or more counts as many cases as all others together."""
    weights = {site: _count_weight(one.statistics) for site, one in told.items()}
    total, capped = sum(weights.values()), dict(told)
    for site, weight in weights.items():
        most = max(1, total - weight - 1)
        if len(told) > 2 and weight > most:
            thinned = thin_fingerprint(told[site].statistics, most, weight)
            capped[site] = told[site].model_copy(update={"statistics": thinned})
    return capped


def _count_weight(told: DataFingerprint) -> int:
    """How many cases it counts as: as the histogram that counts the most, which rounding makes more than there are."""
    counts = [one.total for one in _list_by_case(told)] + [one.total // SAMPLED for one in told.intensities.values()]
    return max(told.cases, *counts)


def _pools(told: Told) -> bool:
    try:
        pool_fingerprints([one.statistics for one in told.values()])
    except ValueError:
        return False
    return True


def _gives_plan(state: ExperimentState, told: Told) -> bool:
    try:
        pooled = pool_fingerprints([one.statistics for one in told.values()])
        plan_configuration(state.experiment, pooled, _find_memory(told))
    except _NO_PLAN:
        return False
    return True


def fail_overdue(state: ExperimentState, round_: Round, now: float) -> Decided:
    """Too few told anything."""
    return (d.Failed(time=now, reason=Reason.QUORUM_NOT_MET),)


ROW = StepRow(
    name=STATISTICS,
    phase=Phase.RUNNING,
    opens="statistics-start",
    answers="statistics-ready",
    takes_updates=False,
    within=lambda experiment: experiment.rounds.train_within,
    body=make_body,
    transfers=lambda state, round_: (),
    answered=take_statistics,
    close=close_statistics,
    overdue=fail_overdue,
)
