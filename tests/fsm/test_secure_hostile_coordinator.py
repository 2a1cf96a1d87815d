"""A coordinator that lies in a secure round, against real site agents: they give the round up, and reveal nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from secure_consortium import run_secure, start_secure
from signed_consortium import THREE
from virtual_consortium import VirtualConsortium

from coordinator.core.plans import secure
from messages import kinds
from messages.reasons import Reason


def test_weights_that_leave_one_update_alone_in_the_sum_are_given_up_by_all_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, victim = secure.weigh_sites, THREE[0]

    def leave_alone(cases: Mapping[str, int], **how: Any) -> dict[str, int]:
        return {**dict.fromkeys(cases, 1), victim: honest(cases, **how)[victim]}

    def work(consortium: VirtualConsortium) -> None:
        start_secure(consortium)
        consortium.until("round-void", 7200.0)

    monkeypatch.setattr(secure, "weigh_sites", leave_alone)
    consortium = run_secure(tmp_path, work)
    void = consortium.of("round-void")[0][1].body
    assert isinstance(void, kinds.RoundVoid)
    assert {site: void.left_out.get(site) for site in THREE[1:]} == dict.fromkeys(THREE[1:], Reason.OTHER_CONTEXT)
    assert not consortium.of("secure-closing")
