"""When a round may close: number of sites, share of training cases, everybody heard."""

from __future__ import annotations

from coordinator.state import Round
from messages.experiment import Experiment

LEAST_GRACE = 60.0
"""Seconds; the default grace is this or half of what the quorum took, whichever is longer."""


def met(round_: Round, experiment: Experiment) -> bool:
    """Whether enough sites with enough of the frozen cases have reported."""
    reported = round_.reported
    return len(reported) >= experiment.least_sites and share(round_) >= experiment.quorum.least_case_share


def share(round_: Round) -> float:
    """Share of the taking-part sites' training cases that is reported; 1 where no site has any."""
    total = sum(round_.cases.values())
    return sum(round_.cases[site] for site in round_.reported) / total if total else 1.0


def everybody_heard(round_: Round) -> bool:
    """Whether each taking-part site has reported, failed, or is absent."""
    return all(part.reported or part.failed is not None or part.absent for part in round_.parts.values())


def grace(round_: Round, experiment: Experiment, now: float) -> float:
    """Seconds that other sites still get once quorum is met at `now`."""
    if experiment.rounds.grace is not None:
        return experiment.rounds.grace
    return max(LEAST_GRACE, (now - round_.started) / 2)
