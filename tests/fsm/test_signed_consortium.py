"""A consortium whose parties sign: real services, the bus in memory, virtual time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import CONSORTIUM, plain
from signed_consortium import ROLES, SITES, THREE, finish, ring_of, run_signed, sections, start, uplink_of
from virtual_consortium import VirtualConsortium

from coordinator.loop.registers import read_register_entry
from coordinator.record.journal import REGISTER
from coordinator.record.journal_file import open_readonly
from coordinator.record.replay import replay
from deploy.provision.key_ring import FOREVER, KeyRing
from messages import kinds
from messages.envelope import Author
from messages.ground.errors import ConfigError
from messages.ground.virtual.clock import VirtualClock
from messages.reasons import Reason
from messages.trust.keys import derive_key, read_key, write_key
from messages.trust.register import KeyEntry, Register, read_register, replace_keys, sign_register
from messages.trust.signatures import digest_payload, split_event
from site_agent.core.jobs import Phase


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


def change_register(ring: KeyRing, consortium: VirtualConsortium, change: Callable[[KeyEntry], KeyEntry]) -> Register:
    """The operator puts a newer register where the coordinator looks for it."""
    operator = read_key(ring.key_file("operator"))
    old = read_register(ring.register_file.read_bytes(), operator.public, CONSORTIUM)
    new = replace_keys(old, [change(one) for one in old.keys], consortium.clock.wall())
    ring.register_file.write_bytes(sign_register(new, operator))
    return new


def revoke(ring: KeyRing, consortium: VirtualConsortium, name: str) -> None:
    """From now on no key of this party is good."""
    now = consortium.clock.wall()
    change_register(ring, consortium, lambda one: one.model_copy(update={"revoked": now}) if one.name == name else one)


def test_a_site_whose_key_is_revoked_is_left_out_and_falls_silent_and_the_others_go_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ring = ring_of(tmp_path)

    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        consortium.until("round-start", 7200.0)
        now = consortium.clock.wall()
        new = change_register(
            ring, consortium, lambda one: one.model_copy(update={"revoked": now}) if one.name == "site-b" else one
        )
        finish(consortium)
        for agent in consortium.agents.values():
            assert agent._verifier.register == new
        assert [agent._voice.silenced for agent in consortium.agents.values()] == [False, True, False]

    done = run_signed(tmp_path, work, sections(ring), THREE)
    ((_at, excluded),) = done.of("site-excluded")
    assert excluded.body == kinds.SiteExcluded(site="site-b", reason=Reason.NO_GOOD_KEY)
    rounds = [one.body for _at, one in done.of("round-complete")]
    assert [set(one.contributors) for one in rounds] == [{"site-a", "site-c"}] * 2  # type: ignore[attr-defined]
    kept = [entry for entry in open_readonly(tmp_path / "coordinator") if entry.type == REGISTER]
    assert [read_register_entry(one) for one in kept][1:] == [ring.register_file.read_bytes()]
    replayed = [*replay([*open_readonly(tmp_path / "coordinator")])]
    assert all(step.agrees for step in replayed), [step.problem for step in replayed if not step.agrees]
    assert "goes by register 2 of the operator" in [step.what for step in replayed]


def test_an_experiment_fails_where_revoking_leaves_fewer_sites_than_it_needs(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)

    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        consortium.until("round-start", 7200.0)
        revoke(ring, consortium, "site-b")
        failed = consortium.until("experiment-failed", 60.0)
        assert failed.body == kinds.ExperimentFailed(reason=Reason.QUORUM_NOT_MET)

    run_signed(tmp_path, work, sections(ring))


def test_an_experiment_ends_with_a_code_once_its_researchers_key_is_revoked(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)

    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        consortium.until("round-start", 7200.0)
        revoke(ring, consortium, "dr-a")
        failed = consortium.until("experiment-failed", 60.0)
        assert failed.body == kinds.ExperimentFailed(reason=Reason.NO_GOOD_KEY)

        def ended() -> bool:
            return {one._steps.agenda.phase_of("exp-1") for one in consortium.agents.values()} == {Phase.ENDED}

        assert consortium.clock.wait_until(ended, 60.0, every=1.0)

    run_signed(tmp_path, work, sections(ring))
    replayed = [*replay([*open_readonly(tmp_path / "coordinator")])]
    assert all(step.agrees for step in replayed), [step.problem for step in replayed if not step.agrees]


def test_a_consortium_learns_to_sign_party_by_party_without_a_lost_round_and_then_cannot_go_back(
    tmp_path: Path,
) -> None:
    operator, far = derive_key(bytes([9]) * 32), FOREVER
    keys = {party: derive_key(party.encode().ljust(32, b"-")) for party in ROLES}
    note = tmp_path / "register.note"
    entries: list[KeyEntry] = []
    serial = 0

    def write_register(clock: VirtualClock, *more: str, signatures: str = "accepted") -> None:
        nonlocal serial
        serial += 1
        now = clock.wall()
        entries.extend(
            KeyEntry(name=name, role=ROLES[name], key=keys[name].public.hex(), since=now, until=far) for name in more
        )
        fields = {"consortium": CONSORTIUM, "serial": serial, "made": now, "signatures": signatures}
        register = Register.model_validate({**fields, "keys": [one.model_dump() for one in entries]})
        note.write_bytes(sign_register(register, operator))

    def section(party: str) -> dict[str, Any]:
        path = tmp_path / "keys" / f"{party}.key"
        if not path.exists():
            write_key(keys[party], path)
        return {"key": str(path), "operator": operator.public.hex(), "register_file": note}

    def await_round(consortium: VirtualConsortium, number: int) -> None:
        def reached() -> bool:
            return any(event.round >= number for _at, event in consortium.of("round-complete"))

        assert consortium.clock.wait_until(reached, 7200.0, every=5.0)

    def work(consortium: VirtualConsortium) -> None:
        start(consortium, count=9, grace=120.0)
        await_round(consortium, 1)
        write_register(consortium.clock, "coordinator")
        consortium.trust["coordinator"] = section("coordinator")
        consortium.start_coordinator_again()
        for number, site in ((2, "site-a"), (4, "site-b")):
            await_round(consortium, number)
            write_register(consortium.clock, site)  # first the register: what the site says unsigned now waits
            consortium.clock.sleep(30.0)
            consortium.agents[site].stop()
            consortium.trust[site] = section(site)
            assert consortium.clock.wait_until(lambda one=site: not consortium.lives(one), 60.0, every=1.0)
            consortium.start_again(site)
        await_round(consortium, 6)
        write_register(consortium.clock, "dr-a", signatures="required")
        finish(consortium)
        unsigned = Author(CONSORTIUM, "dr-a").write_event(
            "experiment-start", kinds.ExperimentStart(experiment=plain(id="exp-2")), time=0.0, experiment="exp-2"
        )
        consortium.publish(unsigned)
        refused = consortium.coordinator.shell.steps.tally.malformed
        assert consortium.clock.wait_until(lambda: refused["signature-missing"] > 0, 60.0, every=1.0)
        consortium.trust["dr-a"] = section("dr-a")
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain(id="exp-3")), "exp-3")
        assert consortium.clock.wait_until(lambda: len(consortium.of("experiment-accepted")) == 2, 60.0, every=1.0)
        assert [one.experiment for _at, one in consortium.of("experiment-accepted")] == ["exp-1", "exp-3"]
        write_register(consortium.clock, signatures="accepted")  # what the coordinator does not take any more
        consortium.clock.sleep(5.0)
        assert consortium.coordinator._parts.verifier.register.signatures == "required"  # type: ignore[union-attr]

    done = run_signed(tmp_path, work, {})
    rounds = [one.body for _at, one in done.of("round-complete")]
    assert [set(one.contributors) for one in rounds] == [set(SITES)] * 9  # type: ignore[attr-defined]
    signed = {site: [bool(split_event(one.raw)[1]) for one in uplink_of(done) if one.sender == site] for site in SITES}
    assert all(site == sorted(site) for site in signed.values())  # once signed, always signed
    assert all(len(set(site)) == 2 for site in signed.values())


@pytest.mark.parametrize("party", ["coordinator", "site-a"])
def test_who_goes_by_a_register_does_not_start_without_it_any_more(tmp_path: Path, party: str) -> None:
    run_signed(tmp_path, lambda consortium: consortium.clock.sleep(10.0))
    rest = sections(ring_of(tmp_path))
    del rest[party]
    with pytest.raises(ConfigError, match="trust"):
        run_signed(tmp_path, lambda _consortium: None, rest)


def test_a_party_that_is_silent_and_revoked_is_not_waited_for_in_later_experiments(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)

    def work(consortium: VirtualConsortium) -> None:
        revoke(ring, consortium, "site-b")
        consortium.clock.sleep(5.0)
        start(consortium)
        consortium.until("round-start", 60.0)  # enrolment alone would wait 600 s

    run_signed(tmp_path, work, sections(ring), THREE)
