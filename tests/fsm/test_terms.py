"""Terms of a consortium that signs: only the coordinator's own key raises one, and a forged one has a way back."""

from __future__ import annotations

from pathlib import Path

import pytest
from coordinator_kit import CONSORTIUM
from signed_consortium import FORGED_TERM, ROLES, author, finish, plant, ring_of, run_signed, sections, start
from virtual_consortium import VirtualConsortium

from coordinator.record.journal import TERM
from coordinator.record.journal_file import open_readonly
from messages import codec, kinds
from messages.chain import MAX_ENTRY
from messages.envelope import Author, Event
from messages.ground.errors import BrokerUnreachable, KonsilError


def hello_of(consortium: VirtualConsortium, who: Author) -> Event:
    return who.write_event("coordinator-hello", kinds.CoordinatorHello(versions={}), time=consortium.clock.wall())


def mark_of(consortium: VirtualConsortium, who: Author) -> Event:
    return who.write_event("nonce", kinds.Nonce(nonce="0f" * 16), time=consortium.clock.wall())


def terms_in(folder: Path) -> list[int]:
    bodies = [codec.unpack(one.body, max_bytes=MAX_ENTRY) for one in open_readonly(folder) if one.type == TERM]
    return [body["term"] for body in bodies]


def test_a_term_that_was_forged_before_there_were_keys_counts_for_nothing_once_there_are(tmp_path: Path) -> None:
    ring = ring_of(tmp_path)

    def work(consortium: VirtualConsortium) -> None:
        consortium.clock.sleep(10.0)
        forged = author_without_key(FORGED_TERM)
        plant(consortium, "downlink", hello_of(consortium, forged))
        consortium.clock.sleep(10.0)
        assert {agent.spool.term for agent in consortium.agents.values()} == {FORGED_TERM}
        consortium.trust.update(sections(ring))
        consortium.start_coordinator_again(lambda _state: plant(consortium, "uplink", mark_of(consortium, forged)))
        for site in list(consortium.agents):
            consortium.agents[site].stop()
            assert consortium.clock.wait_until(lambda one=site: not consortium.lives(one), 60.0, every=1.0)
            consortium.start_again(site)
        start(consortium)
        finish(consortium)
        assert {agent.spool.term for agent in consortium.agents.values()} == {consortium.coordinator.journal.term}

    run_signed(tmp_path, work, {})


def author_without_key(term: int) -> Author:
    return Author(CONSORTIUM, "coordinator", term, term)


def test_a_signed_jump_of_terms_is_named_at_each_site_and_the_next_start_is_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def work(consortium: VirtualConsortium) -> None:
        consortium.clock.sleep(10.0)
        consortium.start_coordinator_again()
        consortium.clock.sleep(10.0)
        assert {tuple(agent.spool.list_jumps()) for agent in consortium.agents.values()} == {()}
        signed = author(consortium, "coordinator", term=FORGED_TERM)
        plant(consortium, "downlink", hello_of(consortium, signed))
        consortium.clock.sleep(10.0)
        for agent in consortium.agents.values():
            assert agent.spool.list_jumps() == [(2, FORGED_TERM)]
            assert agent.make_status()["term_jumps"] == [[2, FORGED_TERM]]

    run_signed(tmp_path, work)
    said = capfd.readouterr()
    assert "a term that does not follow" in said.err + said.out


def test_a_start_that_says_nothing_uses_no_term(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        consortium.clock.sleep(10.0)
        consortium.coordinator.stop()
        consortium._threads[0].join(60.0)
        join, consortium._join = consortium._join, broken
        for _again in range(3):
            with pytest.raises(KonsilError):
                consortium._make_coordinator()
        consortium._join = join
        consortium.start_coordinator_again()
        consortium.clock.sleep(10.0)

    run_signed(tmp_path, work, sections(ring_of(tmp_path), *ROLES))
    assert terms_in(tmp_path / "coordinator") == [1, 2]


def broken(*_given: object, **_more: object) -> None:
    raise BrokerUnreachable("no way to the broker")
