"""Where a site was heard is what its key signed: a thief's place ends nobody, and locks nobody out for good."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from coordinator_kit import CONSORTIUM, plain
from coordinator_rig import Consortium, running
from hypothesis import given
from hypothesis import strategies as st
from signed_consortium import author, finish, plant, run_signed, start
from virtual_consortium import VirtualConsortium

from coordinator.wire.last_heard import NOWHERE, LastWord
from messages import codec, envelope, kinds
from messages.bus.base import Delivery
from messages.envelope import Author, Event
from messages.ground.clock import SystemClock
from messages.ground.errors import MalformedMessage
from messages.trust.chains import MOST_LEAP, MOST_LIFT, MOST_PLACE
from messages.trust.keys import SigningKey, derive_key
from messages.trust.signatures import KEY
from site_agent.disk.spool import Spool
from site_agent.loop import orientation
from site_agent.loop.budgets import Budgets
from site_agent.wire.outbox import Outbox

KEYS = [derive_key(bytes([n]) * 32) for n in (1, 2)]


def leave(consortium: VirtualConsortium, incarnation: int, attempt: str, seq: int = 1) -> Event:
    who, now = author(consortium, "site-a", incarnation=incarnation), consortium.clock.wall()
    return who.write_event("leaving", kinds.Leaving(), time=now, attempt=attempt, seq=seq)


def test_a_place_beyond_all_numbers_ends_no_coordinator_and_locks_its_site_not_out(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        consortium.until("round-start", 7200.0)
        for n, place in enumerate([(MOST_PLACE + 1, 1), (MOST_PLACE - 1, 1), (MOST_LEAP + 100, 1), (1, MOST_PLACE)]):
            plant(consortium, "uplink", leave(consortium, place[0], f"x{n}", place[1]))
        plant(consortium, "uplink", leave(consortium, MOST_LIFT, "y"))  # as far as a site can be lifted
        consortium.clock.sleep(3.0)
        for n in range(3):
            who = author(consortium, "site-a")
            hello = who.write_event("hello", kinds.Hello(versions={}), time=consortium.clock.wall(), attempt=f"h{n}")
            plant(consortium, "uplink", hello)
        consortium.clock.sleep(5.0)
        steps = consortium.coordinator.shell.steps
        assert steps.tally.malformed["malformed"] == 4
        consortium.agents["site-a"].stop()
        assert consortium.clock.wait_until(lambda: not consortium.lives("site-a"), 60.0, every=1.0)
        consortium.start_again("site-a")
        finish(consortium)
        assert consortium.agents["site-a"].spool.incarnation > MOST_LIFT  # above what was said with its key
        assert not consortium.agents["site-a"]._orientation.awaited

    run_signed(tmp_path, work)


def test_a_stolen_coordinators_key_lifts_no_site_above_what_the_true_one_believes(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        consortium.clock.sleep(5.0)
        agent, thief = consortium.agents["site-a"], author(consortium, "coordinator", term=1)
        for n, heard in enumerate([2**53, 2**40, MOST_LIFT, 2 * MOST_LIFT - 2, 3 * MOST_LIFT - 3, 2**53]):
            told = thief.write_event(
                "last-heard",
                kinds.LastHeard(incarnation=heard, seq=1),
                time=consortium.clock.wall(),
                attempt=f"t{n}",
                to="site-a",
            )
            plant(consortium, "inbox.site-a", told, told.key_to("site-a"))
            consortium.clock.sleep(2.0)
        assert agent.spool.incarnation == MOST_LIFT + 1
        start(consortium)
        finish(consortium)
        assert not +consortium.coordinator.shell.steps.tally.malformed

    run_signed(tmp_path, work)


def said(key: SigningKey, incarnation: int, seq: int) -> Event:
    who = Author(CONSORTIUM, "site-a", incarnation=incarnation, key=key)
    return who.write_event("leaving", kinds.Leaving(), time=0.0, seq=seq)


def test_a_place_that_a_revoked_key_signed_counts_no_more() -> None:
    kept, good = dict[str, bytes](), set[str]()
    told = LastWord(kept.get, lambda _site: good)
    events = [said(key, place, 1) for key, place in zip(KEYS, (900, 7), strict=True)]
    names = [str(event.ext[KEY]) for event in events]
    good.update(names)
    for event in events:
        kept |= told.note_event(event)
    assert told.place_of("site-a")[0] == 900
    good.discard(names[0])
    assert told.place_of("site-a")[0] == 7
    assert LastWord(kept.get, lambda _site: good).place_of("site-a")[0] == 7
    kept |= told.note_event(said(KEYS[1], 8, 1))
    assert codec.unpack(kept["heard-by:site-a"]).keys() == {names[1]}


def test_a_place_of_an_older_version_counts_where_it_can_be_told() -> None:
    before = {"heard:site-a": codec.pack([5, 3, "ab" * 32]), "heard:site-b": codec.pack([MOST_PLACE + 1, 1, ""])}
    told = LastWord(before.get)
    assert told.place_of("site-a") == (5, 3, "ab" * 32)
    assert told.place_of("site-b") == NOWHERE


NUMBERS = st.sampled_from([0, 1, 2, MOST_LEAP, MOST_PLACE - 1, MOST_PLACE, MOST_PLACE + 1, 2**63 - 1, 2**63])


@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.sampled_from(KEYS)), max_size=4))
def test_whatever_place_is_decoded_can_be_told(places: list[tuple[int, int, SigningKey]]) -> None:
    kept = dict[str, bytes]()
    told = LastWord(kept.get)
    for incarnation, seq, key in places:
        try:
            event = envelope.decode_event(said(key, incarnation, seq).raw)
        except MalformedMessage:
            continue
        if told.leaps(event, is_site=True):
            continue
        kept |= told.note_event(event)
        for one in (told, LastWord(kept.get)):
            heard = Author(CONSORTIUM, "coordinator").write_event(
                "last-heard", one.tell("site-a", {}, reads_private=True), time=0.0, to="site-a"
            )
            assert envelope.decode_event(heard.raw).body == heard.body


def test_a_periodic_part_that_fails_costs_neither_the_others_nor_the_coordinator(
    consortium: Consortium, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_given: Any) -> Any:
        raise ZeroDivisionError

    shell = consortium.start().shell
    for part in (
        (shell.returning, "send_owed"),
        (shell._registers, "look_at_file"),
        (shell.parts.presence, "log_changes"),
    ):
        monkeypatch.setattr(part[0], part[1], fail)
    monkeypatch.setattr(shell.steps, "count_floods", fail)
    shell.queue.put(fail)
    consortium.join()
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    consortium.until("experiment-complete")
    assert running(consortium).shell.steps.tally.set_aside == 0
    monkeypatch.undo()


def test_what_is_kept_back_for_a_site_that_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orientation, "MOST_KEPT_BACK", 1000)
    spool, acked, handled = Spool(tmp_path), list[int](), list[int]()
    waits = orientation.Orientation(spool, cast(Outbox, None), "site-a", SystemClock(), cast(Budgets, None), signs=True)
    event = Author(CONSORTIUM, "coordinator").write_event("experiment-resumed", kinds.ExperimentResumed(), time=0.0)
    for n in range(20):
        queue, offset = ("downlink", n) if n % 2 else ("inbox.site-a", None)
        one = Delivery(queue, event.key, event.raw, "coordinator", offset, n)
        assert waits.keep_back(one, event, partial(handled.append, n), lambda late: acked.append(late.tag))
    fits = 1000 // len(event.raw)
    assert 1 < fits < 10
    assert acked == [n for n in range(20) if n < fits or n % 2 == 0]  # what came to the inbox is said again
    assert waits.kept_bytes <= 1000 + 10 * len(event.raw)
    waits.awaited = False
    waits.release()
    assert handled == [n for n in range(20) if n < fits or n % 2]
    assert sorted(acked) == list(range(20))
    spool.close()
