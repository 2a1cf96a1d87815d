"""Outside its allowed hours a site says so, and the coordinator does not wait for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from coordinator_kit import SITES
from test_agenda import WAYS, after, does, round_start
from test_coordinator_machine import Run

from coordinator import decisions as d
from coordinator.state import Phase, Timer
from messages.kinds import RoundAccepted, RoundFailed
from messages.reasons import Reason
from site_agent.work import Phase as SitePhase
from site_agent.work import Say


@pytest.mark.parametrize(
    ("opens_in", "says"), [(99.0, RoundAccepted()), (100.0, RoundFailed(reason=Reason.OUTSIDE_HOURS))]
)
def test_a_round_that_would_be_over_before_the_hours_begin_is_refused_with_its_code_and_another_waited_for(
    opens_in: float, says: RoundAccepted | RoundFailed
) -> None:
    agenda, _ = after(WAYS[SitePhase.IDLE])
    _, _, effects = does(agenda, round_start(opens_in=opens_in))  # of 100 s
    assert [one.body for one in effects if isinstance(one, Say)] == [says]


def test_the_round_closes_without_a_site_that_is_outside_its_hours_as_soon_as_the_others_are_here() -> None:
    run = Run()
    run.join()
    run.initial()
    run.wire(RoundFailed(reason=Reason.OUTSIDE_HOURS), "site-b", number=1)
    for site in ("site-a", "site-c"):
        run.report(site, 1)
    closed = [one for one in run.decided if isinstance(one, d.RoundClosed)]
    assert [(list(one.contributors), one.left_out) for one in closed] == [
        (["site-a", "site-c"], {"site-b": Reason.OUTSIDE_HOURS})
    ]
    assert run.state is not None
    assert run.state.phase is Phase.AGGREGATING
    assert Timer.GRACE not in run.state.timers, "nobody waited for grace"
    run.aggregated(1)
    assert run.state.round is not None
    assert set(run.state.round.parts) == set(SITES), "the next round asks it again"
