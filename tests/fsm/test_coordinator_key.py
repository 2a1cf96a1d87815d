"""The coordinator's key was stolen: the operator binds its name to a new one, and a running experiment goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from coordinator_kit import CONSORTIUM
from signed_consortium import FORGED_TERM, SITES, author, finish, plant, ring_of, run_signed, sections, start
from virtual_consortium import VirtualConsortium

from deploy.provision.key_ring import KeyRing
from messages import kinds
from messages.kinds import ExperimentComplete
from messages.trust.keys import derive_key, read_key, write_key
from messages.trust.register import KeyEntry, Register, read_register, replace_keys, sign_register


def digest_of(done: VirtualConsortium) -> str:
    ((_at, complete),) = done.of("experiment-complete")
    assert isinstance(complete.body, ExperimentComplete)
    return complete.body.final_digest


def calmly(consortium: VirtualConsortium) -> None:
    start(consortium)
    finish(consortium)


def replace_key(consortium: VirtualConsortium, ring: KeyRing, folder: Path) -> tuple[Register, Callable[[], None]]:
    """The operator's register with the coordinator's key revoked and a new one, and what brings both to it."""
    fresh = folder / "keys" / "coordinator.new.key"
    write_key(derive_key(bytes([7]) * 32), fresh)
    operator, now = read_key(ring.key_file("operator")), consortium.clock.wall()
    old = read_register(ring.register_file.read_bytes(), operator.public, CONSORTIUM)
    ended = [one.model_copy(update={"revoked": now}) if one.name == "coordinator" else one for one in old.keys]
    key = read_key(fresh).public.hex()
    entry = KeyEntry(name="coordinator", role="coordinator", key=key, since=now - 3600.0, until=2.0**52)
    new = replace_keys(old, [*ended, entry], now)

    def install() -> None:
        ring.register_file.write_bytes(sign_register(new, operator))
        consortium.trust["coordinator"] = {**consortium.trust["coordinator"], "key": str(fresh)}

    return new, install


@pytest.mark.parametrize("forged", ["nothing", "term"])
def test_a_coordinator_whose_key_was_stolen_goes_on_with_a_new_one_in_mid_experiment(
    tmp_path: Path, forged: str
) -> None:
    ring = ring_of(tmp_path)

    def work(consortium: VirtualConsortium) -> None:
        clock = consortium.clock
        start(consortium)
        consortium.until("round-start", 7200.0)
        thief = author(consortium, "coordinator", term=FORGED_TERM)
        hello = thief.write_event("coordinator-hello", kinds.CoordinatorHello(versions={}), time=clock.wall())
        mark = thief.write_event("nonce", kinds.Nonce(nonce="0f" * 16), time=clock.wall())
        if forged == "term":
            plant(consortium, "downlink", hello)
            clock.sleep(5.0)
            assert {agent.spool.term for agent in consortium.agents.values()} == {FORGED_TERM}
        new, install = replace_key(consortium, ring, tmp_path)

        def replace(_state: Path) -> None:
            install()
            if forged == "term":
                plant(consortium, "uplink", mark)

        consortium.start_coordinator_again(replace)
        finish(consortium)
        assert {agent.spool.term for agent in consortium.agents.values()} == {consortium.coordinator.journal.term}
        assert all(agent._verifier.register == new for agent in consortium.agents.values())
        assert not any(agent._witness.forked for agent in consortium.agents.values())

    done = run_signed(tmp_path / "one", work, sections(ring))
    rounds = [one.body for _at, one in done.of("round-complete")]
    assert [set(one.contributors) for one in rounds] == [set(SITES)] * 2  # type: ignore[attr-defined]
    assert digest_of(done) == digest_of(run_signed(tmp_path / "calm", calmly))


def test_a_site_that_was_off_while_the_coordinators_key_changed_hears_the_new_one_and_goes_on(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)

    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        consortium.until("round-start", 7200.0)
        off = SITES[0]
        consortium.agents[off].stop()
        while consortium.lives(off):
            consortium.clock.sleep(1.0)
        known = tmp_path / "as-it-was.note"  # its kit's copy: nobody has told it of the new one
        known.write_bytes(ring.register_file.read_bytes())
        consortium.trust[off] = {**consortium.trust[off], "register_file": str(known)}
        new, install = replace_key(consortium, ring, tmp_path)
        consortium.start_coordinator_again(lambda _state: install())
        consortium.clock.sleep(60.0)
        consortium.start_again(off)
        finish(consortium)
        assert all(agent._verifier.register == new for agent in consortium.agents.values())

    done = run_signed(tmp_path / "one", work, sections(ring))
    assert digest_of(done) == digest_of(run_signed(tmp_path / "calm", calmly))
