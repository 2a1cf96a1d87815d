"""The whole agent on the bus in memory: terms, a standing, a lost broker, a twin, a full disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import site_consortium as script
import structlog
from agent_rig import Running, Start, joined, training
from brokers import eventually
from gated_trainer import Gate
from structlog.testing import LogCapture

from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from messages.ground.errors import NameTaken, RequestError
from messages.kinds import CoordinatorHello, Standing
from site_agent.service import Agent


def test_an_older_term_is_refused_and_counted(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    running = start()
    new = Author(script.CONSORTIUM, "coordinator", 1, 5)
    coordinator.say("coordinator-hello", CoordinatorHello(versions={}), author=new)
    coordinator.accept()  # of term 1
    eventually(lambda: running.ask("status")["refused_messages"].get("old-term") == 1, what="the refusal")
    assert len(eventually(lambda: coordinator.of("hello")[1:], what="hello to the new term")) == 1
    assert not coordinator.of("joined")


def test_a_standing_brings_what_the_site_missed(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    old = Author(script.CONSORTIUM, "coordinator", 1, 1)
    coordinator.author = Author(script.CONSORTIUM, "coordinator", 2, 2)
    start()
    eventually(lambda: coordinator.of("hello"), what="hello")
    new, coordinator.author = coordinator.author, old
    plain = script.experiment_file()
    written: list[bytes] = []
    coordinator.say = lambda kind, body, **more: written.append(  # type: ignore[method-assign,assignment]
        old.write_event(
            kind, body, time=0.0, experiment=more["experiment"], round_number=more.get("round_number", 0)
        ).raw
    )
    coordinator.accept(plain)
    coordinator.start_round(1)
    del coordinator.say  # type: ignore[method-assign]
    coordinator.author = new
    coordinator.say("standing", Standing(state="training", events=written), experiment="exp-1", to="site-a")
    eventually(lambda: coordinator.of("joined"), what="joined")
    eventually(lambda: coordinator.of("round-accepted", 1), what="round-accepted")
    coordinator.send_model(1)
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")


def test_a_lost_broker_is_shown_and_the_agent_goes_on(
    start: Start, broker: MemoryBroker, coordinator: script.ScriptedCoordinator, gate: Gate
) -> None:
    running = start(training={"command": gate.trainer})
    gate.hold("site-a")
    training(coordinator, running)
    broker.stop()
    eventually(lambda: running.ask("status")["broker"] == "lost", what="the loss to be shown")
    gate.open("site-a")
    eventually(lambda: running.ask("status")["state"] == "sending", what="the update")
    broker.start()
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")
    eventually(lambda: len(coordinator.of("hello")) >= 2, what="another hello")


def test_two_agents_on_one_state_directory_or_one_name_are_refused(
    start: Start, broker: MemoryBroker, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    start()
    eventually(lambda: coordinator.of("hello"), what="hello")
    with pytest.raises(RequestError, match="another agent works on this state directory"):
        Running(broker, script.site_config(tmp_path / "state"))
    elsewhere = script.site_config(tmp_path / "other")
    twin = Agent(elsewhere, lambda c, notice: MemoryBus(broker, c.site.name, on_notice=notice))
    with pytest.raises(NameTaken) as refused:
        twin.run()
    assert refused.value.exit_status == 2


def fill(database: sqlite3.Connection) -> None:
    """Write until nothing more goes in."""
    for number in range(100_000):
        database.execute("INSERT INTO seen VALUES (?, 0)", (f"filler-{number}",))


def test_a_full_disk_is_waited_for_and_nothing_is_lost(
    start: Start, coordinator: script.ScriptedCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    joined(coordinator)
    eventually(lambda: running.ask("status")["unreceipted"] == 0, what="quiet")
    spool = running.agent.spool
    with spool._guard:
        # SQLite says "database or disk is full" at this many pages.
        spool._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(sqlite3.OperationalError, match="full"):
            fill(spool._db)
    seen: list[str] = []
    see = spool.note_seen

    def counting(identity: str, now: float) -> bool:
        seen.append(identity)
        return see(identity, now)

    monkeypatch.setattr(spool, "note_seen", counting)
    said = LogCapture()
    monkeypatch.setattr("site_agent.loop.steps.log", structlog.wrap_logger(structlog.PrintLogger(), processors=[said]))
    coordinator.send_model(1)
    announced = coordinator.start_round(1)
    eventually(lambda: seen.count(announced.id) >= 3, what="the event to be tried again and again")
    # a log that tells of it each time helps to fill the disk
    assert [one["event"] for one in said.entries].count("cannot be stored, trying again") == 1
    assert not coordinator.of("round-accepted")
    with spool._guard:
        spool._db.execute(f"PRAGMA max_page_count = {2**30}")
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")
