"""The whole coordinator in memory, with scripted sites and no torch."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from coordinator_kit import (
    CONSORTIUM,
    SITES,
    ScriptedSite,
    Waiting,
    broker,
    build,
    config,
    plain,
)

from coordinator.blobs import Blobs
from coordinator.journal import open_readonly
from coordinator.replay import Status, replay
from coordinator.service import Coordinator
from coordinator.state import Phase
from messages import envelope, kinds
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from messages.errors import NameTaken
from messages.reasons import Reason
from messages.tensors import views


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
        if not delivery.key.startswith("model-chunk"):
            self.heard.append(envelope.decode(delivery.body))
        (self._down if delivery.queue == "downlink" else self._models).ack(delivery)
        with self.news.changed:
            self.news.changed.notify_all()

    def _entry(self, delivery: Delivery) -> None:
        self.entries += 1
        self._audit.ack(delivery)

    def start(self) -> Coordinator:
        self.coordinator = Coordinator(
            config(self.folder),
            connect=lambda _config, notice: MemoryBus(self.broker, "coordinator", on_notice=notice),
            build=build,
        )
        self.thread = threading.Thread(target=self.coordinator.run)
        self.thread.start()
        return self.coordinator

    def stop(self) -> None:
        if self.coordinator is not None and self.thread is not None:
            self.coordinator.stop()
            self.thread.join(20)
            assert not self.thread.is_alive()
            self.coordinator = None

    def join(self) -> None:
        self.sites += [ScriptedSite(self.broker, name, 10 * (n + 1)) for n, name in enumerate(SITES)]

    def say(self, kind: str, body: kinds.Body, attempt: int = 1, experiment: str = "exp-1") -> None:
        event = Author(CONSORTIUM, "dr-a").write(
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


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    made = Consortium(tmp_path)
    yield made
    made.close()


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


def test_three_sites_come_to_the_weighted_mean_and_the_replay_agrees(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"})))
    complete = body_of(consortium.until("experiment-complete"))
    ready = body_of(consortium.until("model-ready"))
    assert ready.model.model_dump() == complete.model.model_dump()
    rounds = [one.body for one in consortium.heard if one.kind == "round-complete"]
    assert [one.contributors for one in rounds if isinstance(one, kinds.RoundComplete)] == [
        {"site-a": 10, "site-b": 20, "site-c": 30}
    ] * 2
    consortium.stop()
    assert complete.model_round == 2
    assert complete.test is not None
    assert complete.test.mean() == 0.25
    blobs = Blobs(consortium.folder / "blobs")
    manifest = complete.model.transfer.manifest
    final = views(manifest, blobs.open("exp-1", complete.model.transfer.seal, manifest))
    gains = [ord(site[-1]) % 7 for site in SITES]
    mean = sum((n + 1) * gain for n, gain in enumerate(gains)) / 6
    expected = np.arange(1000).reshape(10, 100) + 2 * mean + 3
    np.testing.assert_allclose(final["conv.weight"], expected, rtol=1e-6)
    steps = list(replay(open_readonly(consortium.folder), blobs))
    assert [step.problem for step in steps if not step.agrees] == []
    checks = [step.aggregate for step in steps if step.aggregate is not None]
    assert [(one.round, one.status, one.agrees) for one in checks] == [
        (1, Status.RECOMPUTED, True),
        (2, Status.RECOMPUTED, True),
    ]


def test_a_coordinator_that_is_stopped_in_a_round_goes_on_in_it(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()
    held = consortium.sites[2]
    held.lost_chunks = {1, 2}
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"})))
    held.news.until(lambda: 1 in held.updates, "the update of site-c")
    consortium.stop()
    held.lost_chunks = set()
    second = consortium.start()
    assert second.journal.term == 2
    complete = body_of(consortium.until("experiment-complete"))
    assert complete.rounds == 2
    assert len({one.id for one in consortium.heard if one.kind == "round-start"}) == 2


def test_an_update_with_nan_is_refused_and_told_and_the_others_go_on(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()

    def nan(_number: int, buffer: bytearray) -> bytearray:
        buffer[:4] = np.float32("nan").tobytes()
        return buffer

    consortium.sites[0].spoil = nan
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    complete = consortium.until("round-complete").body
    assert isinstance(complete, kinds.RoundComplete)
    assert complete.left_out == {"site-a": Reason.NOT_FINITE_UPDATE}
    told = consortium.sites[0]
    told.news.until(lambda: told.refused, "a refusal")
    assert told.refused[0].reason is Reason.NOT_FINITE_UPDATE
    told.news.until(lambda: told.refused[0].event in told.receipts, "its receipt")


def test_an_update_that_is_not_what_was_sealed_is_asked_for_again_and_then_refused(
    consortium: Consortium,
) -> None:
    consortium.start()
    consortium.join()
    liar = consortium.sites[1]
    liar.spoil_seal = False
    liar.spoil = lambda _number, buffer: bytearray(len(buffer))
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    complete = consortium.until("round-complete").body
    assert isinstance(complete, kinds.RoundComplete)
    assert complete.left_out == {"site-b": Reason.WRONG_DIGEST}
    assert [one.kind for one in liar.heard if one.round == 1].count("chunks-wanted") == 2


def test_a_second_coordinator_on_the_same_journal_is_refused(consortium: Consortium) -> None:
    consortium.start()
    with pytest.raises(NameTaken, match="another coordinator"):
        Coordinator(config(consortium.folder), connect=lambda _c, n: MemoryBus(consortium.broker, "coordinator"))


def test_two_experiments_run_side_by_side(consortium: Consortium) -> None:
    consortium.start()
    consortium.join()
    for name in ("exp-1", "exp-2"):
        body = kinds.ExperimentStart(experiment=plain(id=name))
        consortium.say("experiment-start", body, experiment=name)
    consortium.until("experiment-complete", 2)
    assert {name: state.phase for name, state in consortium.coordinator.shell.states.items()} == {
        "exp-1": Phase.COMPLETE,
        "exp-2": Phase.COMPLETE,
    }


def test_rubbish_on_uplink_is_set_aside_and_the_service_lives(consortium: Consortium) -> None:
    consortium.start()
    bus = MemoryBus(consortium.broker, "site-a")
    bus.publish("joined.site-a.exp-1", b"\xff rubbish")
    bus.publish("joined.site-a.exp-1", b"")
    bus.close()
    consortium.join()
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    consortium.until("experiment-complete")
    consortium.stop()
    kinds_of_entries = [entry.type for entry in open_readonly(consortium.folder)]
    assert kinds_of_entries.count("set-aside") == 2
    assert all(step.agrees for step in replay(open_readonly(consortium.folder), None))
