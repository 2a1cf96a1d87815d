"""Sites whose operators registered programs, through whole experiments: the real services, the bus in memory."""

from __future__ import annotations

from pathlib import Path

import external_rig as rig
import numpy as np
import pytest
from brokers import PATIENCE

from messages import kinds
from messages.reasons import Reason


def test_two_sites_learn_one_linear_model_with_a_program_each(tmp_path: Path) -> None:
    trainers = {site: {"linear": rig.register(tmp_path / f"programs-{site}")} for site in ("site-a", "site-b")}
    federation = rig.ProgramFederation(tmp_path, trainers)
    try:
        federation.publish(rig.experiment(sites=["site-a", "site-b"]))
        end = federation.until("experiment-complete", PATIENCE).body
        assert isinstance(end, kinds.ExperimentComplete)
        rounds = [event.body for event in federation.of("round-complete")]
        assert all(one.contributors.keys() == {"site-a", "site-b"} for one in rounds)  # type: ignore[attr-defined]
        ready = federation.of("weights-ready")
        losses = [[event.body.loss for event in ready if event.round == number] for number in (1, 2, 3)]  # type: ignore[attr-defined]
        assert np.mean(losses[0]) > np.mean(losses[1]) > np.mean(losses[2])
        assert len(federation.of("evaluated")) == 2
    finally:
        federation.close()


@pytest.mark.parametrize("why", ["no such name", "another hash"])
def test_a_site_that_cannot_run_the_program_declines(why: str, tmp_path: Path) -> None:
    program = rig.register(tmp_path / "programs")
    registered = {"other": program} if why == "no such name" else {"linear": program | {"sha256": "0" * 64}}
    federation = rig.ProgramFederation(tmp_path, {"site-a": registered})
    try:
        federation.publish(rig.experiment())
        told = federation.until("declined", PATIENCE)
        assert told.body.reason is Reason.UNSUPPORTED  # type: ignore[attr-defined]
    finally:
        federation.close()
