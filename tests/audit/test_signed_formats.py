"""Signed logs of earlier code verify, replay and export on today's, to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evidence_rig import run_konsil, run_standalone
from format_rig import unpack_folder
from keep_signed import FORMATS, LOG, OPERATOR, SECURE, STATE

from deploy.session.history import story_of_file

KEPT = sorted(FORMATS.iterdir())


@pytest.fixture(params=KEPT, ids=lambda folder: folder.name)
def kept(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


def test_both_verifiers_hold_it_to_be_as_it_was_written(kept: Path) -> None:
    operator = (kept / OPERATOR).read_text().strip()
    for said in (
        run_konsil("audit", "verify", kept / LOG, "--operator", operator, "--json"),
        run_standalone(kept / LOG, "--operator", operator, "--json"),
    ):
        assert said.holds, said
        told = json.loads(said.out)
        assert told["signed_events"] > 0
        assert told["unsigned_events"] == 0


def test_every_decision_of_it_is_derived_again(kept: Path) -> None:
    said = run_konsil("audit", "replay", "exp-1", kept / LOG, "--json")
    assert said.holds, said
    assert json.loads(said.out)["experiment"] == "exp-1"


def test_its_journal_is_exported_to_the_same_bytes(kept: Path, tmp_path: Path) -> None:
    state = unpack_folder(kept / STATE, tmp_path / "coordinator")
    said = run_konsil("audit", "export", "exp-1", "--journal", state, "--out", tmp_path / "again")
    assert said.holds, said
    assert (tmp_path / "again").read_bytes() == (kept / LOG).read_bytes()


@pytest.mark.parametrize("kept", [one for one in KEPT if (one / SECURE).exists()], ids=lambda folder: folder.name)
def test_the_sums_of_its_secure_rounds_are_unmasked_again(kept: Path, tmp_path: Path) -> None:
    state = unpack_folder(kept / SECURE, tmp_path / "coordinator")
    said = run_konsil("audit", "replay", "exp-1", "--journal", state, "--json")
    assert said.holds, said
    told = json.loads(said.out)
    assert [(one["status"], one["agrees"]) for one in told["rounds"].values()] == [("recomputed", True)] * 2


def test_it_is_read_wherever_a_log_is_read(kept: Path, tmp_path: Path) -> None:
    """Its file has another form than one without heads."""
    proof = tmp_path / "none.json"
    proof.write_text('{"proof": 1, "site": "site-a", "commitments": []}')
    said = run_konsil("audit", "commitments", kept / LOG, proof, "--json")
    assert "is not an exported event log" not in said.words
    assert story_of_file(kept / LOG).id == "exp-1"
