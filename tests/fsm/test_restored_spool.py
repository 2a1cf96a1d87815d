"""A site whose state folder comes out of a backup: it goes on above all that it ever said, and says nothing twice."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path

import pytest
from signed_consortium import SITES, finish, ring_of, run_signed, sections, start, uplink_of
from virtual_consortium import VirtualConsortium

from messages.envelope import Event, decode_event, digest_facts
from messages.kinds import ExperimentComplete

KEPT, BACK = "site-a.backup", "site-a"


def takes(site: str, _number: int) -> float:
    return 60.0 if site == "site-a" else 400.0


def stop(consortium: VirtualConsortium, site: str) -> None:
    consortium.agents[site].stop()
    assert consortium.clock.wait_until(lambda: not consortium.lives(site), 60.0, every=1.0)


def await_said(consortium: VirtualConsortium, kind: str, round_number: int) -> None:
    def said() -> bool:
        return any((one.kind, one.round, one.sender) == (kind, round_number, "site-a") for one in uplink_of(consortium))

    assert consortium.clock.wait_until(said, 7200.0, every=5.0)


def lies_on_uplink(consortium: VirtualConsortium) -> list[Event]:
    return [decode_event(one.body) for one in consortium.broker.streams["uplink"].messages]


def final_digest(done: VirtualConsortium) -> str:
    ((_at, complete),) = done.of("experiment-complete")
    assert isinstance(complete.body, ExperimentComplete)
    return complete.body.final_digest


def put_back(consortium: VirtualConsortium, copied: str, returns: tuple[str, int]) -> None:
    """Copy the state of site-a at one point, let it go on, and put the copy back at a later one."""
    folder = consortium.folder
    if copied == "joined":
        consortium.until("round-start", 7200.0)
        consortium.clock.sleep(5.0)
    elif copied == "nothing":
        consortium.clock.sleep(5.0)
    else:
        await_said(consortium, "weights-ready", 1)
    stop(consortium, "site-a")
    shutil.copytree(folder / BACK, folder / KEPT)
    consortium.start_again("site-a")
    if copied == "nothing":
        start(consortium, count=3)
    await_said(consortium, *returns)
    stop(consortium, "site-a")
    shutil.rmtree(folder / BACK)
    shutil.copytree(folder / KEPT, folder / BACK)
    consortium.start_again("site-a")


@pytest.mark.parametrize(
    ("copied", "returns"),
    [
        ("nothing", ("round-accepted", 2)),
        ("joined", ("round-accepted", 1)),
        ("joined", ("weights-ready", 1)),
        ("joined", ("weights-ready", 2)),
        ("reported", ("round-accepted", 2)),
        ("reported", ("weights-ready", 3)),
    ],
)
def test_a_site_that_returns_from_a_backup_says_nothing_in_two_ways_and_the_bits_are_the_same(
    tmp_path: Path, copied: str, returns: tuple[str, int]
) -> None:
    def work(consortium: VirtualConsortium) -> None:
        if copied != "nothing":
            start(consortium, count=3)
        put_back(consortium, copied, returns)
        finish(consortium)
        consortium.clock.sleep(200.0)
        tally = consortium.coordinator.shell.steps.tally
        assert not +tally.refused_events, tally.refused_events
        assert not +tally.malformed, tally.malformed
        assert tally.set_aside == 0  # no equivocation, no chain that is forked or has a gap

    done = run_signed(tmp_path / "one", work, sections(ring_of(tmp_path)), seconds=takes)
    facts = defaultdict(set)
    for event in lies_on_uplink(done):
        if event.seq:
            facts[event.id].add(digest_facts(event))
    assert [identity for identity, told in facts.items() if len(told) > 1] == []
    places = [(one.incarnation, one.seq) for one in uplink_of(done) if one.sender == "site-a"]
    assert len(places) == len(set(places))
    rounds = [one.body for _at, one in done.of("round-complete")]
    assert [set(one.contributors) for one in rounds] == [set(SITES)] * 3  # type: ignore[attr-defined]

    def calmly(consortium: VirtualConsortium) -> None:
        start(consortium, count=3)
        finish(consortium)

    assert final_digest(done) == final_digest(run_signed(tmp_path / "calm", calmly, seconds=takes))
