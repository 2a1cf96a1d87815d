"""What the agent says to the service manager, over a real notification socket: ready, status, watchdog."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import site_consortium as script
from brokers import PATIENCE

from messages.bus.memory import MemoryBus
from messages.kinds import Progress
from site_agent.core.jobs import Agenda, Job, Phase
from site_agent.desk import control
from site_agent.desk.status import status_line
from site_agent.service import Agent

TICK = 0.25


class Manager:
    """The service manager's end of sd_notify(3)."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def hear(self, within: float) -> str:
        """The next message, "" where none comes."""
        self._socket.settimeout(within)
        try:
            return self._socket.recv(4096).decode()
        except TimeoutError:
            return ""

    def hears(self, wanted: str) -> bool:
        """Whether it comes, among whatever else is said."""
        deadline = time.monotonic() + PATIENCE
        while (heard := self.hear(0.1)) != wanted and time.monotonic() < deadline:
            pass
        return heard == wanted

    def forget(self) -> None:
        """Drop what was said so far."""
        self._socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(4096)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    one = Manager(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr("site_agent.service.TICK", TICK)
    monkeypatch.setenv("WATCHDOG_USEC", str(int(4e6 * TICK)))
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    yield one
    one.close()


def test_a_main_loop_that_stands_still_starves_the_watchdog_whatever_the_other_threads_do(
    manager: Manager, tmp_path: Path
) -> None:
    broker = script.broker()
    config = script.site_config(tmp_path / "state")
    agent = Agent(config, lambda c, notice: MemoryBus(broker, c.site.name, on_notice=notice))
    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    entered, release = threading.Event(), threading.Event()
    try:
        assert manager.hears("READY=1")
        assert manager.hears("WATCHDOG=1")

        def stand_still() -> None:
            entered.set()
            release.wait(PATIENCE)

        agent.post_work(stand_still)
        assert entered.wait(PATIENCE)
        manager.forget()
        assert threading.active_count() > 2, "there is no other thread that could feed it"
        heard = [manager.hear(TICK) for _ in range(8)]  # twice as long as the manager would wait
        assert heard == [""] * 8
        release.set()
        assert manager.hears("WATCHDOG=1")
    finally:
        release.set()
        agent.stop()
        thread.join(PATIENCE)
    assert manager.hears("STOPPING=1")


def test_it_is_ready_only_once_it_holds_its_inbox(manager: Manager, tmp_path: Path) -> None:
    """An operator may wait for `systemctl start`, and then find the agent answering."""
    broker = script.broker()
    config = script.site_config(tmp_path / "state")
    agent = Agent(config, lambda c, notice: MemoryBus(broker, c.site.name, on_notice=notice))
    thread = threading.Thread(target=agent.run, daemon=True)
    thread.start()
    try:
        assert manager.hears("READY=1")
        assert control.ask_agent(config.site.state, {"do": "status"})["site"] == "site-a"
    finally:
        agent.stop()
        thread.join(PATIENCE)


def an_agenda(phase: Phase, **more: object) -> Agenda:
    job = Job(experiment="exp-1", digest="d", file=script.experiment_file(), researcher="dr-a", phase=phase, round=2)
    return Agenda("site-a", {"exp-1": job}, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("agenda", "progress", "line"),
    [
        (Agenda("site-a"), None, "idle; broker connected"),
        (an_agenda(Phase.IDLE), None, "idle; broker connected"),
        (
            an_agenda(Phase.TRAINING, running="exp-1"),
            Progress(phase="training", done=4, total=10),
            "exp-1: round 2 of 3, training 4 of 10; broker connected",
        ),
        (
            an_agenda(Phase.TRAINING, running="exp-1"),
            Progress(phase="fetching", done=7, total=7),
            "exp-1: round 2 of 3, training; broker connected",
        ),
        (
            an_agenda(Phase.SENDING, queue=("exp-2",)),
            Progress(phase="sending", done=1, total=5),
            "exp-1: round 2 of 3, sending 1 of 5, 1 waiting; broker connected",
        ),
        (
            an_agenda(Phase.PREPARING, running="exp-1"),
            Progress(phase="preparing", done=1, total=20),
            "exp-1: preparing 1 of 20; broker connected",
        ),
        (an_agenda(Phase.IDLE, paused=True), None, "paused; broker connected"),
    ],
)
def test_the_status_line_tells_experiment_round_and_progress(
    agenda: Agenda, progress: Progress | None, line: str
) -> None:
    shown = {} if progress is None else {"exp-1": progress}
    assert status_line(agenda, shown, "connected") == line
