"""Privacy budgets of real sites in virtual time: what they do to a consortium, and what of them anybody can see."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import plain
from secure_consortium import run_secure, secure_file
from signed_consortium import finish, ring_of, run_signed, sections, start, uplink_of
from virtual_consortium import VirtualConsortium

from coordinator.record.journal import Journal
from coordinator.record.lineage import read_made, tell_lineage, trace_model
from messages import kinds
from site_agent.core.budget import Account
from site_agent.privacy.accountant import find_epsilon

DP: dict[str, Any] = {"noise_multiplier": 1.5, "clip_norm": 0.5, "sample_rate": 0.25}
BUDGET: dict[str, Any] = {"ledger": "rosebud", "epsilon_lifetime": 97.25}


def takes(site: str, _number: int) -> float:
    return 60.0 if site == "site-a" else 400.0


def account(consortium: VirtualConsortium, site: str = "site-a") -> Account:
    return consortium.agents[site]._budgets.open_account("glioma")


def stop(consortium: VirtualConsortium, site: str) -> None:
    consortium.agents[site].stop()
    assert consortium.clock.wait_until(lambda: not consortium.lives(site), 60.0, every=1.0)


def await_said(consortium: VirtualConsortium, kind: str, round_number: int) -> None:
    def said() -> bool:
        return any((one.kind, one.round, one.sender) == (kind, round_number, "site-a") for one in uplink_of(consortium))

    assert consortium.clock.wait_until(said, 7200.0, every=5.0)


def is_complete(consortium: VirtualConsortium, name: str) -> bool:
    return any(one.experiment == name for _at, one in consortium.of("experiment-complete"))


def all_bytes(consortium: VirtualConsortium) -> bytes:
    """Everything that any queue of the broker holds."""
    streams = [message.body for stream in consortium.broker.streams.values() for message in stream.messages]
    return b"\0".join(bytes(body) for body in streams)


def test_what_a_ledger_holds_over_all_experiments_never_leaves_the_site(tmp_path: Path) -> None:
    seen: list[Account] = []

    def work(consortium: VirtualConsortium) -> None:
        start(consortium, count=2, privacy={"dp": DP})
        finish(consortium)
        seen.append(account(consortium))
        again = [*consortium.agents]
        file = plain(
            id="exp-2", sites=again, rounds={"count": 1, "train_within": 600.0}, privacy={"dp": DP},
            quorum={"least_sites": 2},
        )  # fmt: skip
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=file), experiment="exp-2")
        assert consortium.clock.wait_until(lambda: is_complete(consortium, "exp-2"), 7200.0, every=9.0)
        seen.append(account(consortium))
        told = all_bytes(consortium)
        assert b"exp-2" in told
        assert b"rosebud" not in told
        assert b"lifetime" not in told
        for number in (97.25, seen[0].spent, seen[1].spent):
            assert struct.pack(">d", number) not in told
            assert f"{number:.6f}".encode() not in told

    run_signed(tmp_path, work, sections(ring_of(tmp_path)), seconds=takes, budget=BUDGET)
    assert 0 < seen[0].spent == seen[0].bound < seen[1].spent
    _hold_lineage(tmp_path)
    assert [(one.experiment, one.charged, one.is_open) for one in seen[1].holdings] == [
        ("exp-1", 8, False),
        ("exp-2", 4, False),
    ]


def _hold_lineage(folder: Path) -> None:
    """What led to a model names what each site had spent when it was made, from its events alone."""
    journal = Journal(folder / "coordinator")
    try:
        made = read_made(journal.entries())
    finally:
        journal.close()
    for number in (1, 2):
        digest = next(one for one, at in made["exp-1"].digests.items() if at == number)
        (step,) = trace_model(digest, made)
        told = step["sites"]["site-a"]["privacy"]
        assert told["epsilon_spent"] == pytest.approx(find_epsilon(1.5, 0.25, 4 * number, 1e-5))
        assert told["epsilon"] == pytest.approx(find_epsilon(1.5, 0.25, 8, 1e-5))
        assert any(f"epsilon {told['epsilon_spent']:.2f} of" in line for line in tell_lineage([step]))


@pytest.mark.parametrize("copied", ["joined", "nothing"])
def test_a_ledger_out_of_a_backup_is_charged_again_or_closed(tmp_path: Path, copied: str) -> None:
    found: dict[str, Any] = {}

    def work(consortium: VirtualConsortium) -> None:
        if copied == "joined":
            start(consortium, count=3, privacy={"dp": DP})
            consortium.until("round-start", 7200.0)
        consortium.clock.sleep(5.0)
        stop(consortium, "site-a")
        shutil.copytree(consortium.folder / "site-a", consortium.folder / "kept")
        consortium.start_again("site-a")
        if copied == "nothing":
            start(consortium, count=3, privacy={"dp": DP})
        await_said(consortium, "weights-ready", 2)
        stop(consortium, "site-a")
        shutil.rmtree(consortium.folder / "site-a")
        shutil.copytree(consortium.folder / "kept", consortium.folder / "site-a")
        consortium.start_again("site-a")
        orientation = consortium.agents["site-a"]._orientation
        assert consortium.clock.wait_until(lambda: not orientation.awaited, 600.0, every=1.0)
        consortium.clock.sleep(30.0)
        found["account"] = account(consortium)

    run_signed(tmp_path, work, sections(ring_of(tmp_path)), seconds=takes, budget=BUDGET)
    if copied == "joined":
        ((holding),) = found["account"].holdings
        assert (holding.charged, found["account"].closed) == (12, False)  # all three rounds: it cannot know better
    else:
        assert found["account"].closed


def test_a_masked_update_is_charged_as_it_leaves_and_tells_epsilon_in_the_open(tmp_path: Path) -> None:
    found: dict[str, Any] = {}

    def work(consortium: VirtualConsortium) -> None:
        file = secure_file(privacy={"secure_aggregation": "masks", "dp": DP})
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=file))
        finish(consortium)
        found["account"] = account(consortium)
        found["told"] = [one.body for one in uplink_of(consortium) if isinstance(one.body, kinds.WeightsReady)]

    run_secure(tmp_path, work, budget=BUDGET)
    ((holding),) = found["account"].holdings
    assert (holding.charged, holding.is_open) == (8, False)
    assert {one.epsilon for one in found["told"]} == {find_epsilon(1.5, 0.25, steps, 1e-5) for steps in (4, 8)}
    assert all(one.loss is None for one in found["told"])
