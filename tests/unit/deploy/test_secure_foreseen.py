"""What `konsil experiment check` says of secure rounds before anything is sent."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import plain
from secure_run import carry_out, secure_file

from deploy.cli.foresight import describe_masks, foresee_masks
from deploy.cli.requests import print_check
from messages.experiment import Experiment

SITES = tuple(f"site-{at:02}" for at in range(10))


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out(monkeypatch)


def lines_of(sites: tuple[str, ...], **more: Any) -> list[str]:
    """What is said of the masks of an experiment at these sites."""
    bounds = foresee_masks(Experiment.model_validate(secure_file(sites, **more)))
    assert bounds is not None
    return describe_masks(bounds)


def test_three_sites_are_told_that_no_loss_is_borne(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = lines_of(SITES[:3])
    assert first == (
        "no loss is borne once shares are dealt: all 3 sites have to stay, or the round is void; 3 have to reveal"
    )
    assert second == "1 site and the coordinator may pool what they know, and learn no single update"
    print_check(Experiment.model_validate(secure_file(SITES[:3])), None, None, True)
    said = capsys.readouterr().out
    assert f"  masks     {first}\n            {second}\n" in said


def test_ten_sites_are_told_how_many_may_be_lost_and_may_collude() -> None:
    assert lines_of(SITES, least=7) == [
        "3 sites of 10 may be lost once shares are dealt; 7 have to reveal",
        "3 sites and the coordinator may pool what they know, and learn no single update",
    ]
    assert lines_of(SITES[:5], least=3, privacy={"threshold": "majority"}) == [
        "2 sites of 5 may be lost once shares are dealt; 3 have to reveal",
        "the coordinator alone learns no single update; with all that one site knows it may",
    ]


def test_without_masks_nothing_is_said_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_check(Experiment.model_validate(plain()), None, None, True)
    assert "masks" not in capsys.readouterr().out
