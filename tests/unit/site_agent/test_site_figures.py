"""What an agent shows of itself: its spool, read beside it, and what its agenda decided."""

from __future__ import annotations

from pathlib import Path

from messages.bus.base import BusState
from messages.envelope import Author
from messages.ground.operating.exposition import Reading
from messages.kinds import Leaving
from messages.reasons import Reason
from site_agent.core.decisions import Deliver, GiveUp
from site_agent.core.jobs import Agenda
from site_agent.disk.spool import Spool
from site_agent.loop.tally import Tally
from site_agent.metrics import STATES, SpoolFigures, look_at_spool, make_readings


def value(shown: dict[str, Reading], name: str, **labels: str) -> float | None:
    return next((value for found, value in shown[name].samples if found == labels), None)


def show(state: Path, agenda: Agenda, tally: Tally, refusals: dict[str, int]) -> dict[str, Reading]:
    found = make_readings(
        tally, agenda, state=state, refusals=refusals, set_aside=2, progress={},
        bytes_down=5, bytes_up=7, trainers=1, incarnation=3,
    )  # fmt: skip
    return {one.name: one for one in found}


def test_what_waits_in_the_spool_is_seen_while_the_agent_writes_to_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "state")
    try:
        event = Author("c", "site-a", 1).write_event("leaving", Leaving(), time=1.0, seq=1)
        with spool.transaction():
            spool.post_event(event)
        spool.note_term(4, None)
        (spool.updates / "exp.1.update").write_bytes(b"x" * 100)
        with spool.transaction():
            spool.post_event(Author("c", "site-a", 2).write_event("leaving", Leaving(), time=2.0, seq=2, attempt=2))
            seen = look_at_spool(tmp_path / "state")
        assert seen == SpoolFigures(1, len(event.raw), 100, 4)
        spool.take_receipted(event.id, 3.0)
        assert look_at_spool(tmp_path / "state").events == 1
    finally:
        spool.close()


def test_a_spool_that_cannot_be_read_counts_as_nothing(tmp_path: Path) -> None:
    assert look_at_spool(tmp_path / "nothing") == SpoolFigures()
    (tmp_path / "spool.sqlite").write_bytes(b"rubbish" * 1000)
    assert look_at_spool(tmp_path) == SpoolFigures()


def test_rounds_are_counted_by_how_they_ended_and_refusals_by_known_reasons_only(tmp_path: Path) -> None:
    tally, agenda = Tally(), Agenda("site-a")
    tally.count_decision(Deliver("exp"))
    tally.count_decision(GiveUp("exp", 2, 1, Reason.CUDA_OOM))
    tally.note_broker(BusState.CONNECTED)
    tally.note_broker(BusState.BLOCKED)
    shown = show(tmp_path, agenda, tally, {"too-large": 2, "/data/patient-7": 1})
    assert value(shown, "konsil_rounds_total", outcome="delivered") == 1
    assert value(shown, "konsil_round_failures_total", reason="cuda-oom") == 1
    assert shown["konsil_messages_refused_total"].samples == (
        ({"reason": "too-large"}, 2),
        ({"reason": "malformed"}, 1),
    )
    assert value(shown, "konsil_broker_connected") == 1
    assert value(shown, "konsil_broker_blocked") == 1
    assert value(shown, "konsil_agent_state", state="idle") == 1
    assert sum(one for _, one in shown["konsil_agent_state"].samples) == 1
    assert {labels["state"] for labels, _ in shown["konsil_agent_state"].samples} == set(STATES)
