"""The whole agent, and its record of what it took part with: what it tells of it, and what stays at the site."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import site_consortium as script
from agent_rig import Start, joined, through_rounds
from brokers import eventually

from messages.ground.errors import WorkFailed
from messages.kinds import RoundComplete
from site_agent.disk.lineage import DATA, POLICY, Lineage, Went, commit_to, read_lineage


def test_joining_tells_keyed_digests_of_policy_and_data_and_nothing_else_of_them(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    running = start()
    joined(coordinator)
    (event,) = coordinator.of("joined")
    kept = {one.kind: one for one in read_lineage(tmp_path / "state").list_commitments("exp-1")}
    assert {kind: event.ext[kind] for kind in (POLICY, DATA)} == {kind: one.digest for kind, one in kept.items()}
    policy = kept[POLICY]
    assert policy.key is not None
    assert commit_to(policy.key, POLICY, policy.content) == event.ext[POLICY]
    assert json.loads(policy.content) == running.config.policy.model_dump(mode="json")
    assert b"patient-" not in event.raw


def test_the_record_names_each_round_of_a_case_and_the_model_that_it_made(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    start()
    through_rounds(coordinator, 1, 2)
    body = RoundComplete(contributors={"site-a": 28}, left_out={}, model_digest="d" * 64, seconds=1.0)
    coordinator.say("round-complete", body, experiment="exp-1", round_number=1)
    record = read_lineage(tmp_path / "state")
    found = [Went("exp-1", 1, "train", "d" * 64, True), Went("exp-1", 2, "train", "", None)]
    eventually(lambda: record.trace_case(["null-1"]) == found, what="the round's outcome")
    assert [one.split for one in record.trace_case(["null-40"])] == ["test", "test"]


def test_an_agent_whose_record_is_damaged_says_so_and_does_not_start(start: Start, tmp_path: Path) -> None:
    start().stop()
    record = tmp_path / "state" / "lineage.sqlite"
    Lineage(record.parent).note_joining("exp-1", {}, [], "", 1.0)
    record.write_bytes(record.read_bytes()[:5000])
    with pytest.raises(WorkFailed, match=r"damaged \(.+\).*move it away"):
        start()
