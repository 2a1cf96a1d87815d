"""The coordinator service: the one place where its parts are put together.

Test hook: KONSIL_CRASH_AFTER_ENTRY=N kills the process (SIGKILL) right after journal entry N is committed, before
any effect of it; used to prove that recovery works between any two entries.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Collection, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from coordinator import config as configs
from coordinator.config import CoordinatorConfig
from coordinator.core.inputs import AnyInput, DiskFull
from coordinator.core.logic import LOGIC
from coordinator.loop.origins import ModelOrigins
from coordinator.loop.shell import Shell
from coordinator.loop.steps import Parts
from coordinator.loop.timers import Gate
from coordinator.metrics import make_readings
from coordinator.record.heads import FORK, LogHeads
from coordinator.record.journal import Journal, Written
from coordinator.wire.announcer import Announcer
from coordinator.wire.incoming import ChunkReceiver
from coordinator.wire.openings import SaidOpenings
from coordinator.wire.outgoing import Audit, Events, Models
from coordinator.wire.presence import Presence
from coordinator.wire.rates import Turnstile
from coordinator.wire.reading_back import ReadingBack
from coordinator.work.blobs import Blobs
from coordinator.work.building import Build, build_in_subprocess
from coordinator.work.given_models import FOLDER, GivenModels
from coordinator.work.pool import Work
from messages import names
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.amqp.tls import find_end_of_login
from messages.bus.base import Bus, BusState, Delivery, OnNotice, Position, Start, Subscription
from messages.envelope import Author
from messages.ground import kernel, logs, starting
from messages.ground.clock import Clock, Queue, SystemClock
from messages.ground.durable import OTHERS
from messages.ground.errors import ConfigError, KonsilError, MalformedMessage
from messages.ground.operating import systemd
from messages.ground.operating.exposition import Endpoint, Reading
from messages.reasons import Reason
from messages.tensors.signed_chunks import ChunkCheck, ChunkSigner
from messages.trust.settings import Trust, load_trust, make_verifier
from messages.trust.verifier import Verifier

Connect = Callable[[CoordinatorConfig, OnNotice], Bus]
CRASH = "KONSIL_CRASH_AFTER_ENTRY"
CHUNKS_IN_FLIGHT = 16
"""Credit for chunks of updates, of all sites together; `messages.bus.amqp.backlog` bounds them in memory."""

log = structlog.get_logger("coordinator")


def connect_rabbitmq(config: CoordinatorConfig, on_notice: OnNotice) -> Bus:
    """The bus of production; BrokerUnreachable or LoginRefused where there is no way in."""
    bus = RabbitBus(config.broker, names.COORDINATOR, on_notice=on_notice)
    bus.connect()
    return bus


def open_heads(
    state: Path, consortium: str, trust: Trust, verifier: Verifier, sites_of: Callable[[str], Collection[str]]
) -> LogHeads:
    """What makes heads of the log; ConfigError where the operator's note of a fork is unusable."""
    place = state / FORK
    try:
        return LogHeads(
            consortium,
            trust,
            place.read_bytes() if place.is_file() else b"",
            verifier.known_register,
            sites_of,
        )
    except MalformedMessage as error:
        raise ConfigError(f"cannot be used: {error.what}", where=str(place)) from None


class Coordinator:
    """A coordinator: opened by the constructor, run by `run`, ended by `stop` from any thread.

    Args:
        clock: by which all of it goes; None: the machine's.

    Raises:
        NameTaken: another coordinator holds the journal or the inbox.
        LogBroken: the journal does not verify.
        BrokerUnreachable, LoginRefused: no way to the broker.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        *,
        connect: Connect = connect_rabbitmq,
        build: Build = build_in_subprocess,
        clock: Clock | None = None,
        crash_after: int | None = None,
    ) -> None:
        clock = SystemClock() if clock is None else clock
        self._config = config
        self._queue: Queue[Any] = clock.make_queue()
        state, consortium = config.coordinator.state, config.coordinator.consortium
        trust = None if config.trust is None else load_trust(config.trust, consortium, names.COORDINATOR)
        verifier = make_verifier(consortium, trust)
        heads = None if trust is None else open_heads(state, consortium, trust, verifier, self._list_sites)
        self.journal = Journal(state, watch=None if heads is None else heads.note_entry, crash_after=crash_after)
        try:
            self._bus = connect(config, self._queue.put)
        except BaseException:
            self.journal.close()
            raise
        gate = Gate()
        blobs = Blobs(state / "blobs")
        events = Events(self._bus, state, clock)
        term, key = self.journal.term, None if trust is None else trust.key
        author = Author(consortium, names.COORDINATOR, term, term, key=key)
        openings = None if key is None else SaidOpenings(self.journal, clock.now)
        signer = None if key is None else ChunkSigner(consortium, key, self._signs_chunks)
        signs = (lambda _name: False) if signer is None else signer.wanted
        say = Announcer(author, events, clock.now, openings, signs)

        def post(name: str, given: AnyInput) -> None:
            self._queue.put((name, given))

        origins = ModelOrigins(lambda: self.shell.steps.states, blobs, GivenModels(state / FOLDER))
        work = Work(blobs, config.limits, post, clock, build, self._owner_of, origins.open_origin)

        def save(positions: Any) -> None:
            self._queue.put(lambda: self.journal.note_written(Written({}, positions)))

        def full(name: str) -> None:
            self._queue.put((name, DiskFull(time=clock.now())))

        receiver = ChunkReceiver(
            blobs,
            work.verify_update,
            say.ask_for_chunks,
            save,
            clock,
            self._reread_stream,
            work.require_room,
            full,
            broken=lambda effect: self._queue.put((effect.experiment, work.tell_bad(effect, Reason.WRONG_DIGEST))),
            verifying=work.verifies_update,
            check=ChunkCheck(consortium, verifier, clock.now),
        )
        audit = Audit(self._bus, self.journal.path, clock)
        presence = Presence(consortium, config.coordinator.sites, clock.now, verifier)
        own_word = ReadingBack(self.journal.position_of, self.journal.get_value)
        parts = Parts(
            self.journal,
            clock,
            gate,
            say,
            events,
            Models(self._bus, blobs, clock, signer),
            audit,
            receiver,
            work,
            presence,
            own_word,
            Turnstile(self._queue, clock.monotonic, self._acknowledge),
            origins,
            verifier,
            heads,
            openings,
        )
        self._subscriptions: dict[str, Subscription] = {}
        self._attached = clock.make_event()
        self._parts = parts
        self._endpoint: Endpoint | None = None
        try:
            self.shell = Shell(parts, self._queue, config, self._acknowledge)
            # The inbox first: it is the lock that keeps a second coordinator off everything else.
            self._subscribe_to(names.inbox_of(names.COORDINATOR), self._take_message, exclusive=True)
            self._begin_term(clock.now())
            own_word.subscribe_to_all(self._bus)
            for worker in (events, parts.models, audit, receiver):
                worker.start()
            self.shell.resume_work()
            self._subscribe_to(names.UPLINK, self._take_message)
            credit = max(1, CHUNKS_IN_FLIGHT // len(config.coordinator.sites))
            for site in config.coordinator.sites:
                self._subscribe_to(names.update_queue(site), self._take_chunk, credit=credit)
            # What was said of progress before this start says nothing now.
            self._subscriptions[names.PROGRESS] = self._bus.subscribe(
                names.PROGRESS, self._take_progress, start=Start.NEXT, credit=256, vital=False
            )
            self._note_connected()
            self._endpoint = Endpoint(config.metrics, self._read_figures)
        except BaseException:
            self.close()
            raise
        self._attached.set()

    def _begin_term(self, now: float) -> None:
        before = self.journal.begin_term({"logic": LOGIC, "konsil": version("konsil")}, time=now)
        if before is not None:
            log.warning(
                "the term does not follow from the one before: the journal was restored or cut",
                term=self.journal.term,
                before=before,
            )

    def run(self) -> None:
        """Work until `stop`."""
        systemd.notify_manager("READY=1")
        log.info("ready", term=self.journal.term, experiments=len(self.shell.steps.states), entry=self.journal.number)
        try:
            self.shell.run()
        finally:
            systemd.notify_manager("STOPPING=1")
            self.close()

    def stop(self) -> None:
        """End soon; from any thread or a signal handler."""
        self._queue.put("stop")
        self.shell.ending.set()

    def close(self) -> None:
        """Stop the threads, close bus and journal; what the pool is at is finished first."""
        if self._endpoint is not None:
            self._endpoint.close()
        for subscription in self._subscriptions.values():
            subscription.cancel()
        parts = self._parts
        parts.own_word.cancel()
        parts.receiver.stop()
        parts.work.stop()
        for worker in (parts.events, parts.models, parts.audit):
            worker.queue.put(None)
        parts.events.stop()
        self._bus.close()
        parts.models.stop()
        parts.audit.stop()
        parts.work.await_end()  # whoever gets the journal's lock next would write the same files beside it
        self.journal.close()

    def _subscribe_to(
        self,
        name: str,
        deliver: Callable[[Delivery], None],
        *,
        exclusive: bool = False,
        credit: int = 64,
    ) -> None:
        position = (lambda: self.journal.position_of(name)) if names.is_stream(name) else None
        self._subscriptions[name] = self._bus.subscribe(
            name, deliver, position=position, start=Start.FIRST, credit=credit, exclusive=exclusive
        )

    def _acknowledge(self, delivery: Delivery) -> None:
        # A delivery may come before `subscribe` has returned; its credit waits for that.
        if self._attached.wait(60):
            self._subscriptions[delivery.queue].ack(delivery)

    def _reread_stream(self, queue: str, position: Position | None) -> None:
        if self._attached.wait(60):
            self._subscriptions[queue].seek(position)

    def _take_message(self, delivery: Delivery) -> None:
        if self._attached.is_set():
            self._parts.turnstile.take_delivery(delivery)
        else:  # nothing can be acknowledged yet, so that credit bounds what comes
            self._queue.put(delivery)

    def _take_progress(self, delivery: Delivery) -> None:
        self._parts.presence.hear_message(delivery)
        self._acknowledge(delivery)

    def _list_sites(self, experiment: str) -> Collection[str]:
        state = self.shell.steps.states.get(experiment)
        return () if state is None else state.joined

    def _owner_of(self, experiment: str) -> str:
        """The researcher of an experiment. Any thread."""
        return self.shell.steps.states[experiment].researcher

    def _signs_chunks(self, experiment: str) -> bool:
        """Whether the chunks of an experiment's models are signed. Any thread."""
        state = self.shell.steps.states.get(experiment)
        return state is not None and state.signs_chunks

    def _note_connected(self) -> None:
        self.shell.steps.tally.note_broker(BusState.CONNECTED)
        self._parts.presence.note_connection(True)

    def _read_figures(self) -> Iterable[Reading]:
        states = dict(self.shell.steps.states)
        return make_readings(
            self.shell.steps.tally,
            states,
            self._parts.presence.judge_sites(states),
            entries=self.journal.number,
            term=self.journal.term,
            lag=self._queue.qsize(),
            model_bytes=self._parts.models.bytes_sent,
            last_heard=self._parts.presence.list_last_heard(),
            free_bytes=shutil.disk_usage(self._config.coordinator.state).free,
            certificate_ends=find_end_of_login(self._config.broker),
        )

    def _take_chunk(self, delivery: Delivery) -> None:
        self._parts.receiver.take_delivery(delivery, self._acknowledge)


def run_service(config_path: Path) -> int:
    """Run the service until SIGTERM or SIGINT; returns the exit status, errors are one line on standard error."""
    logs.configure_log("coordinator", for_good=True)
    os.umask(OTHERS)  # as its unit has it: whoever starts it by hand shows its files to nobody else either
    kernel.allow_many_files()
    try:
        crash = os.environ.get(CRASH, "")
        coordinator = Coordinator(configs.read_config(config_path), crash_after=int(crash) if crash.isdigit() else None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: coordinator.stop())
        if starting.was_told_to_stop():
            coordinator.stop()
        coordinator.run()
    except KonsilError as error:
        return logs.last_word(error)
    return 0
