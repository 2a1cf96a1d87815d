"""Chunks of updates → verified blobs, off the main loop: one thread receives, the pool verifies.

Only one attempt of a site's update is kept at a time, and only of the size that the round's model has, so what a
flooding site can make us store is bounded.
"""

from __future__ import annotations

import queue
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from coordinator.core.effects import Expect, Forget, Listen
from coordinator.wire.rates import NOBODY
from coordinator.work.blobs import Blobs
from messages.bus.base import Delivery, Position, digest_of
from messages.ground.clock import Clock, Queue
from messages.ground.durable import is_out_of_space
from messages.ground.errors import KonsilError, MalformedMessage
from messages.ground.logs import Complaints
from messages.names import RoutingKey, update_queue
from messages.tensors.signed_chunks import ChunkCheck
from messages.tensors.transfer import ChunkHeader, Incoming, TransferKey, decode_chunk

FIRST_ASK, LAST_ASK = 5.0, 60.0
"""Seconds of silence until missing chunks are asked for, and the longest pause between two such questions."""
SAVE_EVERY = 0.5
TICK = 0.25
"""Seconds between two looks at what is awaited: never once a chunk."""

ASKED_IN_VAIN = 3
"""After so many questions without an answer the site's stream is read again from its head, once."""
MOST_SKIPPED = 1000
"""Transfers ahead of their round that are noted."""

log = structlog.get_logger("coordinator.wire.incoming")


@dataclass
class _Awaited:
    effect: Expect
    ask_at: float
    pause: float = FIRST_ASK
    all: bool = False
    asked: int = 0
    """How often in vain: nothing of it has come since."""
    reread: bool = False


@dataclass(frozen=True, slots=True)
class Nudge:
    """A sealed update's event came again: its chunks may be lost."""

    experiment: str
    site: str


def _oldest_of(listen: Listen) -> int:
    """The earliest round whose updates are taken."""
    return listen.round if listen.oldest is None else listen.oldest


def _order_of(key: TransferKey) -> tuple[int, int]:
    """What a site begins later has more."""
    return key.round, key.attempt


class ChunkReceiver:
    """Receives updates.

    Args:
        verify: called with a complete transfer and what seals it (None: the blob is there); takes over the files.
        ask: called with what is expected and the missing chunks (None: all).
        save: called with the streams' positions, behind what is on disk.
        reread: called with a stream's name and a position: the stream is to be read again from behind it (None: from
            its head). A coordinator that goes on from an older journal reads chunks before it has come to their round,
            and nobody but the broker still has them: what is skipped is noted, and read again in its round.
        room: raises OSError where so many bytes may not be written.
        broken: called with an expected update over which something raised that nobody foresaw.
        full: called with an experiment for whose update there is no space; what came of it is asked for again later.
        check: asked whether a site wrote a chunk, before its data are looked at; None: nobody is.
        verifying: whether the update that is expected is complete and being verified: its files are the pool's then.
    """

    def __init__(
        self,
        blobs: Blobs,
        verify: Callable[[Incoming | None, Expect], None],
        ask: Callable[[Expect, list[int] | None], None],
        save: Callable[[Mapping[str, Position]], None],
        clock: Clock,
        reread: Callable[[str, Position | None], None] = lambda _queue, _position: None,
        room: Callable[[int], None] = lambda _size: None,
        full: Callable[[str], None] = lambda _experiment: None,
        broken: Callable[[Expect], None] = lambda _effect: None,
        verifying: Callable[[Expect], bool] = lambda _effect: False,
        check: ChunkCheck | None = None,
    ) -> None:
        self._check = check
        self._blobs, self._verify, self._ask, self._save = blobs, verify, ask, save
        self._clock = clock
        self._queue: Queue[Any] = clock.make_queue()
        self._rounds: dict[str, Listen] = {}
        self._transfers: dict[tuple[str, str], Incoming] = {}
        self._done: set[TransferKey] = set()
        self._out_of_space: set[str] = set()
        """Told of once, until the experiment goes on: then it listens again."""
        self._awaited: dict[tuple[str, str], _Awaited] = {}
        self._positions: dict[str, Position] = {}
        self._saved = self._tick_at = 0.0
        self._reread, self._room, self._full, self._verifying = reread, room, full, verifying
        self._broken = broken
        self._before: dict[str, Position] = {}
        """Of each stream the message before the one at hand."""
        self._skipped: OrderedDict[TransferKey, Position | None] = OrderedDict()
        """Transfers that came before their round → where their first chunk is."""
        self.dropped = 0
        self._complaints = Complaints(clock.monotonic)
        self._thread = clock.make_thread(self._handle_items, "incoming")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put_item(self, item: Listen | Expect | Forget | Nudge) -> None:
        """Hand over an effect or a nudge."""
        self._queue.put(item)

    def take_delivery(self, delivery: Delivery, ack: Callable[[Delivery], None]) -> None:
        """Hand over a chunk; `ack` is called once it is in its file."""
        self._queue.put((delivery, ack))

    def stop(self) -> None:
        """Finish what is queued, close the files (they are resumed), end."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _handle_items(self) -> None:
        while True:
            try:
                item = self._queue.get(timeout=self._patience())
            except queue.Empty:
                item = ()
            if item is None:
                break
            try:
                self._handle_item(item)
                self._ask_for_missing(self._clock.monotonic())
                self._complaints.tell_counted()
            except (OSError, KonsilError, ValueError) as error:
                log.error("an update could not be received", error=type(error).__name__, detail=str(error))
            except Exception as error:  # whatever one item did, the thread lives for those behind it
                log.exception("an update could not be received: a defect", error=type(error).__name__)
                if isinstance(item, Expect):
                    self._broken(item)
        for incoming in self._transfers.values():
            incoming.close()

    def _patience(self) -> float | None:
        """Seconds until something may be due; None: not before an item comes."""
        return TICK if self._awaited or self._positions or self._complaints else None

    def _handle_item(self, item: Any) -> None:
        if isinstance(item, tuple) and item:
            self._take_chunk(*item)
        elif isinstance(item, Listen):
            self._forget_before(item)
            self._rounds[item.experiment] = item
            self._out_of_space.discard(item.experiment)
        elif isinstance(item, Expect):
            try:
                self._expect_update(item)
            except OSError as error:
                self._no_space(item.experiment, error)
        elif isinstance(item, Forget):
            self._forget_experiment(item.experiment)
        elif isinstance(item, Nudge):
            awaited = self._awaited.get((item.experiment, item.site))
            if awaited is not None:
                awaited.ask_at = self._clock.monotonic()

    def _forget_before(self, listen: Listen) -> None:
        """Forget what comes of earlier rounds than are listened to."""
        known = self._rounds.get(listen.experiment)
        if known is None or (known.round != listen.round and listen.oldest is None):
            self._forget_experiment(listen.experiment)
            return
        oldest = _oldest_of(listen)
        for place in [one for one in self._transfers if one[0] == listen.experiment]:
            if self._transfers[place].key.round < oldest:
                self._transfers.pop(place).discard()
        for place in [one for one in self._awaited if one[0] == listen.experiment]:
            if self._awaited[place].effect.round < oldest:
                del self._awaited[place]
        self._done = {key for key in self._done if key.experiment != listen.experiment or key.round >= oldest}

    def _forget_experiment(self, experiment: str) -> None:
        self._rounds.pop(experiment, None)
        for place in [one for one in self._transfers if one[0] == experiment]:
            self._transfers.pop(place).discard()
        for place in [one for one in self._awaited if one[0] == experiment]:
            del self._awaited[place]
        self._done = {key for key in self._done if key.experiment != experiment}

    def _take_chunk(self, delivery: Delivery, ack: Callable[[Delivery], None]) -> None:
        try:
            self._store_chunk(delivery)
        except OSError as error:  # it is asked for again, and its credit must not be lost over it
            ack(delivery)
            self._no_space(RoutingKey.parse(delivery.key).experiment, error)
            return
        except (MalformedMessage, ValueError) as error:
            self.dropped += 1
            reason = str(getattr(error, "reason", "malformed"))
            if self._complaints.count_messages(delivery.user or NOBODY, reason):
                log.warning("chunk set aside", queue=delivery.queue, reason=reason)
        if delivery.offset is not None:
            position = Position(delivery.offset, digest_of(delivery.body))
            self._before[delivery.queue] = self._positions[delivery.queue] = position
        ack(delivery)

    def _store_chunk(self, delivery: Delivery) -> None:
        header, data = decode_chunk(delivery.body, self._check_author)
        key, route = header.key, RoutingKey.parse(delivery.key)
        listen = self._rounds.get(key.experiment)
        mine = (route.sender, route.experiment) == (key.sender, key.experiment)
        if delivery.user != key.sender or not mine or delivery.queue != update_queue(key.sender):
            raise MalformedMessage("sender-mismatch", "a chunk under another sender's name")
        if listen is None or key.round > listen.round:
            self._skip_chunk(delivery, key)
            return
        if key.round < _oldest_of(listen) or key.sender not in listen.sites or key in self._done:
            return  # a late chunk, or one that came again
        if header.total != listen.manifest.nbytes:
            raise MalformedMessage("wrong-shape", "a chunk of a transfer of another size")
        place = (key.experiment, key.sender)
        incoming = self._transfers.get(place)
        if incoming is not None and _order_of(incoming.key) > _order_of(key):
            return
        if incoming is not None and (incoming.key, incoming.size) != (key, header.size):
            incoming.discard()
            incoming = None
        if incoming is None:
            incoming = self._open_transfer(key, header.size, header.total)
        incoming.add_chunk(header, data)
        awaited = self._awaited.get(place)
        if awaited is not None:
            awaited.ask_at, awaited.asked = self._clock.monotonic() + FIRST_ASK, 0
            self._finish_transfer(place, incoming, awaited.effect)

    def _check_author(self, header: ChunkHeader) -> None:
        listen = self._rounds.get(header.key.experiment)
        if self._check is not None:
            self._check.check(header, announced=listen is not None and header.key.sender in listen.signed)

    def _no_space(self, experiment: str, error: OSError) -> None:
        if not is_out_of_space(error):
            raise error
        if experiment not in self._out_of_space:
            self._out_of_space.add(experiment)
            log.error("no space for an update", experiment=experiment, detail=error.strerror)
            self._full(experiment)

    def _skip_chunk(self, delivery: Delivery, key: TransferKey) -> None:
        if key in self._skipped or delivery.offset is None:
            return
        before = self._before.get(delivery.queue)
        self._skipped[key] = before if before is None or before.offset < delivery.offset else None
        while len(self._skipped) > MOST_SKIPPED:
            self._skipped.popitem(last=False)

    def _reread_stream(self, site: str, position: Position | None) -> None:
        """Have a site's stream read again."""
        queue = update_queue(site)
        log.info("chunks are read again", queue=queue, after=position.offset if position else None)
        self._before.pop(queue, None)
        if position is not None:
            self._before[queue] = position
        self._positions.pop(queue, None)
        self._reread(queue, position)

    def _open_transfer(self, key: TransferKey, size: int, total: int) -> Incoming:
        self._room(total)
        folder = self._blobs.scratch_file(key.experiment, key.stem).parent
        incoming = Incoming(folder, key, size=size, total=total)
        self._transfers[(key.experiment, key.sender)] = incoming
        return incoming

    def _expect_update(self, effect: Expect) -> None:
        if self._verifying(effect):
            return  # asked for again after a pause: what comes of it is told in a moment
        key = TransferKey(effect.experiment, effect.round, effect.site, effect.attempt)
        place = (effect.experiment, effect.site)
        incoming = self._transfers.get(place)
        if incoming is not None and (incoming.key != key or effect.again):
            self._transfers.pop(place).discard()
            incoming = None
        self._done.discard(key)
        if self._blobs.has_blob(effect.experiment, effect.seal):
            if incoming is not None:  # another site's update is the same, and was first
                self._transfers.pop(place).discard()
            self._done.add(key)
            self._verify(None, effect)
            return
        if incoming is None:
            incoming = self._open_transfer(key, effect.manifest.chunk_bytes, effect.manifest.nbytes)
        now = self._clock.monotonic()
        self._awaited[place] = _Awaited(effect, now if effect.again else now + FIRST_ASK, all=effect.again)
        if key in self._skipped:
            self._reread_stream(effect.site, self._skipped.pop(key))
        self._finish_transfer(place, incoming, effect)

    def _finish_transfer(self, place: tuple[str, str], incoming: Incoming, effect: Expect) -> None:
        if incoming.complete and _order_of(incoming.key) == (effect.round, effect.attempt):
            del self._transfers[place], self._awaited[place]
            self._done.add(incoming.key)
            self._verify(incoming, effect)

    def _ask_for_missing(self, now: float) -> None:
        if now < self._tick_at:
            return
        self._tick_at = now + TICK
        for place, awaited in self._awaited.items():
            if now < awaited.ask_at:
                continue
            awaited.pause = min(LAST_ASK, awaited.pause * 2)
            awaited.ask_at = now + awaited.pause
            incoming = self._transfers.get(place)
            everything = awaited.all or incoming is None or incoming.received == 0
            awaited.all = False
            awaited.asked += 1
            if awaited.asked >= ASKED_IN_VAIN and not awaited.reread:
                awaited.reread = True
                self._reread_stream(
                    place[1], None
                )  # the site may have been told, by a journal that was lost, to forget it
            self._ask(awaited.effect, None if everything or incoming is None else incoming.list_missing()[:10_000])
        if self._positions and now >= self._saved + SAVE_EVERY:
            self._saved = now
            self._save(dict(self._positions))
            self._positions.clear()
