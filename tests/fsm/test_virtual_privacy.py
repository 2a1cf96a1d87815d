"""An experiment with differential privacy: what its sites tell, and what they do not; real services in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import plain
from virtual_consortium import VirtualConsortium, read_events

from messages import kinds
from messages.envelope import Event
from messages.ground.virtual.clock import VirtualClock
from site_agent.privacy.accountant import find_epsilon

SITES = ("site-a", "site-b")
HOUR = 900.0
ROUNDS = {"count": 2, "enrol_within": HOUR, "train_within": 2 * HOUR, "grace": HOUR, "extensions": 0}
DP: dict[str, Any] = {"noise_multiplier": 1.5, "clip_norm": 0.5, "sample_rate": 0.25}


def private(**changes: Any) -> dict[str, Any]:
    """A file with `[privacy.dp]`."""
    return plain(sites=[*SITES], rounds=ROUNDS, privacy={"dp": DP | changes}, quorum={"least_sites": 1})


def run(folder: Path, file: dict[str, Any], end: str) -> list[Event]:
    """All that the sites said on record."""
    clock = VirtualClock()

    def body() -> None:
        consortium = VirtualConsortium(folder, clock, lambda _site, _round: 10.0, SITES)
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=file))
        consortium.until(end, 24 * HOUR)
        consortium.close()

    clock.run(body)
    return read_events(folder, SITES)


def test_a_private_site_tells_what_it_will_spend_and_after_each_round_what_it_has_spent(tmp_path: Path) -> None:
    said = run(tmp_path, private(), "experiment-complete")
    joined = {one.sender: one.body for one in said if isinstance(one.body, kinds.Joined)}
    assert joined.keys() == set(SITES)
    for site, train in {"site-a": 28, "site-b": 42}.items():
        plan = joined[site].privacy
        assert plan is not None
        assert (plan.unit, plan.patients, plan.steps) == ("patient", train, 8)
        assert (plan.sample_rate, plan.noise_multiplier, plan.clip_norm) == (0.25, 1.5, 0.5)
        assert plan.delta == pytest.approx(1e-5)
        assert plan.epsilon == pytest.approx(find_epsilon(1.5, 0.25, 8, 1e-5))
    updates = [one.body for one in said if isinstance(one.body, kinds.WeightsReady)]
    assert len(updates) == 4
    for number in (1, 2):
        spent = [one.epsilon for one in updates if one.transfer.round == number]
        assert spent == pytest.approx(2 * [find_epsilon(1.5, 0.25, 4 * number, 1e-5)])
    assert all(one.loss is None for one in updates)  # it follows from the patients, and has no noise


def test_without_differential_privacy_not_a_byte_of_it_is_said(tmp_path: Path) -> None:
    said = run(tmp_path, private() | {"privacy": {}}, "experiment-complete")
    assert {"joined", "weights-ready"} <= {one.kind for one in said}
    for one in said:
        assert b"privacy" not in one.raw
        assert b"epsilon" not in one.raw


def test_a_site_declines_what_would_pass_the_epsilon_that_the_file_allows(tmp_path: Path) -> None:
    said = run(tmp_path, private(epsilon_max=0.5), "experiment-failed")
    assert {one.body.reason for one in said if isinstance(one.body, kinds.Declined)} == {"privacy-budget-spent"}
    assert not [one for one in said if one.kind == "joined"]
