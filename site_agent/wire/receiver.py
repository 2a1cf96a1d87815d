"""Receiving global models: chunks of `global` into files, on a thread of its own, resumed at the chunk that lacks.

Chunks may come before the event that names them; they are taken for experiments in work: of later rounds, and after
the last round of one earlier round more, since the model that was chosen on validation is sent again. A transfer on
which nothing new came for a while is asked for again, with growing pauses (docs/protocol.md, rule 3).
"""

from __future__ import annotations

import contextlib
import queue
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog

from messages.bus.base import Delivery, Position, digest_of
from messages.ground import crash
from messages.ground.clock import Clock, Queue
from messages.ground.errors import KonsilError, MalformedMessage
from messages.kinds import ChunksWanted
from messages.kinds import Transfer as Sealed
from messages.names import COORDINATOR, GLOBAL
from messages.tensors.codecs import CODECS
from messages.tensors.seals import Sealer, map_file
from messages.tensors.signed_chunks import ChunkCheck
from messages.tensors.transfer import ChunkHeader, Incoming, TransferKey, decode_chunk
from nets.digest import model_digest
from site_agent.disk.spool import Spool
from site_agent.wire.pace import Pace

log = structlog.get_logger()

FIRST_ASK = 5.0
SOON = 1.0
"""Seconds until a transfer of an earlier round is asked for: its chunks may have come and gone before it was named."""
GAPS = 3.0
"""A transfer is quiet when so many times the seconds have passed that its chunks take: a slow line is not asked to
carry everything twice."""
LONGEST_PAUSE = 60.0
MOST_ASKED = 10_000
COMPLAIN_EVERY = 60.0
"""Seconds between two lines of the log about a disk that takes nothing; each chunk would have one."""
POSITION_EVERY = 1.0
"""Seconds between stored positions of `global`: chunks that come again are known, so a stale one costs little."""


@dataclass
class _Wanted:
    quiet_since: float
    moved: float
    """When its last chunk came, or it was first heard of."""
    pause: float = field(default_factory=lambda: FIRST_ASK)
    sealed: Sealed | None = None
    signed: bool = False
    """Whether what announced it says that its chunks are."""
    incoming: Incoming | None = None


@dataclass(frozen=True)
class _Watch:
    after: int
    again: bool


_STRANGER = _Watch(2**62, again=False)


class ChunkReceiver:
    """Brings global models to disk.

    Args:
        on_complete: called with the transfer's key once its file is complete, and the digest of the model in it; None
            where its codec is not exact.
        on_no_room: called with the experiment when there is no room for a model.
        on_broken: called with an experiment when receiving its model raised what nobody foresaw.
        ask: publishes a `chunks-wanted` (experiment, body).
        room: bytes that may still be written.
        check: asked whether the coordinator wrote a chunk, before its data are looked at; None: nobody is.
        coordinator_signs: whether the coordinator's version signs chunks; what is announced says it for itself.
    """

    def __init__(
        self,
        spool: Spool,
        clock: Clock,
        *,
        on_complete: Callable[[TransferKey, str | None], None],
        on_no_room: Callable[[str], None],
        on_progress: Callable[[TransferKey, int, int], None],
        ask: Callable[[str, ChunksWanted], None],
        room: Callable[[], int],
        on_broken: Callable[[str], None] = lambda _experiment: None,
        check: ChunkCheck | None = None,
        coordinator_signs: Callable[[], bool] = lambda: False,
    ) -> None:
        self._check, self._coordinator_signs = check, coordinator_signs
        self.refusals: Counter[str] = Counter()
        """Chunks that were refused, by reason."""
        self._on_broken = on_broken
        self._spool, self._clock = spool, clock
        self._on_complete, self._on_no_room, self._on_progress = on_complete, on_no_room, on_progress
        self._ask, self._room = ask, room
        self._inbox: Queue[Callable[[], None] | None] = clock.make_queue()
        self._wanted: dict[TransferKey, _Wanted] = {}
        self._watched: dict[str, _Watch] = {}
        self._heard: dict[str, float] = {}
        self._done: set[TransferKey] = set()
        self._gap = 0.0
        """Seconds that a chunk took lately."""
        self._position: Position | None = None
        self._position_at = 0.0
        self._complaints = Pace(clock)
        self.bytes_down = 0
        self._thread = clock.make_thread(self._handle_work, "receiver")
        self._thread.start()

    # from other threads

    def deliver_chunk(self, delivery: Delivery, ack: Callable[[Delivery], None]) -> None:
        """Take one chunk; acknowledged when it is written."""
        self._inbox.put(lambda: self._take_delivery(delivery, ack))

    def watch_experiment(self, experiment: str, after: int, *, again: bool = False) -> None:
        """Take early chunks of this experiment's rounds after `after`; `again`: and of one round that was before."""
        self._inbox.put(lambda: self._watched.__setitem__(experiment, _Watch(after, again)))

    def expect_transfer(self, key: TransferKey, sealed: Sealed, *, signed: bool = False) -> None:
        """A transfer was announced; `on_complete` follows (at once where its file is there).

        Args:
            signed: so are its chunks.
        """
        self._inbox.put(lambda: self._guarded(key, lambda: self._announce_transfer(key, sealed, signed)))

    def drop_transfers(self, experiment: str, up_to: int | None) -> None:
        """Forget an experiment's transfers up to a round; None: all, and the experiment."""
        self._inbox.put(lambda: self._drop_transfers(experiment, up_to))

    def close(self) -> None:
        """Stop; what was received stays."""
        self._inbox.put(None)
        self._thread.join()

    # on the thread

    def _handle_work(self) -> None:
        while True:
            try:
                work = self._inbox.get(timeout=0.5 if self._wanted or self._position is not None else None)
            except queue.Empty:
                self._do_safely(self._now_and_then)
                continue
            if work is None:
                break
            self._do_safely(work)
            if self._clock.monotonic() - self._position_at > POSITION_EVERY:
                self._do_safely(self._now_and_then)
        self._do_safely(self._store_position)
        for wanted in self._wanted.values():
            if wanted.incoming is not None:
                wanted.incoming.close()

    def _do_safely(self, work: Callable[[], None]) -> None:
        """Whatever fails, the thread lives: what was not written is asked for again."""
        try:
            work()
        except KonsilError as error:
            if self._complaints.is_due(str(error), COMPLAIN_EVERY):
                log.warning("receiving failed", error=str(error))
        except OSError as error:
            if self._complaints.is_due("disk", COMPLAIN_EVERY):
                log.error("a global model cannot be written, trying again", error=error.strerror)
        except Exception:
            log.critical("defect", exc_info=True)

    def _guarded(self, key: TransferKey, work: Callable[[], None]) -> None:
        """Work on a transfer that something waits for: a defect costs its experiment the task, not others theirs."""
        try:
            work()
        except (KonsilError, OSError):
            raise
        except Exception:
            log.critical("a global model cannot be received: a defect", experiment=key.experiment, exc_info=True)
            self._wanted.pop(key, None)
            self._on_broken(key.experiment)

    def _now_and_then(self) -> None:
        self._position_at = self._clock.monotonic()
        self._ask_again()
        self._store_position()

    def _store_position(self) -> None:
        self._position_at = self._clock.monotonic()
        if self._position is not None:
            self._spool.set_position(GLOBAL, self._position)
            self._position = None

    def _take_delivery(self, delivery: Delivery, ack: Callable[[Delivery], None]) -> None:
        try:
            self._take_chunk(delivery)
        except MalformedMessage as error:
            self.refusals[str(error.reason)] += 1
            if self._complaints.is_due(f"refused {error.reason}", COMPLAIN_EVERY):
                log.warning("chunk refused", reason=error.reason, refused=self.refusals[str(error.reason)])
        except ValueError:
            log.warning("chunk refused", reason="malformed")
        finally:
            if delivery.offset is not None:
                self._position = Position(delivery.offset, digest_of(delivery.body))
            ack(delivery)

    def _take_chunk(self, delivery: Delivery) -> None:
        if delivery.user != COORDINATOR:
            raise MalformedMessage("sender-mismatch", "a chunk that the coordinator did not send")
        header, data = decode_chunk(delivery.body, self._check_author)
        key = header.key
        wanted = self._wanted.get(key)
        if wanted is None:
            if key.sender != COORDINATOR or not self._is_useful(key):
                return
            self._forget_earlier(key)
            wanted = self._wanted[key] = self._heard_of()
        if wanted.incoming is None:
            manifest = wanted.sealed.manifest if wanted.sealed else None
            if manifest and (manifest.nbytes, manifest.chunk_bytes) != (header.total, header.size):
                raise MalformedMessage("wrong-shape", "chunk and manifest differ in size")
            if not self._open_transfer(key, wanted, header.size, header.total):
                return
        assert wanted.incoming is not None  # noqa: S101 (for mypy: just opened)
        if wanted.incoming.add_chunk(header, data):
            self.bytes_down += len(data)
            crash.pass_step("agent:fetching")
            # What comes of one transfer speaks for those behind it: the coordinator sends them one after the other.
            now = self._heard[key.experiment] = self._clock.monotonic()
            self._gap, wanted.moved = max(now - wanted.moved, 0.8 * self._gap), now
            wanted.pause = self._seconds_of_quiet()
            self._on_progress(key, wanted.incoming.received, wanted.incoming.chunks)
            self._guarded(key, lambda: self._finish_transfer(key, wanted))

    def _check_author(self, header: ChunkHeader) -> None:
        if self._check is not None:
            wanted = self._wanted.get(header.key)
            named = wanted is not None and wanted.sealed is not None
            announced = wanted.signed if wanted is not None and named else self._coordinator_signs()
            self._check.check(header, announced=announced)

    def _heard_of(self) -> _Wanted:
        now = self._clock.monotonic()
        return _Wanted(now, now)

    def _seconds_of_quiet(self) -> float:
        """Seconds of quiet until a transfer is asked for."""
        return max(FIRST_ASK, min(LONGEST_PAUSE, GAPS * self._gap))

    def _is_useful(self, key: TransferKey) -> bool:
        """Whether a chunk of a transfer that nobody has named yet is worth keeping."""
        watch = self._watched.get(key.experiment, _STRANGER)
        if key.round > watch.after:
            return key not in self._done
        if not watch.again or self._spool.global_file(key).exists():
            return False
        # One at most, whatever the wire brings: the newest to come takes the place of what came before it.
        for other in [one for one in self._wanted if one.experiment == key.experiment and one.round <= watch.after]:
            if self._wanted[other].sealed is not None:
                return False
            self._forget_transfer(other)
        return True

    def _forget_earlier(self, key: TransferKey) -> None:
        """A later model has begun to come: what came of earlier ones that nobody has named is not kept beside it."""
        for other in [one for one in self._wanted if one.experiment == key.experiment and one.round < key.round]:
            if self._wanted[other].sealed is None:
                self._forget_transfer(other)

    def _forget_transfer(self, key: TransferKey) -> None:
        wanted = self._wanted.pop(key)
        if wanted.incoming is not None:
            wanted.incoming.discard()

    def _open_transfer(self, key: TransferKey, wanted: _Wanted, size: int, total: int) -> bool:
        if total > self._room():
            log.error("no room for a global model", experiment=key.experiment, round=key.round, bytes=total)
            self._wanted.pop(key, None)
            self._on_no_room(key.experiment)
            return False
        wanted.incoming = Incoming(self._spool.globals, key, size=size, total=total)
        return True

    def _announce_transfer(self, key: TransferKey, sealed: Sealed, signed: bool) -> None:
        if self._have_file(key, sealed):
            self._tell_complete(key, sealed)
            return
        self._done.discard(key)
        wanted = self._wanted.setdefault(key, self._heard_of())
        if wanted.incoming is None and key.round <= self._watched.get(key.experiment, _STRANGER).after:
            wanted.pause = SOON
        elif wanted.incoming is None:
            wanted.pause = self._seconds_of_quiet()
        wanted.sealed, wanted.quiet_since, wanted.signed = sealed, self._clock.monotonic(), signed
        wanted.moved = wanted.quiet_since
        incoming = wanted.incoming
        if incoming is not None and (incoming.total, incoming.size) != (
            sealed.manifest.nbytes,
            sealed.manifest.chunk_bytes,
        ):
            # What came early was not what is announced.
            incoming.discard()
            wanted.incoming = None
        if wanted.incoming is None and not self._open_transfer(
            key, wanted, sealed.manifest.chunk_bytes, sealed.manifest.nbytes
        ):
            return
        self._finish_transfer(key, wanted)

    def _have_file(self, key: TransferKey, sealed: Sealed) -> bool:
        """Whether the complete file is there, and still what was sealed (a disk may have been full or broken)."""
        path = self._spool.global_file(key)
        with contextlib.suppress(OSError, ValueError):
            if Sealer().seal_file(path, sealed.manifest) == sealed.seal:
                return True
        path.unlink(missing_ok=True)
        return False

    def _finish_transfer(self, key: TransferKey, wanted: _Wanted) -> None:
        incoming, sealed = wanted.incoming, wanted.sealed
        if incoming is None or sealed is None or incoming.received < incoming.chunks:
            return
        try:
            # Not made durable: `_have_file` looks at a file's content before it is used again, and it can be asked for
            # anew.
            incoming.finish(sealed.manifest, sealed.seal, self._spool.global_file(key), durable=False)
        except MalformedMessage as error:
            # Some chunk is not the sealed one: no way to know which, so all of it is asked for again.
            log.warning(
                "global model does not match its seal", reason=error.reason, experiment=key.experiment, round=key.round
            )
            incoming.discard()
            wanted.incoming = None
            self._open_transfer(key, wanted, sealed.manifest.chunk_bytes, sealed.manifest.nbytes)
            return
        del self._wanted[key]
        self._done.add(key)
        self._tell_complete(key, sealed)

    def _tell_complete(self, key: TransferKey, sealed: Sealed) -> None:
        """Its digest is computed of what lies here: nothing that is attested is repeated from what was announced."""
        manifest, path = sealed.manifest, self._spool.global_file(key)
        exact = CODECS[manifest.codec].exact
        self._on_complete(key, model_digest(manifest, map_file(path, manifest)) if exact else None)

    def _ask_again(self) -> None:
        now = self._clock.monotonic()
        for key, wanted in list(self._wanted.items()):
            self._guarded(key, partial(self._ask_for_missing, key, wanted, now))

    def _ask_for_missing(self, key: TransferKey, wanted: _Wanted, now: float) -> None:
        if wanted.sealed is None or now - max(wanted.quiet_since, self._heard.get(key.experiment, 0.0)) < wanted.pause:
            return
        wanted.quiet_since, wanted.pause = now, min(LONGEST_PAUSE, 2 * wanted.pause)
        # A full disk may have refused the file when it was announced, or when it was complete.
        manifest = wanted.sealed.manifest
        if wanted.incoming is None and not self._open_transfer(key, wanted, manifest.chunk_bytes, manifest.nbytes):
            return
        assert wanted.incoming is not None  # noqa: S101 (for mypy: just opened)
        if not (missing := wanted.incoming.list_missing()):
            self._finish_transfer(key, wanted)
            return
        log.info("asking for chunks", experiment=key.experiment, round=key.round, missing=len(missing))
        chunks = None if len(missing) == wanted.incoming.chunks else missing[:MOST_ASKED]
        self._ask(
            key.experiment,
            ChunksWanted(round=key.round, attempt=key.attempt, seal=wanted.sealed.seal, chunks=chunks),
        )

    def _drop_transfers(self, experiment: str, up_to: int | None) -> None:
        if up_to is None:
            self._watched.pop(experiment, None)
            self._heard.pop(experiment, None)
            self._done = {key for key in self._done if key.experiment != experiment}
        for key in [key for key in self._wanted if key.experiment == experiment]:
            if up_to is None or key.round <= up_to:
                self._forget_transfer(key)
        self._spool.free_files(experiment, up_to)
