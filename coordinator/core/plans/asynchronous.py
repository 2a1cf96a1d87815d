"""Asynchronous: each site at its own pace. The next model is made as soon as a buffer of K updates is full (Nguyen et
al. 2022, "Federated Learning with Buffered Asynchronous Aggregation", arXiv 2106.06639: FedBuff).

A round is one model in the making, and closes with the K updates that came first. Who is not among them goes on with
what it does: its update goes into a later round, and counts the less the more models were made since it began. A site
has one update under way at most, so it is in a buffer once. It begins anew, with the newest model, once its update is
in a model, was refused, or began more than `plan.max_staleness` models ago.
"""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.core import decisions as d
from coordinator.core import quorum
from coordinator.core.plans.base import Plan
from coordinator.core.plans.buffering import is_too_stale
from coordinator.core.state import UPDATES, ExperimentState, Part, Round
from coordinator.core.steps.base import Decided
from messages.reasons import Reason


class Asynchronous(Plan):
    """Statistics and the final evaluation are every site's, with the experiment's quorum."""

    def is_enough(self, state: ExperimentState, round_: Round) -> bool:
        if round_.step != UPDATES:
            return super().is_enough(state, round_)
        return quorum.count_reported(round_) >= (state.experiment.plan.buffer or 1)

    def waits_for_others(self, round_: Round) -> bool:
        return round_.step != UPDATES

    def choose_contributors(self, state: ExperimentState, round_: Round) -> tuple[str, ...]:
        """The first K that came, in the order of their names."""
        came = sorted(round_.reported, key=lambda site: round_.parts[site].place)
        return tuple(sorted(came[: state.experiment.plan.buffer]))

    def list_going_on(self, state: ExperimentState) -> Mapping[str, int]:
        """Who is at work, or has an update that is not in a model yet, and not too stale for the round that opens."""
        round_, joined = state.round, set(state.joined)
        if round_ is None:
            return {}
        busy = {site: round_.base_of(site) for site, part in round_.parts.items() if site in joined and _is_busy(part)}
        return {site: base for site, base in busy.items() if not is_too_stale(state, base, state.completed + 1)}

    def leave_behind(self, state: ExperimentState, round_: Round) -> tuple[dict[str, Reason], Decided]:
        """Of the last round all who are not in it. Else who failed, never began, or is too stale for the next round: an
        update that has come is not used then. Who goes on is not left out, though it may be away."""
        used, last = self.choose_contributors(state, round_), self.is_trained(state.experiment, round_.number)
        left_out: dict[str, Reason] = {}
        told: Decided = ()
        for site, part in sorted(round_.parts.items()):
            stale = is_too_stale(state, round_.base_of(site), round_.number + 1)
            if site in used or not (last or stale or part.failed or (part.absent and not _is_busy(part))):
                continue
            if part.update is not None and (last or stale):
                left_out[site] = Reason.STRAGGLER if last else Reason.TOO_STALE
                told += _drop_update(round_, site, Reason.LATE if last else Reason.TOO_STALE)
            else:
                left_out[site] = part.failed or (Reason.ABSENT if last or part.absent else Reason.TOO_STALE)
        return left_out, told


def _is_busy(part: Part) -> bool:
    return part.failed is None and (part.accepted or part.update is not None)


def _drop_update(round_: Round, site: str, reason: Reason) -> Decided:
    """An update that has come, or is under way, is not used."""
    part = round_.parts[site]
    if part.update is None:
        return ()
    event, number = part.update.event, round_.base_of(site)
    told = d.Refused(event=event, kind="weights-ready", sender=site, reason=reason, round=number)
    dropped = d.UpdateLeftOut(site=site, reason=reason)
    return (dropped, told) if part.stored else (dropped, told, d.Settled(event=event, sender=site))
