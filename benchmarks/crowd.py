"""Any number of simulated sites as one light party: what they say is real, what they are is a name and a counter.

Each site answers as the protocol asks (docs/protocol.md, rules 1 to 5): `joined`, `round-accepted`, the chunks of
its update, `weights-ready`, `evaluated`, and chunks again where they are wanted. All of it runs on one bus's thread,
so its time can be told from the coordinator's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from deploy.broker.definitions import Definitions, render_definitions
from deploy.broker.topology import Party, StreamSizes
from messages import envelope, kinds, names
from messages.bus.base import Delivery, Subscription
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from messages.scores import ScoreSums, SplitScores
from messages.tensors.layout import chunk_digests, seal_transfer
from messages.tensors.transfer import ChunkHeader, TransferKey, decode_chunk, encode_chunk

CROWD, RESEARCHER = "crowd", "researcher"
PLATFORM = kinds.Platform(device_type="cpu", threads=1, versions={}, deterministic=True)
SIZES = StreamSizes(events=64 * 2**20, audit=2**20, model_chunks=2**20, update_chunks=1, progress=2**20)
"""An update's stream keeps one chunk: what the broker holds is not to drown what the coordinator does."""


def definitions(consortium: str, sites: Sequence[str]) -> Definitions:
    """A consortium whose party `crowd` may read every site's inbox."""
    parties = [Party(names.COORDINATOR, "coordinator", "x"), Party(RESEARCHER, "researcher", "x")]
    parties += [Party(site, "site", "x") for site in (*sites, CROWD)]
    rendered = render_definitions(consortium, parties, SIZES)
    for entry in rendered["permissions"]:
        if entry["user"] == CROWD:
            entry["read"] = r"^(downlink|global|inbox\.[a-z0-9-]+)$"
    return rendered


def scores(mean: float) -> SplitScores:
    return SplitScores(cases=1, metrics={"dice": {"WT": ScoreSums(n=1, sum=mean, squares=mean * mean)}})


class Crowd:
    """All sites of a consortium.

    Args:
        cases: site → training cases.
        heard: called with each event on `downlink`, before it is answered.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        consortium: str,
        cases: Mapping[str, int],
        heard: Callable[[envelope.Event], None],
    ) -> None:
        self._broker, self._cases, self._heard = broker, dict(cases), heard
        self._authors = {site: Author(consortium, site, 1) for site in self._cases}
        self._seq = dict.fromkeys(self._cases, 0)
        self._models: dict[tuple[str, int], dict[int, bytes]] = {}
        self._open: envelope.Event | None = None
        self._number = {site: place % 7 + 1 for place, site in enumerate(self._cases)}
        self._sent: set[tuple[str, int]] = set()
        self._bus = MemoryBus(broker, CROWD)
        self._subscriptions: dict[str, Subscription] = {}
        self._ready = threading.Event()
        for queue in (names.DOWNLINK, names.GLOBAL, *(names.inbox_of(site) for site in self._cases)):
            self._subscriptions[queue] = self._bus.subscribe(queue, self._take)
        self._ready.set()

    def close(self) -> None:
        """Leave."""
        self._bus.close()

    def _take(self, delivery: Delivery) -> None:
        self._ready.wait()
        if delivery.queue == names.GLOBAL:
            header, data = decode_chunk(delivery.body)
            place = (header.key.experiment, header.key.round)
            self._models = {place: self._models.get(place, {})}
            self._models[place][header.index] = bytes(data)
            self._train()
        elif delivery.queue == names.DOWNLINK:
            event = envelope.decode_event(delivery.body)
            self._heard(event)
            self._announced(event)
        elif delivery.key.startswith("chunks-wanted."):
            event = envelope.decode_event(delivery.body)
            if isinstance(event.body, kinds.ChunksWanted):
                self._send(delivery.queue.removeprefix("inbox."), event.body.chunks)
        self._subscriptions[delivery.queue].ack(delivery)

    def _say(self, site: str, kind: str, body: kinds.Body, event: envelope.Event) -> None:
        self._seq[site] += 1
        said = self._authors[site].write_event(
            kind,
            body,
            time=event.time,
            experiment=event.experiment,
            round_number=0 if kind == "joined" else event.round,
            seq=self._seq[site],
        )
        self._broker.publish(site, said.key, said.raw)

    def _counts(self, site: str) -> kinds.CaseCounts:
        cases = self._cases[site]
        return kinds.CaseCounts(found=cases, used=cases, train=cases, validation=1, test=1)

    def _announced(self, event: envelope.Event) -> None:
        if isinstance(event.body, kinds.ExperimentAccepted):
            for site in self._cases:
                self._say(site, "joined", kinds.Joined(cases=self._counts(site), platform=PLATFORM), event)
        elif isinstance(event.body, kinds.RoundStart):
            if self._open is not None and self._open.id == event.id:
                return
            for site in self._cases:
                self._say(site, "round-accepted", kinds.RoundAccepted(), event)
            self._open = event
            self._train()
        elif isinstance(event.body, kinds.EvaluationStart):
            split = {"validation": scores(0.5), "test": scores(0.25)}
            found = {
                one.label: kinds.ModelScores(model_digest=one.model_digest, splits=split) for one in event.body.models
            }
            for site in self._cases:
                self._say(site, "round-accepted", kinds.RoundAccepted(), event)
                self._say(site, "evaluated", kinds.Evaluated(scores=found), event)

    def _train(self) -> None:
        """Once the round's model is here: every site sends it back with a constant added to each float."""
        if self._open is None or not isinstance(self._open.body, kinds.RoundStart):
            return
        event, manifest = self._open, self._open.body.transfer.manifest
        chunks = self._models.get((event.experiment, event.round), {})
        if len(chunks) < manifest.chunks or (event.experiment, event.round) in self._sent:
            return
        self._sent.add((event.experiment, event.round))
        for site in self._cases:
            update = self._update(site, event)
            self._send(site, None)
            ready = kinds.WeightsReady(
                transfer=kinds.Transfer(
                    round=event.round, seal=seal_transfer(manifest, chunk_digests(manifest, update)), manifest=manifest
                ),
                cases_used=self._cases[site],
                cases=self._counts(site),
                epochs=1,
                steps=1,
                loss=0.5,
                seconds=1.0,
                validation=scores(0.5) if self._open.body.evaluate else None,
                platform=PLATFORM,
            )
            self._say(site, "weights-ready", ready, event)

    def _update(self, site: str, event: envelope.Event) -> NDArray[np.uint8]:
        """Made anew each time it is asked for: 1,000 of them in memory would hide what the coordinator holds."""
        chunks = self._models[(event.experiment, event.round)]
        model = np.frombuffer(b"".join(chunks[index] for index in sorted(chunks)), np.float32)
        return (model + np.float32(self._number[site])).view(np.uint8)

    def _send(self, site: str, chunks: list[int] | None) -> None:
        event = self._open
        if event is None or not isinstance(event.body, kinds.RoundStart):
            return
        manifest, update, experiment = event.body.transfer.manifest, self._update(site, event), event.experiment
        key = TransferKey(experiment, event.round, site, 1)
        for index in range(manifest.chunks) if chunks is None else chunks:
            data = update[slice(*manifest.chunk_range(index))].data
            header = ChunkHeader(key, index, manifest.chunk_bytes, manifest.nbytes, sha256(data).digest())
            self._broker.publish(site, f"update-chunk.{site}.{experiment}", encode_chunk(header, data))
