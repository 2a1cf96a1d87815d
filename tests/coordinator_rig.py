"""The whole coordinator in memory, with scripted sites and no torch: started, stopped and asked by a test."""

from __future__ import annotations

import threading
from pathlib import Path

from brokers import PATIENCE
from coordinator_kit import CONSORTIUM, SITES, ScriptedSite, Waiting, broker, build, config

from coordinator.service import Coordinator
from messages import envelope, kinds
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from messages.ground.errors import KonsilError


def coordinator(on: MemoryBroker, folder: Path) -> Coordinator:
    return Coordinator(
        config(folder),
        connect=lambda _config, notice: MemoryBus(on, "coordinator", on_notice=notice),
        build=build,
    )


class Consortium:
    """A broker, a researcher, and what runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.broker: MemoryBroker = broker()
        self.news = Waiting()
        self.heard: list[envelope.Event] = []
        self.entries = 0
        self.researcher = MemoryBus(self.broker, "dr-a")
        self._down = self.researcher.subscribe("downlink", self._take)
        self._audit = self.researcher.subscribe("audit", self._entry)
        self._models = self.researcher.subscribe("models", self._take)
        self.sites: list[ScriptedSite] = []
        self.coordinator: Coordinator | None = None
        self.thread: threading.Thread | None = None

    def _take(self, delivery: Delivery) -> None:
        if delivery.user == "coordinator" and not delivery.key.startswith("model-chunk"):
            self.heard.append(envelope.decode_event(delivery.body))
        (self._down if delivery.queue == "downlink" else self._models).ack(delivery)
        with self.news.changed:
            self.news.changed.notify_all()

    def _entry(self, delivery: Delivery) -> None:
        self.entries += 1
        self._audit.ack(delivery)

    def start(self) -> Coordinator:
        self.coordinator = coordinator(self.broker, self.folder)
        self.thread = threading.Thread(target=self.coordinator.run)
        self.thread.start()
        return self.coordinator

    def stop(self) -> None:
        if self.coordinator is not None and self.thread is not None:
            self.coordinator.stop()
            self.thread.join(PATIENCE)
            assert not self.thread.is_alive()
            self.coordinator = None

    def join(self) -> None:
        self.sites += [ScriptedSite(self.broker, name, 10 * (n + 1)) for n, name in enumerate(SITES)]

    def say(self, kind: str, body: kinds.Body, attempt: int = 1, experiment: str = "exp-1") -> None:
        event = Author(CONSORTIUM, "dr-a").write_event(
            kind, body, time=float(attempt), experiment=experiment, attempt=attempt, seq=attempt
        )
        self.researcher.publish(event.key, event.raw)

    def until(self, kind: str, count: int = 1) -> envelope.Event:
        found: list[envelope.Event] = []

        def there() -> bool:
            seen = {one.id: one for one in self.heard if one.kind == kind}
            found[:] = list(seen.values())
            return len(found) >= count

        self.news.until(there, f"{count} × {kind}; heard {[one.kind for one in self.heard]}")
        return found[-1]

    def close(self) -> None:
        self.stop()
        for site in self.sites:
            site.close()
        self.researcher.close()


def body_of(event: envelope.Event) -> kinds.ExperimentComplete:
    assert isinstance(event.body, kinds.ExperimentComplete)
    return event.body


def calm_digest(folder: Path, start: kinds.ExperimentStart) -> str:
    """The final model's digest of a run to which nothing happens."""
    made = Consortium(folder)
    try:
        made.start()
        made.join()
        made.say("experiment-start", start)
        return body_of(made.until("experiment-complete")).final_digest
    finally:
        made.close()


def running(consortium: Consortium) -> Coordinator:
    assert consortium.coordinator is not None
    return consortium.coordinator


class Ending(threading.Thread):
    """Runs a coordinator that is to end by itself."""

    def __init__(self, one: Coordinator) -> None:
        super().__init__()
        self._one = one
        self.error: KonsilError | None = None
        self.start()

    def run(self) -> None:
        try:
            self._one.run()
        except KonsilError as error:
            self.error = error

    def ended(self) -> KonsilError:
        self.join(PATIENCE)
        assert not self.is_alive()
        assert self.error is not None
        return self.error
