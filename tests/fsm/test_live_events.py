"""Nothing is decided by live events: signs of life, progress, answers to checks, be they copied or forged."""

from __future__ import annotations

from pathlib import Path

from coordinator_kit import CONSORTIUM
from signed_consortium import author, finish, plant, run_signed, start
from virtual_consortium import VirtualConsortium

from coordinator.record.journal import STEP
from coordinator.record.journal_file import open_readonly
from coordinator.record.recovery import read_step
from messages import kinds
from messages.bus.memory import MemoryBus
from messages.envelope import Event, decode_event
from messages.kinds import Body
from messages.kinds.table import KINDS
from messages.names import PROGRESS
from messages.reasons import Reason
from site_agent.wire.twin import TwinWatch

LIVE = [kind for kind, row in KINDS.items() if row.queue == PROGRESS]


def said_live(consortium: VirtualConsortium, *kinds_: str) -> list[Event]:
    found = [decode_event(one.body) for one in consortium.broker.streams[PROGRESS].messages]
    return [one for one in found if one.kind in kinds_]


def test_copies_of_a_sites_own_signs_of_life_do_not_end_it_as_it_starts(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        consortium.until("round-start", 7200.0)
        consortium.clock.sleep(60.0)
        consortium.agents["site-a"].stop()
        consortium.clock.sleep(5.0)
        old = [one for one in said_live(consortium, "alive") if one.sender == "site-a"]
        assert len({one.id for one in old}) >= 3
        verifier = consortium.agents["site-b"]._verifier
        bus, clock = MemoryBus(consortium.broker, "site-a"), consortium.clock
        watch = TwinWatch(bus, verifier, CONSORTIUM, "site-a", lambda: None, clock)

        def pulse(number: int, *, signs: bool) -> Event:
            body = kinds.Alive(state="idle")
            return author(consortium, "site-a", signs=signs).write_event(
                "alive", body, time=clock.wall(), attempt=f"twin-{number}"
            )

        with watch.listen():
            for one in old:
                plant(consortium, PROGRESS, one)
            for number in range(3):
                plant(consortium, PROGRESS, pulse(number, signs=False))
            clock.sleep(5.0)
            assert not watch.found
            clock.sleep(1.0)
            for number in (3, 4):
                plant(consortium, PROGRESS, pulse(number, signs=True))
            clock.sleep(5.0)
            assert watch.found
        bus.close()

    run_signed(tmp_path, work)


def write_lies(consortium: VirtualConsortium) -> list[Event]:
    """What each site would not say now, with its signature and without one."""
    lies: list[tuple[str, Body]] = [
        ("alive", kinds.Alive(state="paused")),
        ("progress", kinds.Progress(phase="sending", done=9, total=9)),
        ("check-answer", kinds.CheckAnswer(nonce="0" * 32, accepts=False, reason=Reason.SITE_PAUSED)),
    ]
    assert {kind for kind, _body in lies} <= set(LIVE)
    said = {"time": consortium.clock.wall(), "experiment": "exp-1", "round_number": 1, "attempt": "lie"}
    liars = [author(consortium, site, signs=signs) for site in consortium.agents for signs in (True, False)]
    return [liar.write_event(kind, body, **said) for liar in liars for kind, body in lies]


def test_a_run_whose_live_events_are_copied_and_forged_decides_the_same_bits_as_one_without(tmp_path: Path) -> None:
    assert not any(KINDS[kind].history for kind in LIVE)

    def run(folder: Path, *, disturbed: bool) -> list[tuple[str, float, list[bytes]]]:
        folder.mkdir()

        def work(consortium: VirtualConsortium) -> None:
            start(consortium)
            consortium.until("round-start", 7200.0)
            consortium.clock.sleep(20.0)
            if disturbed:
                for one in [*3 * said_live(consortium, *LIVE), *write_lies(consortium)]:
                    plant(consortium, PROGRESS, one)
            finish(consortium)

        run_signed(folder, work)
        kept = open_readonly(folder / "coordinator")  # heads stand outside of the experiment: no two runs have the same
        steps = [one for one in kept if (one.type, one.experiment) == (STEP, "exp-1")]
        decided = [(one, read_step(one)) for one in steps]
        return [(given.input, one.time, [each.compared_bytes() for each in made]) for one, (given, made) in decided]

    assert run(tmp_path / "calm", disturbed=False) == run(tmp_path / "disturbed", disturbed=True)
