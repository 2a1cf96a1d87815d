"""Secure rounds in the coordinator's core, with its worker and sites that are no services (Bonawitz et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from secure_run import NAMES, SecureRun, carry_out, mean_of

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.state import Phase

Make = Callable[..., SecureRun]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    carry_out(monkeypatch)
    return lambda *sites, **changes: SecureRun(tmp_path, sites or NAMES[:4], **changes)


def test_a_round_has_five_steps_and_its_model_is_the_mean_of_what_nobody_saw(make: Make) -> None:
    run = make()
    assert [run.step() for _ in range(5)] == ["keys", "shares", "masked", "consent", "reveal"]
    assert run.now.phase is Phase.AGGREGATING
    made = run.aggregate()
    assert isinstance(made, i.Aggregated)
    for name, expected in mean_of(run, 1, run.names).items():
        np.testing.assert_allclose(run.model(2)[name], expected, rtol=0, atol=1e-6)
    assert made.pooled is not None
    assert (made.pooled.cases, made.pooled.loss) == (100, 0.5)
    (told,) = [one for one in run.decided if isinstance(one, d.RoundCompleted)]
    assert told.contributors == {"site-a": 10, "site-b": 20, "site-c": 30, "site-d": 40}
    assert (run.round.number, run.round.step) == (2, "keys")
