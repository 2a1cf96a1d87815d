"""What goes out: events, chunks of models, and the journal's entries, each on a thread of its own.

Publishing blocks while the broker is away or slow; the main loop never does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from coordinator.record.journal import AuditPosition
from coordinator.wire.overflow import Overflow
from coordinator.work.blobs import Blobs
from messages.bus.base import Bus, Confirm
from messages.ground import crash, logs
from messages.ground.clock import Clock
from messages.ground.errors import BrokerUnreachable, KonsilError
from messages.ground.fairness import choose_turn, note_turn
from messages.ground.metrics import PHASES
from messages.kinds import ROUTES
from messages.names import COORDINATOR, PROGRESS, RoutingKey
from messages.tensors.layout import Manifest
from messages.tensors.signed_chunks import ChunkSigner
from messages.tensors.transfer import ChunkHeader, TransferKey, chunk_pieces

log = structlog.get_logger("coordinator.wire.outgoing")
MOST_LIVE = 64
"""Events that wait, from which on no live message joins them: alive comes every few seconds, whatever waits."""
CONFIRM_WITHIN = 600.0
"""Seconds until a finished model that the broker has not confirmed is sent again."""


class Items(Protocol):
    """Where a worker's items wait."""

    def put(self, item: Any) -> None:
        """Add one; None: the end."""

    def get(self) -> Any:
        """The next one; None at the end."""


class Worker:
    """A thread that takes items one by one until None."""

    def __init__(self, name: str, clock: Clock, items: Items | None = None) -> None:
        self.queue: Items = clock.make_queue() if items is None else items
        self._thread = clock.make_thread(self._handle_items, name)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """End after what is queued, or after the time."""
        self.queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout)

    @property
    def running(self) -> bool:
        """Whether the thread is still at work."""
        return self._thread.is_alive()

    def handle_item(self, item: Any) -> None:
        """Do one item's work."""
        raise NotImplementedError

    def tell_concern(self, item: Any) -> tuple[str | None, int | None]:
        """Experiment and round of an item, for the log."""
        return None, None

    def _handle_items(self) -> None:
        while (item := self.queue.get()) is not None:
            with logs.bind_experiment(*self.tell_concern(item)):
                try:
                    self.handle_item(item)
                except BrokerUnreachable:
                    return
                except (KonsilError, OSError, ValueError) as error:
                    log.error("could not be sent", error=type(error).__name__, detail=str(error))
                except Exception as error:  # whatever one item did, the thread lives for those behind it
                    log.exception("could not be sent: a defect", error=type(error).__name__)


class Events(Worker):
    """Publishes events in order; what the bus does not take yet waits on the disk.

    Args:
        folder: the coordinator's state.
    """

    def __init__(self, bus: Bus, folder: Path, clock: Clock) -> None:
        self.waiting = Overflow(folder, clock)
        super().__init__("events-out", clock, self.waiting)
        self._bus = bus
        self.dropped = 0
        """Live messages that were dropped, because too much waited before them."""

    def send_event(self, key: str, raw: bytes) -> None:
        """Queue one event; a live message is dropped where it would wait behind many (protocol rule 7)."""
        if len(self.waiting) >= MOST_LIVE and ROUTES.get(key.partition(".")[0]) == PROGRESS:
            self.dropped += 1
        else:
            self.queue.put((key, raw))

    def stop(self, timeout: float = 5.0) -> None:
        """End as any worker does, and give the file back."""
        super().stop(timeout)
        if not self.running:
            self.waiting.close()

    def handle_item(self, item: Any) -> None:
        """Publish one event."""
        self._bus.publish(*item)


@dataclass(frozen=True, slots=True)
class Shipment:
    """Chunks of a model to send; `chunks` None means all. `done`: called when the broker has confirmed them.

    `attempt` 2: exactly, after the model went out in another codec (`models.transfer_of`).
    """

    kind: str
    experiment: str
    round: int
    seal: str
    manifest: Manifest
    chunks: tuple[int, ...] | None = None
    done: Callable[[], None] | None = None
    attempt: int = 1
    owner: str = ""
    """Who asked for it beside what experiments need: it waits behind that."""


class _Waiting:
    """Shipments that wait: what experiments need first, in the order in which it came; then what somebody asked for, in
    turns by owner."""

    def __init__(self, clock: Clock) -> None:
        self._changed = clock.make_condition()
        self._needed: deque[Any] = deque()
        self._asked: list[tuple[str, Any]] = []
        self._served: tuple[str, ...] = ()

    def put(self, item: Any) -> None:
        """Add one; the end comes before what was only asked for."""
        with self._changed:
            if item is not None and item[0].owner:
                self._asked.append((item[0].owner, item))
            else:
                self._needed.append(item)
            self._changed.notify()

    def get(self) -> Any:
        """The next one."""
        with self._changed:
            self._changed.wait_for(lambda: self._needed or self._asked)
            if self._needed:
                return self._needed.popleft()
            owner, item = self._asked.pop(choose_turn([owner for owner, _item in self._asked], self._served))
            self._served = note_turn(self._served, owner)
            return item


class Models(Worker):
    """Publishes chunks of models; a chunk that is queued already is not queued twice, however many sites ask."""

    def __init__(self, bus: Bus, blobs: Blobs, clock: Clock, signer: ChunkSigner | None = None) -> None:
        super().__init__("models-out", clock, _Waiting(clock))
        self._bus, self._blobs, self._signer = bus, blobs, signer
        self._lock = threading.Lock()
        self._queued: set[tuple[str, int, int, str, int]] = set()
        self.bytes_sent = 0

    def send_shipment(self, shipment: Shipment) -> int:
        """Queue the shipment's chunks; returns the bytes of those that did not wait already."""
        wanted = range(shipment.manifest.chunks) if shipment.chunks is None else shipment.chunks
        with self._lock:
            keys = [
                (shipment.experiment, shipment.round, shipment.attempt, shipment.kind, index)
                for index in wanted
                if 0 <= index < shipment.manifest.chunks
            ]
            fresh = [key for key in keys if key not in self._queued]
            self._queued.update(fresh)
        self.queue.put((shipment, fresh))
        bounds = (shipment.manifest.chunk_range(key[-1]) for key in fresh)
        return sum(end - start for start, end in bounds)

    def tell_concern(self, item: Any) -> tuple[str | None, int | None]:
        """The shipment's."""
        return item[0].experiment, item[0].round

    def handle_item(self, item: Any) -> None:
        """Publish a shipment."""
        shipment, keys = item
        confirms: list[Confirm] = []
        try:
            buffer = self._blobs.open_blob(shipment.experiment, shipment.seal, shipment.manifest)
            transfer = TransferKey(shipment.experiment, shipment.round, COORDINATOR, shipment.attempt)
            key = str(RoutingKey(shipment.kind, COORDINATOR, shipment.experiment))
            manifest, view = shipment.manifest, buffer.data
            size, total = manifest.chunk_bytes, manifest.nbytes
            digests = self._blobs.sealer.chunk_digests(manifest, buffer, shipment.seal)
            for place in keys:
                data = view[slice(*manifest.chunk_range(place[-1]))]
                header = ChunkHeader(transfer, place[-1], size, total, digests[place[-1]])
                # Whoever reads finished models may be of an older version: they count by the seal in a signed event.
                if self._signer is not None and shipment.kind == "global-chunk":
                    header = self._signer.sign(header)
                body = chunk_pieces(header, data)
                with PHASES.time_phase("publish", bytes=sum(map(len, body))):
                    confirm = self._bus.publish(key, body)
                self.bytes_sent += len(data)
                crash.pass_step("coordinator:sending-model")
                if shipment.done is not None:
                    confirms.append(confirm)
                with self._lock:
                    self._queued.discard(place)
        finally:
            with self._lock:
                self._queued.difference_update(keys)
        if shipment.done is None:
            return
        if all(confirm.wait(CONFIRM_WITHIN) for confirm in confirms):
            shipment.done()
        else:
            log.warning("the broker does not confirm a finished model: it is sent again")
            self.send_shipment(shipment)


@dataclass(frozen=True, slots=True)
class _Again:
    last: int | None


class Audit(Worker):
    """Publishes the journal's entries to `audit`, from the last number whose publish was confirmed."""

    WINDOW = 200

    def __init__(self, bus: Bus, path: Path, clock: Clock) -> None:
        super().__init__("audit-out", clock)
        self._bus, self._path = bus, path
        self._position: AuditPosition | None = None
        self._woken = clock.make_event()

    def wake_up(self) -> None:
        """There is a new entry."""
        if not self._woken.is_set():
            self._woken.set()
            self.queue.put(True)

    def publish_again(self, last: int | None = None) -> None:
        """Publish entries again that the broker may have lost: so many of the last, None: all.

        Readers know entries by their numbers.
        """
        self.queue.put(_Again(last))

    def handle_item(self, item: Any) -> None:
        """Publish what is new."""
        self._woken.clear()
        if self._position is None:
            self._position = AuditPosition(self._path)
        number = self._position.read_number()
        if isinstance(item, _Again) and number:
            number = 0 if item.last is None else max(0, number - item.last)
            self._position.write_number(number)
            log.info("the event log is published again", after=number)
        while True:
            window: list[tuple[int, Confirm]] = []
            for entry in self._position.entries(number):
                key = str(RoutingKey("journal-entry", COORDINATOR, entry.experiment))
                window.append((entry.number, self._bus.publish(key, entry.encode())))
                if len(window) >= self.WINDOW:
                    break
            if not window:
                return
            for _number, confirm in window:
                if not confirm.wait(60):
                    log.warning("the broker does not confirm the event log", entry=_number)
                    self.wake_up()
                    return
            number = window[-1][0]
            self._position.write_number(number)

    def stop(self, timeout: float = 5.0) -> None:
        """End as any worker does, and close the journal's second connection."""
        super().stop(timeout)
        if self._position is not None and not self.running:
            self._position.close()
            self._position = None
