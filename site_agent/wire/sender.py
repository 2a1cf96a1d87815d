"""Sending updates: the chunks of a file, on a thread of its own, no faster than the operator allows.

Chunks may go while the rest of the file is still written (`Ahead`): without the seal, which follows once it is whole,
they are worth nothing to who receives them, and what was written anew in between is sent anew.
"""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from messages.bus.base import Bus, Confirm
from messages.ground import crash, logs
from messages.ground.clock import Clock, Queue
from messages.ground.durable import replace_file
from messages.ground.errors import KonsilError
from messages.ground.metrics import PHASES
from messages.kinds import Transfer as Sealed
from messages.names import RoutingKey
from messages.tensors.layout import Manifest
from messages.tensors.seals import Sealer, map_file
from messages.tensors.signed_chunks import ChunkSigner
from messages.tensors.transfer import ChunkHeader, TransferKey, chunk_pieces

log = structlog.get_logger()


MARK_EVERY = 0.5
"""Seconds between two marks of how far an update is sent: so much of it goes twice after a kill, at most."""
_DIGEST = 32
AGAIN_AFTER = 15.0
"""Seconds until chunks that the broker refused are sent again: a right may have been taken away, and given back."""


class SentMark:
    """Which chunks of an update, from its first, the broker has confirmed: their digests, beside the update's file.

    Not made durable, and no proof: what the broker lost all the same, the coordinator asks for (`chunks-wanted`).

    Args:
        update: the update's file, which need not be there yet.
    """

    def __init__(self, update: Path, clock: Clock) -> None:
        self._path, self._clock = update.with_suffix(".sent"), clock
        self._last: float | None = None

    def read_digests(self) -> list[bytes]:
        """The chunks' digests; none where nothing is known."""
        with contextlib.suppress(OSError):
            kept = self._path.read_bytes()
            return [kept[start : start + _DIGEST] for start in range(0, len(kept) - _DIGEST + 1, _DIGEST)]
        return []

    def write_digests(self, digests: list[bytes]) -> None:
        """Keep them, now and then. What a full disk does not take is sent again."""
        now = self._clock.monotonic()
        if not digests or (self._last is not None and now - self._last < MARK_EVERY):
            return
        self._last = now
        with contextlib.suppress(OSError):
            replace_file(self._path, b"".join(digests))


def _count_alike(one: list[bytes], other: list[bytes]) -> int:
    """How many digests are the same, from the first on."""
    return next(
        (n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )


class Throttle:
    """A rate in bytes per second, by sleeping between messages; bursts of a quarter of a second.

    Args:
        rate: bytes per second; None: no limit.
    """

    def __init__(self, rate: float | None, clock: Clock) -> None:
        self._rate, self._clock = rate, clock
        self._free_at = 0.0

    def take_bytes(self, size: int) -> None:
        """Wait until `size` more bytes may go."""
        if self._rate is None:
            return
        now = self._clock.monotonic()
        self._free_at = max(self._free_at, now - 0.25) + size / self._rate
        if self._free_at > now:
            self._clock.sleep(self._free_at - now)


@dataclass(frozen=True)
class SendTask:
    """Send chunks (None: all) of a file. Where all were asked for, `on_sent` tells that the broker has them."""

    key: TransferKey
    sealed: Sealed
    path: Path
    chunks: tuple[int, ...] | None


@dataclass(frozen=True)
class Ahead:
    """Send the next chunks of a file that is still written: they lie in it, whole. `places`: where it may be now."""

    key: TransferKey
    manifest: Manifest
    places: tuple[Path, ...]
    first: int
    digests: list[bytes]


@dataclass
class _Flight:
    """What of an update is on its way before it is sealed: its first chunks. `sent`: the digests of those that an
    agent that was killed had sent."""

    data: memoryview
    mark: SentMark
    sent: list[bytes]
    digests: list[bytes] = field(default_factory=list)
    confirms: deque[Confirm] = field(default_factory=deque)


EVERY = 2**31
"""More attempts than there are."""


class ChunkSender:
    """Publishes chunks in the order of the tasks.

    Args:
        sealer: the one that sealed the updates, which remembers their chunks' digests.
        on_leaving: called with a transfer, its bytes and its seal before its first chunk goes, and once it is sealed
            (before: the seal is empty); where it raises, none goes.
        on_sent: called once every chunk of a whole transfer is confirmed.
        on_lost: called when the file is not what was sealed.
        signer: signs chunks where their reader can read that; None: nobody does.
        on_broken: called when sending raised what nobody foresaw: the update will not go.
    """

    def __init__(
        self,
        bus: Bus,
        rate: float | None,
        sealer: Sealer,
        clock: Clock,
        *,
        on_leaving: Callable[[TransferKey, int, str], None],
        on_sent: Callable[[TransferKey], None],
        on_lost: Callable[[TransferKey], None],
        on_progress: Callable[[TransferKey, int, int], None],
        on_broken: Callable[[TransferKey], None] = lambda _key: None,
        signer: ChunkSigner | None = None,
    ) -> None:
        self._signer = signer
        self._on_broken = on_broken
        self._bus, self._clock = bus, clock
        self._throttle = Throttle(rate, clock)
        self._sealer = sealer
        self._on_leaving, self._on_sent, self._on_lost, self._on_progress = on_leaving, on_sent, on_lost, on_progress
        self._tasks: Queue[SendTask | Ahead | None] = clock.make_queue()
        self._flights: dict[TransferKey, _Flight] = {}
        self._went: set[TransferKey] = set()
        """Transfers of which every chunk was confirmed."""
        self._later: list[tuple[float, SendTask]] = []
        """What failed, with the (monotonic) time at which it is tried again."""
        self._dropped: dict[str, tuple[int, int]] = {}
        """Experiment → round and attempt up to which nothing is sent any more."""
        self._newest: dict[str, tuple[int, int]] = {}
        """Experiment → round and attempt of which something was last to be sent."""
        self._closed = False
        self.bytes_up = 0
        self._thread = clock.make_thread(self._work_off_tasks, "sender")
        self._thread.start()

    def send_update(self, task: SendTask | Ahead) -> None:
        """Queue a task."""
        self._newest[task.key.experiment] = (task.key.round, task.key.attempt)
        self._tasks.put(task)

    def drop_updates(self, experiment: str, up_to: int) -> None:
        """Stop sending updates of an experiment up to a round; a later attempt of that round may still come."""
        number, attempt = self._newest.get(experiment, (0, 0))
        last = (up_to, attempt if number == up_to else EVERY if number > up_to else 0)
        self._dropped[experiment] = max(last, self._dropped.get(experiment, (0, 0)))

    def close(self) -> None:
        """Stop after the chunk in hand."""
        self._closed = True
        self._tasks.put(None)
        self._thread.join(10.0)
        self._flights = {}  # and the files that they hold open

    def _work_off_tasks(self) -> None:
        while not self._closed:
            try:
                task = self._tasks.get(timeout=self._seconds_until_retry())
            except queue.Empty:
                _due, task = self._later.pop(0)
            if task is None:
                return
            self._flights = {key: flight for key, flight in self._flights.items() if not self._is_stopped(key)}
            self._went = {key for key in self._went if not self._is_stopped(key)}
            with logs.bind_experiment(task.key.experiment, task.key.round):
                try:
                    if isinstance(task, Ahead):
                        self._send_ahead(task)
                    else:
                        self._send_task(task)
                    continue
                except KonsilError as error:
                    log.warning("sending an update failed, trying again", error=str(error), pause=AGAIN_AFTER)
                except OSError as error:
                    log.error("an update cannot be read, trying again", error=error.strerror, pause=AGAIN_AFTER)
                except Exception:
                    log.critical("an update cannot be sent: a defect", exc_info=True)
                    self._flights.pop(task.key, None)
                    if isinstance(task, SendTask):  # what goes ahead goes again with the whole
                        self._on_broken(task.key)
                    continue
            if isinstance(task, Ahead):
                self._flights.pop(task.key, None)  # the whole goes once it is sealed
            else:
                self._later.append((self._clock.monotonic() + AGAIN_AFTER, task))

    def _seconds_until_retry(self) -> float | None:
        """Seconds until the next task that failed is due; None: there is none."""
        return max(0.0, self._later[0][0] - self._clock.monotonic()) if self._later else None

    def _is_stopped(self, key: TransferKey) -> bool:
        return self._closed or (key.round, key.attempt) <= self._dropped.get(key.experiment, (0, 0))

    def _send_task(self, task: SendTask) -> None:
        key, manifest = task.key, task.sealed.manifest
        if self._is_stopped(key):
            return
        try:
            buffer = map_file(task.path, manifest)
            # Where chunks are asked for again the file is looked at anew: it, or what was said of it, may be wrong.
            again = task.chunks is not None or key in self._went
            digests = self._sealer.chunk_digests(manifest, buffer, task.sealed.seal, look=again)
        except (OSError, ValueError):
            self._on_lost(key)
            return
        self._on_leaving(key, manifest.nbytes, task.sealed.seal)
        whole = task.chunks is None
        mark = SentMark(task.path, self._clock)
        # The broker's confirms are no proof: what is asked for once it all went goes whole, whatever it confirmed.
        first, confirms = (0, deque()) if again else self._sent_ahead(key, digests, mark)
        indices = range(first, manifest.chunks) if task.chunks is None else task.chunks
        for done, index in enumerate(indices, start=1):
            if self._is_stopped(key):
                return
            confirms.append(self._publish_chunk(key, manifest, index, digests[index], buffer.data))
            self._on_progress(key, first + done, first + len(indices))
            while confirms and confirms[0].done:
                confirms.popleft().wait()
            if whole:
                mark.write_digests(digests[: index + 1 - len(confirms)])
        while confirms:
            if confirms[0].wait(0.5):
                confirms.popleft()
            elif self._is_stopped(key):
                break
            if whole:
                mark.write_digests(digests[: manifest.chunks - len(confirms)])
        if whole and not confirms:
            self._went.add(key)
            self._on_sent(key)

    def _sent_ahead(self, key: TransferKey, digests: list[bytes], mark: SentMark) -> tuple[int, deque[Confirm]]:
        """How many chunks of a sealed update went already, and the confirms of theirs that are still to come."""
        flight = self._flights.pop(key, None)
        if flight is not None and digests[: len(flight.digests)] == flight.digests:
            return len(flight.digests), flight.confirms
        return _count_alike(mark.read_digests(), digests), deque()

    def _send_ahead(self, task: Ahead) -> None:
        key, manifest = task.key, task.manifest
        if task.first == 0:
            self._on_leaving(key, manifest.nbytes, "")
            mark = SentMark(task.places[-1], self._clock)
            self._flights[key] = _Flight(_open_update(task).data, mark, mark.read_digests())
        flight = self._flights.get(key)
        if flight is None or len(flight.digests) != task.first:
            return  # what came before them did not go
        for index, digest in enumerate(task.digests, start=task.first):
            if self._is_stopped(key):
                return
            flight.digests.append(digest)
            if flight.sent[index : index + 1] == [digest]:
                continue
            flight.sent = flight.sent[:index]  # another update than the one that was on its way: all of the rest goes
            flight.confirms.append(self._publish_chunk(key, manifest, index, digest, flight.data))
            while flight.confirms and flight.confirms[0].done:
                flight.confirms.popleft().wait()
            flight.mark.write_digests(flight.digests[: index + 1 - len(flight.confirms)])

    def _publish_chunk(
        self, key: TransferKey, manifest: Manifest, index: int, digest: bytes, data: memoryview
    ) -> Confirm:
        start, end = manifest.chunk_range(index)
        header = ChunkHeader(key, index, manifest.chunk_bytes, manifest.nbytes, digest)
        if self._signer is not None:
            header = self._signer.sign(header)
        body = chunk_pieces(header, data[start:end])
        size = sum(map(len, body))
        self._throttle.take_bytes(size)
        with PHASES.time_phase("publish", bytes=size):
            confirm = self._bus.publish(str(RoutingKey("update-chunk", key.sender, key.experiment)), body)
        self.bytes_up += end - start
        crash.pass_step("agent:sending")
        return confirm


def _open_update(task: Ahead) -> NDArray[np.uint8]:
    """The update's file, which is renamed when it is whole: that may be just now.

    Raises:
        OSError, ValueError: it is in none of its places.
    """
    for place in task.places[:-1]:
        with contextlib.suppress(FileNotFoundError):
            return map_file(place, task.manifest)
    return map_file(task.places[-1], task.manifest)
