"""When a round may close: number of sites, share of training cases, everybody heard."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.core.roll import Roll
from coordinator.core.state import Part, Round
from messages.experiment import Experiment

LEAST_GRACE = 60.0
"""Seconds; the default grace is this or half of what the quorum took, whichever is longer."""


_REPORTED, _REPORTED_CASES, _HEARD, _CASES = range(4)


def make_roll(parts: Mapping[str, Part], cases: Mapping[str, int]) -> Roll[Part]:
    """The parts of a round that opens, with the sums that the questions below are answered from."""
    return Roll(
        parts,
        lambda _site, part: int(part.reported),
        lambda site, part: cases[site] if part.reported else 0,
        lambda _site, part: int(part.reported or part.failed is not None or part.absent),
        lambda site, _part: cases[site],
    )


def is_met(round_: Round, experiment: Experiment) -> bool:
    """Whether enough sites with enough of the frozen cases have reported."""
    return (
        round_.parts.sums[_REPORTED] >= experiment.least_sites
        and case_share(round_) >= experiment.quorum.least_case_share
    )


def count_reported(round_: Round) -> int:
    """How many sites have reported."""
    return round_.parts.sums[_REPORTED]


def case_share(round_: Round) -> float:
    """Share of the taking-part sites' training cases that is reported; 1 where no site has any."""
    sums = round_.parts.sums
    total = sums[_CASES]
    return sums[_REPORTED_CASES] / total if total else 1.0


def everybody_heard(round_: Round) -> bool:
    """Whether each taking-part site has reported, failed, or is absent."""
    return round_.parts.sums[_HEARD] == len(round_.parts)


def everybody_reported(round_: Round) -> bool:
    """Whether each taking-part site has reported."""
    return round_.parts.sums[_REPORTED] == len(round_.parts)


def grace_seconds(round_: Round, experiment: Experiment, now: float) -> float:
    """Seconds that other sites still get once quorum is met at `now`."""
    if experiment.rounds.grace is not None:
        return experiment.rounds.grace
    return max(LEAST_GRACE, (now - round_.started) / 2)
