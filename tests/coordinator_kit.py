"""What the coordinator's tests share: a small experiment, events of its parties, a scripted site on a bus."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from brokers import PATIENCE

from coordinator.config import CoordinatorConfig, Limits
from coordinator.core import inputs as i
from coordinator.loop.file_checks import Find, check_file, find_nothing
from deploy.broker.definitions import render_definitions
from deploy.broker.topology import Party
from messages import envelope, kinds
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from messages.experiment import Experiment
from messages.scores import ScoreSums, SplitScores
from messages.tensors.codecs import CodecName
from messages.tensors.layout import Manifest, chunk_digests, manifest_of, seal_transfer, tensors_of, write_into
from messages.tensors.transfer import ChunkHeader, TransferKey, decode_chunk, encode_chunk
from nets.digest import arrays_digest

SITES = ("site-a", "site-b", "site-c")
CONSORTIUM = "demo"
ARRAYS = {"conv.weight": np.arange(1000, dtype=np.float32).reshape(10, 100), "norm.count": np.array(3)}
MANIFEST = manifest_of(ARRAYS, 1024)
PLATFORM = kinds.Platform(device_type="cpu", threads=1, versions={}, deterministic=True)


def plain(**changes: Any) -> dict[str, Any]:
    """An experiment's content; keyword arguments replace whole sections."""
    return {
        "schema": 1,
        "id": "exp-1",
        "sites": list(SITES),
        "task": {"kind": "segmentation", "channels": ["T1"], "regions": {"WT": ["ED"]}},
        "data": {"dataset": "glioma"},
        "net": {"name": "UNet", "channels": [4, 8], "strides": [2]},
        "rounds": {"count": 2, "enrol_within": 100.0, "train_within": 1000.0, "grace": 50.0},
        "quorum": {"least_sites": 2},
    } | changes


def counts(train: int) -> kinds.CaseCounts:
    return kinds.CaseCounts(found=train, used=train, train=train, validation=1, test=1)


def scores(mean: float) -> SplitScores:
    return SplitScores(cases=1, metrics={"dice": {"WT": ScoreSums(n=1, sum=mean, squares=mean * mean)}})


def transfer(number: int, attempt: int = 1, sealed: str = "ab" * 32) -> kinds.Transfer:
    return kinds.Transfer(round=number, attempt=attempt, seal=sealed, manifest=MANIFEST)


def weights(number: int, attempt: int = 1, cases: int = 10, **changes: Any) -> kinds.WeightsReady:
    given: dict[str, Any] = {
        "transfer": transfer(number, attempt),
        "cases_used": cases,
        "cases": counts(cases),
        "epochs": 1,
        "steps": 1,
        "loss": 0.5,
        "seconds": 1.0,
        "platform": PLATFORM,
    }
    return kinds.WeightsReady(**(given | changes))


def received(
    kind: str,
    body: kinds.Body,
    sender: str,
    time: float,
    *,
    number: int = 0,
    attempt: int | str = 1,
    known: bool = True,
    experiment: str = "exp-1",
    find: Find = find_nothing,
) -> i.Received:
    event = Author(CONSORTIUM, sender).write_event(
        kind, body, time=time, experiment=experiment, round_number=number, attempt=attempt, seq=1
    )
    found = check_file(event, find) if known else None
    return i.Received(time=time, raw=event.raw, known=known, admitted=SITES, file_check=found)


def build(experiment: Experiment, out: Path, manifest: Path, limits: Limits) -> None:
    """An initial model without torch."""
    buffer = bytearray(MANIFEST.nbytes)
    write_into(ARRAYS, MANIFEST, memoryview(buffer))
    out.write_bytes(buffer)
    manifest.write_text(MANIFEST.model_dump_json())


def broker() -> MemoryBroker:
    parties = [Party("coordinator", "coordinator", "x"), Party("dr-a", "researcher", "x")]
    return MemoryBroker(render_definitions(CONSORTIUM, [*parties, *(Party(site, "site", "x") for site in SITES)]))


def config(folder: Path, sites: tuple[str, ...] = SITES, **sections: Any) -> CoordinatorConfig:
    return CoordinatorConfig.model_validate(
        {
            "schema": 1,
            "coordinator": {
                "consortium": CONSORTIUM,
                "state": folder,
                "sites": sites,
                "researchers": ["dr-a"],
            },
            "limits": {"disk_reserve": 0},
            **sections,
        }
    )


class Waiting:
    """Waits on conditions with a deadline."""

    def __init__(self) -> None:
        self.changed = threading.Condition()

    def until(self, condition: Callable[[], Any], what: str, within: float = PATIENCE) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, within), f"in vain: {what}"


class ScriptedSite:
    """A site that adds its number to the model it gets; answers each event as the protocol says.

    `spoil` may change an update's bytes before they are sent (round, buffer) → buffer. `lost_chunks` of an update never
    arrive, however often they are asked for, until `find_chunks`.
    """

    def __init__(self, broker_: MemoryBroker, name: str, cases: int) -> None:
        self.name, self.cases = name, cases
        self.author = Author(CONSORTIUM, name, 1)
        self.chunks: dict[TransferKey, dict[int, bytes]] = {}
        self.codecs: dict[str, CodecName] = {}
        self.judged = {"final": 0.5, "selected": 0.5}
        self.starts: dict[str, kinds.Body] = {}
        self.heard: list[envelope.Event] = []
        self.updates: dict[int, tuple[Manifest, bytes]] = {}
        self.receipts: set[str] = set()
        self.refused: list[kinds.Refused] = []
        self.done: set[str] = set()
        self.spoil: Callable[[int, bytearray], bytearray] = lambda _number, buffer: buffer
        self.lost_chunks: set[int] = set()
        self.news = Waiting()
        self.bus = MemoryBus(broker_, name)
        self._inbox = self.bus.subscribe(f"inbox.{name}", self._take, exclusive=True)
        self._down = self.bus.subscribe("downlink", self._take)
        self._global = self.bus.subscribe("global", self._take)
        self.say("hello", kinds.Hello(versions={}), "none", 0)

    def say(self, kind: str, body: kinds.Body, experiment: str, number: int, attempt: int = 1) -> str:
        event = self.author.write_event(
            kind, body, time=0.0, experiment=experiment, round_number=number, attempt=attempt, seq=1
        )
        self.bus.publish(event.key, event.raw)
        return event.id

    def close(self) -> None:
        self.bus.close()

    def find_chunks(self, experiment: str, number: int) -> None:
        """What was lost of a round's update arrives after all."""
        lost, self.lost_chunks = self.lost_chunks, set()
        self.send_update(experiment, number, sorted(lost))

    def _take(self, delivery: Delivery) -> None:
        if delivery.queue == "global":
            header, data = decode_chunk(delivery.body)
            self.chunks.setdefault(header.key, {})[header.index] = bytes(data)
            self._try()
        else:
            self._event(envelope.decode_event(delivery.body))
        subscription = {"global": "_global", "downlink": "_down"}.get(delivery.queue, "_inbox")
        if hasattr(self, subscription):
            getattr(self, subscription).ack(delivery)
        with self.news.changed:
            self.news.changed.notify_all()

    def _event(self, event: envelope.Event) -> None:
        self.heard.append(event)
        body = event.body
        if isinstance(body, kinds.Standing):
            for raw in body.events:
                self._event(envelope.decode_event(raw))
        elif isinstance(body, kinds.Receipt):
            self.receipts.update(body.events)
        elif isinstance(body, kinds.Refused):
            self.refused.append(body)
        elif isinstance(body, kinds.ChunksWanted):
            self.send_update(event.experiment, body.round, body.chunks, skip=self.lost_chunks)
        elif isinstance(body, kinds.ExperimentAccepted) and event.id not in self.done:
            self.codecs[event.experiment] = Experiment.model_validate(body.experiment).wire.codec
            self.done.add(event.id)
            self.say("joined", kinds.Joined(cases=counts(self.cases), platform=PLATFORM), event.experiment, 0)
        elif isinstance(body, kinds.RoundStart | kinds.EvaluationStart):
            self.starts[event.id] = body
            if event.id not in self.done:
                self.say("round-accepted", kinds.RoundAccepted(), event.experiment, event.round)
                self.say("round-accepted", kinds.RoundAccepted(), event.experiment, event.round)
            self._try()

    def _model(self, experiment: str, one: kinds.Transfer) -> bytes | None:
        got = self.chunks.get(TransferKey(experiment, one.round, "coordinator", one.attempt), {})
        if len(got) < one.manifest.chunks:
            body = kinds.ChunksWanted(round=one.round, attempt=one.attempt, seal=one.seal)
            event = self.author.write_event("chunks-wanted", body, time=0.0, experiment=experiment)
            if not got and self.asks:
                self.bus.publish(event.key_to("coordinator"), event.raw)
            return None
        return b"".join(got[index] for index in range(one.manifest.chunks))

    def _try(self) -> None:
        for event in [one for one in self.heard if one.id in self.starts and one.id not in self.done]:
            body = event.body
            if isinstance(body, kinds.RoundStart):
                model = self._model(event.experiment, body.transfer)
                if model is not None:
                    self.done.add(event.id)
                    self._train(event, body, model)
            elif isinstance(body, kinds.EvaluationStart):
                self.done.add(event.id)
                found = {
                    one.label: kinds.ModelScores(
                        model_digest=one.model_digest,
                        splits={"validation": scores(self.judged[one.label]), "test": scores(0.25)},
                    )
                    for one in body.models
                }
                self.say("evaluated", kinds.Evaluated(scores=found), event.experiment, event.round)

    def _train(self, event: envelope.Event, body: kinds.RoundStart, model: bytes) -> None:
        received = tensors_of(body.transfer.manifest, model)
        trained = {name: one.read_all() for name, one in received.items()}
        if body.transfer.manifest.codec == "float32":
            assert arrays_digest(trained) == body.model_digest
        for array in trained.values():
            array += ord(self.name[-1]) % 7 + event.round
        manifest = body.transfer.manifest.in_codec(self.codecs[event.experiment])
        buffer = bytearray(manifest.nbytes)
        write_into(trained, manifest, memoryview(buffer), received)
        sealed = seal_transfer(manifest, chunk_digests(manifest, buffer))
        sent = bytes(self.spoil(event.round, buffer))
        if self.spoil_seal:
            sealed = seal_transfer(manifest, chunk_digests(manifest, sent))
        self.updates[event.round] = (manifest, sent)
        self.send_update(event.experiment, event.round, None, skip=self.lost_chunks)
        ready = weights(
            event.round,
            cases=self.cases,
            transfer=kinds.Transfer(round=event.round, attempt=1, seal=sealed, manifest=manifest),
            validation=scores(0.5) if body.evaluate else None,
        )
        self.say("weights-ready", ready, event.experiment, event.round)

    spoil_seal = True
    asks = True
    """Whether it asks for a model of which nothing has come yet."""

    def send_update(self, experiment: str, number: int, chunks: list[int] | None, skip: set[int] | None = None) -> None:
        from hashlib import sha256

        manifest, buffer = self.updates[number]
        key = TransferKey(experiment, number, self.name, 1)
        for index in range(manifest.chunks) if chunks is None else chunks:
            if index in (skip or set()):
                continue
            data = buffer[slice(*manifest.chunk_range(index))]
            header = ChunkHeader(key, index, manifest.chunk_bytes, len(buffer), sha256(data).digest())
            self.bus.publish(f"update-chunk.{self.name}.{experiment}", encode_chunk(header, data))
