"""A coordinator by script, for tests of the site agent: says what a test tells it, and keeps what the site says."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from brokers import PATIENCE

from deploy.broker.definitions import render_definitions
from deploy.broker.topology import Party
from messages.bus.base import Bus, Delivery, Start
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author, Event, decode_event
from messages.experiment import Experiment
from messages.ground.errors import MalformedMessage
from messages.kinds import (
    Body,
    Candidate,
    Echo,
    EchoReply,
    EvaluationStart,
    ExperimentAccepted,
    ExperimentStart,
    Receipt,
    RoundStart,
)
from messages.kinds import Transfer as Sealed
from messages.names import RoutingKey
from messages.tensors import layout
from messages.tensors.codecs import CODECS, CodecName
from messages.tensors.layout import manifest_of
from messages.tensors.transfer import ChunkHeader, TransferKey, decode_chunk, encode_chunk
from nets.digest import model_digest
from site_agent.config import SiteConfig

CONSORTIUM = "test"
PARTIES = (
    Party("coordinator", "coordinator", "c"),
    Party("site-a", "site", "a"),
    Party("dr-a", "researcher", "d"),
)


def broker() -> MemoryBroker:
    return MemoryBroker(render_definitions(CONSORTIUM, PARTIES))


def experiment_file(name: str = "exp-1", **changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "schema": 1,
        "id": name,
        "seed": 7,
        "sites": ["site-a"],
        "task": {"kind": "segmentation", "channels": ["T1"], "regions": {"WT": ["ET"]}},
        "data": {"dataset": "glioma", "least_cases": 5},
        "net": {"name": "UNet"},
        "rounds": {"count": 3},
    }
    return Experiment.model_validate({**plain, **changes}).as_plain()


def site_config(state: Path, *trainer: str, **sections: Any) -> SiteConfig:
    command = [sys.executable, "-m", "site_agent.training.null", *trainer]
    plain: dict[str, Any] = {
        "schema": 1,
        "site": {"name": "site-a", "consortium": CONSORTIUM, "state": str(state)},
        "datasets": {"glioma": {"source": "brats", "path": str(state), "labels": {3: "ET"}}},
        "policy": {"approval": "auto", "allow": [{"researchers": ["dr-a"]}]},
        "training": {"command": command},
    }
    return SiteConfig.model_validate({**plain, **sections})


def round_start(
    transfer: Sealed, *, digest: str = "0" * 64, train_within: float = 60.0, evaluate: bool = False
) -> RoundStart:
    return RoundStart(
        transfer=transfer, model_digest=digest, sites=["site-a"], evaluate=evaluate, train_within=train_within
    )


class ScriptedCoordinator:
    """Receipts every history event of the site, unless `receipting` is off."""

    def __init__(self, on: MemoryBroker | Bus, term: int = 1) -> None:
        self.bus: Bus = MemoryBus(on, "coordinator") if isinstance(on, MemoryBroker) else on
        self.author = Author(CONSORTIUM, "coordinator", 1, term)
        self.heard: list[Event] = []
        self.live: list[Event] = []
        self.chunks: dict[TransferKey, dict[int, bytes]] = {}
        self.set_aside = 0
        self.receipting = True
        self.ago = 0.0
        """Seconds before now by which what it says is dated."""
        self._lock = threading.Lock()
        self.codec: CodecName = "float32"
        self.attempts: dict[int, int] = {}
        for queue in ("uplink", "inbox.coordinator"):
            self.bus.subscribe(queue, self._on_event, credit=10_000)
        self.bus.subscribe("progress", self._on_live, start=Start.NEXT, credit=10_000)
        self.bus.subscribe("update.site-a", self._on_chunk, credit=10_000)

    def _on_event(self, delivery: Delivery) -> None:
        event = decode_event(delivery.body)
        with self._lock:
            self.heard.append(event)
        if isinstance(event.body, Echo):
            self.say("echo-reply", EchoReply(nonce=event.body.nonce, time=time.time()), wait=False)
        if event.seq and self.receipting:
            self.receipt(event)

    def _on_live(self, delivery: Delivery) -> None:
        event = decode_event(delivery.body)
        if event.sender != "coordinator":
            self.live.append(event)

    def _on_chunk(self, delivery: Delivery) -> None:
        try:
            header, data = decode_chunk(delivery.body)
        except MalformedMessage:
            self.set_aside += 1
            return
        self.chunks.setdefault(header.key, {})[header.index] = bytes(data)

    def receipt(self, event: Event) -> None:
        self.say("receipt", Receipt(events=[event.id]), nonce=str(time.time_ns()), to="site-a", wait=False)

    def of(self, kind: str, round_number: int | None = None) -> list[Event]:
        with self._lock:
            return [
                one for one in self.heard if one.kind == kind and (round_number is None or one.round == round_number)
            ]

    def say(
        self,
        kind: str,
        body: Body,
        *,
        experiment: str = "none",
        round_number: int = 0,
        nonce: str | int = 1,
        to: str | None = None,
        author: Author | None = None,
        wait: bool = True,
    ) -> Event:
        event = (author or self.author).write_event(
            kind,
            body,
            time=time.time() - self.ago,
            experiment=experiment,
            round_number=round_number,
            attempt=nonce,
            seq=1,
        )
        confirm = self.bus.publish(event.key if to is None else event.key_to(to), event.raw)
        if wait:
            confirm.wait(PATIENCE)
        return event

    def accept(
        self, plain: dict[str, Any] | None = None, researcher: str = "dr-a", enrol_within: float = 86400.0
    ) -> Event:
        plain = plain or experiment_file()
        original = Author(CONSORTIUM, researcher).write_event(
            "experiment-start", ExperimentStart(experiment=plain), time=0.0, experiment=plain["id"]
        )
        body = ExperimentAccepted(
            experiment=plain,
            digest=Experiment.model_validate(plain).digest(),
            researcher=researcher,
            original=original.raw,
            enrol_within=enrol_within,
        )
        return self.say("experiment-accepted", body, experiment=plain["id"])

    def model(self, round_number: int) -> dict[str, np.ndarray]:
        return {"w": np.full(1500, round_number, np.float32), "b": np.arange(3, dtype=np.float64)}

    def sealed(self, round_number: int) -> tuple[Sealed, list[bytes], memoryview]:
        arrays = self.model(round_number)
        manifest = manifest_of(arrays, chunk_bytes=1024, codec=self.codec)
        buffer = memoryview(bytearray(manifest.nbytes))
        layout.write_into(arrays, manifest, buffer)
        digests = layout.chunk_digests(manifest, buffer)
        seal = layout.seal_transfer(manifest, digests)
        return (
            Sealed(round=round_number, attempt=self.attempts.get(round_number, 1), seal=seal, manifest=manifest),
            digests,
            buffer,
        )

    def send_model(self, round_number: int, experiment: str = "exp-1", skip: tuple[int, ...] = ()) -> None:
        sealed, digests, buffer = self.sealed(round_number)
        key = TransferKey(experiment, round_number, "coordinator", sealed.attempt)
        for index in range(sealed.manifest.chunks):
            if index not in skip:
                start, end = sealed.manifest.chunk_range(index)
                header = ChunkHeader(key, index, 1024, sealed.manifest.nbytes, digests[index])
                route = str(RoutingKey("global-chunk", "coordinator", experiment))
                self.bus.publish(route, encode_chunk(header, buffer[start:end]))

    def digest_of(self, number: int) -> str:
        """Of the model that a round begins with; of a rounded copy any."""
        sealed, _digests, buffer = self.sealed(number)
        return model_digest(sealed.manifest, buffer) if CODECS[sealed.manifest.codec].exact else "0" * 64

    def start_round(
        self,
        number: int,
        experiment: str = "exp-1",
        *,
        digest: str = "",
        train_within: float = 60.0,
        evaluate: bool = False,
    ) -> Event:
        digest = digest or self.digest_of(number)
        body = round_start(self.sealed(number)[0], digest=digest, train_within=train_within, evaluate=evaluate)
        return self.say("round-start", body, experiment=experiment, round_number=number)

    def start_evaluation(self, number: int, selected: int) -> Event:
        models = [
            Candidate(label=label, transfer=self.sealed(one)[0], model_digest=self.digest_of(one))
            for label, one in (("final", number), ("selected", selected))
        ]
        body = EvaluationStart(models=models, sites=["site-a"], evaluate_within=60.0)
        return self.say("evaluation-start", body, experiment="exp-1", round_number=number)

    def update(self, ready: Event) -> dict[str, np.ndarray]:
        """The update that a weights-ready names, put together from its chunks; checks the seal."""
        transfer = ready.body.transfer  # type: ignore[attr-defined]
        key = TransferKey(ready.experiment, ready.round, ready.sender, transfer.attempt)
        parts = self.chunks[key]
        buffer = b"".join(parts[index] for index in range(transfer.manifest.chunks))
        assert layout.seal_transfer(transfer.manifest, layout.chunk_digests(transfer.manifest, buffer)) == transfer.seal
        return {name: one.read_all() for name, one in layout.tensors_of(transfer.manifest, buffer).items()}
