"""A consortium whose parties sign: real services, the bus in memory, virtual time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordinator_kit import CONSORTIUM, plain
from virtual_consortium import VirtualConsortium

from deploy.provision.key_ring import KeyRing, make_key_ring
from messages import kinds
from messages.envelope import Event
from messages.ground.virtual.clock import VirtualClock
from messages.trust.register import Role
from messages.trust.signatures import digest_payload, split_event

SITES = ("site-a", "site-b")
ROLES: dict[str, Role] = {"coordinator": "coordinator", "dr-a": "researcher", "site-a": "site", "site-b": "site"}
ROUNDS = {"count": 2, "enrol_within": 600.0, "train_within": 600.0, "grace": 60.0}


def takes(_site: str, _number: int) -> float:
    return 60.0


def ring_of(folder: Path, **more: Any) -> KeyRing:
    return make_key_ring(folder / "keys", CONSORTIUM, ROLES, seed="test", **more)


def sections(ring: KeyRing, *parties: str) -> dict[str, Any]:
    return {party: ring.trust_of(party) for party in parties or ROLES}


def run_signed(
    folder: Path, work: Callable[[VirtualConsortium], None], trust: dict[str, Any] | None = None, **more: Any
) -> VirtualConsortium:
    """A consortium under virtual time, while `work` does something with it."""
    clock = VirtualClock()

    def body() -> VirtualConsortium:
        given = sections(ring_of(folder)) if trust is None else trust
        consortium = VirtualConsortium(folder, clock, takes, SITES, trust=given, **more)
        try:
            work(consortium)
        finally:
            consortium.close()
        return consortium

    return clock.run(body)


def start(consortium: VirtualConsortium) -> None:
    experiment = plain(sites=[*SITES], rounds=ROUNDS, quorum={"least_sites": 2})
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=experiment))


def finish(consortium: VirtualConsortium) -> None:
    consortium.until("experiment-complete", 7200.0)


def uplink_of(consortium: VirtualConsortium) -> list[Event]:
    from coordinator.core.inputs import Received
    from coordinator.record.journal import STEP
    from coordinator.record.journal_file import open_readonly
    from coordinator.record.recovery import read_step

    steps = [read_step(entry)[0] for entry in open_readonly(consortium.folder / "coordinator") if entry.type == STEP]
    return [given.event for given in steps if isinstance(given, Received)]


def test_a_whole_experiment_is_signed_by_all_and_each_answer_names_what_it_answers(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        finish(consortium)

    done = run_signed(tmp_path, work)
    said = uplink_of(done)
    assert {one.sender for one in said} == {"dr-a", *SITES}
    assert all(split_event(one.raw)[1] for one in (*said, *(event for _at, event in done.heard)))
    openings = {digest_payload(one.raw) for _at, one in done.heard if one.kind.endswith("-start")}
    answers = [one for one in said if one.kind in ("round-accepted", "weights-ready", "evaluated")]
    assert answers
    assert all(one.ext["answers"] in openings for one in answers)
    for site in SITES:
        mine = sorted((one for one in said if one.sender == site), key=lambda one: one.seq)
        assert [one.ext.get("after") for one in mine[1:]] == [digest_payload(one.raw) for one in mine[:-1]]
    round_completed = [one for _at, one in done.of("round-complete")]
    assert [len(one.body.contributors) for one in round_completed] == [2, 2]  # type: ignore[attr-defined]
