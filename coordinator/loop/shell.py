"""The thin shell around the state machine: one loop takes what comes and what time asks for, and has it decided."""

from __future__ import annotations

import contextlib
import queue
import sqlite3
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from coordinator.config import CoordinatorConfig
from coordinator.core import effects as e
from coordinator.core import inputs as i
from coordinator.core.state import Phase
from coordinator.loop import timers
from coordinator.loop.inbound import Inbound
from coordinator.loop.registers import Registers
from coordinator.loop.returning import Returning
from coordinator.loop.space import Space
from coordinator.loop.steps import Parts, Steps
from coordinator.record import story
from coordinator.record.journal import NOTHING, JournalDiskFull, Written
from coordinator.wire.last_heard import LastWord
from coordinator.wire.rates import Skipped
from coordinator.wire.reading_back import OWN_WORD
from messages import kinds
from messages.bus.base import BusState, Delivery, Notice
from messages.ground.clock import Queue
from messages.ground.errors import NameTaken
from messages.ground.operating import systemd
from messages.names import AUDIT, COORDINATOR, DOWNLINK, MODELS, UPLINK

log = structlog.get_logger("coordinator")
TICK = 1.0
"""Seconds between two looks at what time asks for; what comes, and timers, are handled at once."""
ALIVE_EVERY = 5.0
AUDITED_AGAIN = 200
"""Entries of the event log that are published again when the broker is back: what it confirmed last may be lost."""
MARK_AGAIN = 30.0
"""Seconds until our mark on uplink, if it does not come back, is published again."""
MARK_MISSED = 180.0
"""Seconds without our mark, while the broker takes messages, from which on it is told."""
STALL = 1.0
"""Seconds between two tries to write a journal whose disk is full."""
SPARED = 600.0
"""Seconds until a timer is tried again whose firing could not be handled."""
FIRED_IN_VAIN = 3
"""So often it is tried; then its experiment fails with a code."""
LOAD_AGAIN = "import the broker's definitions again (rabbitmqctl import_definitions FILE): it is filled again then"
MOST_SHOWN = 3
"""Experiments named in the service manager's status line."""


class Shell:
    """The main loop."""

    def __init__(
        self,
        parts: Parts,
        inputs: Queue[Any],
        config: CoordinatorConfig,
        ack: Callable[[Delivery], None],
    ) -> None:
        self.parts = parts
        self.queue = inputs
        self.steps = Steps(parts, inputs)
        last_word = LastWord(
            parts.journal.get_value, lambda site: parts.verifier.list_speaking(site, parts.clock.now())
        )
        self.returning = Returning(
            self.steps.states, parts.say, parts.models, parts.clock, self.steps.complaints, last_word
        )
        self._inbound = Inbound(parts, self.steps, self.returning, self.note_mark, config, ack, last_word)
        self.steps.inbound = self._inbound
        trust = config.trust
        self._registers = Registers(parts, self.steps, None if trust is None else trust.register_file)
        self._alive_at = self._notes_at = self._marked_at = 0.0
        self._waits_since: float | None = None
        """Since when timers wait for our mark, while the broker takes messages."""
        self._stopping = False
        self.ending = parts.clock.make_event()
        """Set from any thread: a wait for space on the disk ends, too."""
        self._space = Space(parts.work.blobs.folder, parts.work.limits.disk_reserve)
        self._missing: set[str] = set()
        """Queues of ours that are not there, or that we may not read."""
        self._spared: dict[tuple[str, str], float] = {}
        """(experiment, timer) whose firing was set aside → when it is tried again."""
        self._tried: Counter[tuple[str, str]] = Counter()
        """How often that was."""
        parts.journal.on_full = self._wait_for_space

    def resume_work(self) -> None:
        """Take up what the journal says: give outages back to the timers, repeat what may be unfinished."""
        self.parts.work.blobs.remove_scratch()
        self._registers.begin()
        stamp = self.parts.journal.get_value("alive")
        if stamp is not None:
            self._give_back_outage(float(stamp))
        for name, effect in self._list_pending():
            if not isinstance(effect, e.PublishModel) or not self.parts.journal.get_value(f"published:{name}"):
                self.steps.hands.carry_out(effect)
        self._greet_sites()
        self.parts.audit.wake_up()

    def _list_pending(self) -> list[tuple[str, e.Effect]]:
        """What may be unfinished of each experiment that is not over, or ended lately."""
        found: list[tuple[str, e.Effect]] = []
        for name, state in self.returning.list_recent():
            try:
                found += [(name, effect) for effect in e.pending_effects(state)]
            except Exception as error:
                log.exception("what is unfinished of an experiment is set aside", experiment=name)
                self.steps.set_aside(name, type(error).__name__, {"effect": "pending"}, NOTHING)
        return found

    def _greet_sites(self) -> None:
        self.parts.say.send_live("coordinator-hello", kinds.CoordinatorHello(versions={}))
        self.publish_mark()

    def publish_mark(self) -> None:
        """Publish our mark on uplink; timers wait until it is read."""
        self._marked_at = self.parts.clock.monotonic()
        self.parts.say.send_live("nonce", kinds.Nonce(nonce=self.parts.gate.close_with_mark()))

    def run(self) -> None:
        """Loop until told to stop."""
        pulse = systemd.watchdog_interval()
        beat = 0.0
        while not self._stopping:
            try:
                item = self.queue.get(timeout=self._seconds_until_due())
            except queue.Empty:
                item = None
            if item is not None:
                self._take_item(item)
            self._fire_timers()
            self._every_so_often()
            if pulse is not None and self.parts.clock.monotonic() >= beat:
                systemd.notify_manager("WATCHDOG=1")
                beat = self.parts.clock.monotonic() + pulse / 2
        with contextlib.suppress(JournalDiskFull):  # the next start reads again what this one could not note
            self.steps.count_floods(all_=True)
            self._save_positions()
            self.parts.journal.put_value("alive", repr(self.parts.clock.now()).encode())

    def _take_item(self, item: Any) -> None:
        if isinstance(item, Delivery):
            self._inbound.handle_delivery(item)
        elif isinstance(item, Skipped):
            self._inbound.note_skipped(item)
        elif isinstance(item, Notice):
            self._do_each(partial(self._take_notice, item))
        elif item == "stop":
            self._stopping = True
        elif callable(item):
            self._do_each(item)
        else:
            experiment, given = item
            self.steps.take_step(experiment, given)

    def _take_notice(self, notice: Notice) -> None:
        gate = self.parts.gate
        if notice.state is BusState.RENEWED:
            log.warning("a queue is not the one that was read before", queue=notice.detail)
            self.parts.own_word.note_renewed(notice.detail)
            self._tell_again(notice.detail)
            return
        if notice.state is BusState.MISSING:
            self._missing.add(notice.detail)
            log.warning("a queue is not there, or may not be read", queue=notice.detail, advice=LOAD_AGAIN)
            return
        if notice.state is BusState.FOUND:
            self._missing.discard(notice.detail)
            log.info("a queue is there again", queue=notice.detail)
            return
        self.steps.tally.note_broker(notice.state)
        self.parts.presence.note_connection(self.steps.tally.connected)
        log.info("broker", state=notice.state.value, detail=notice.detail, retry_in=notice.retry_in)
        if notice.state in (BusState.LOST, BusState.REFUSED, BusState.BLOCKED):
            # Under an alarm nobody can publish: what the sites have to say waits with them, so their time does too.
            gate.note_loss(self.parts.clock.now())
        elif notice.state in (BusState.CONNECTED, BusState.UNBLOCKED) and gate.closed and gate.nonce is None:
            self.parts.audit.publish_again(AUDITED_AGAIN)  # streams are confirmed before they are synced to a disk
            self.publish_mark()

    def _tell_again(self, queue: str) -> None:
        """A queue of the broker lost what it held: what nobody holds but us is told again.

        The streams of one broker go together, so what was to be read on uplink speaks for those that cannot be read
        back. Each site answers the hello with its own, and says again what waits for its receipt.
        """
        lost = {queue, *self._missing} if queue == UPLINK else {queue}
        for one in lost & OWN_WORD.keys():
            self.parts.own_word.note_told(one, self.parts.clock.monotonic())
        if AUDIT in lost:
            self.parts.audit.publish_again()
        if DOWNLINK in lost or queue == UPLINK:
            self._registers.tell_again()
        # Our own work goes on: nothing of it was lost.
        again = (e.Announce,) * (not lost.isdisjoint((UPLINK, DOWNLINK))) + (e.PublishModel,) * (MODELS in lost)
        if again:
            for _name, effect in self._list_pending():
                if isinstance(effect, again):
                    self.steps.hands.carry_out(effect)
        if queue == UPLINK:
            self._greet_sites()

    def note_mark(self, nonce: str) -> None:
        """A mark came back on uplink."""
        if self.parts.gate.read_mark(nonce):
            since, self.parts.gate.lost_at = self.parts.gate.lost_at, None
            if since is not None:
                self._give_back_outage(since)
            log.info("everything that lay on uplink is read")

    def _give_back_outage(self, since: float) -> None:
        for name, state in sorted(self.steps.states.items()):
            if state.timers and state.phase is not Phase.PAUSED:
                self.steps.take_step(name, i.Outage(time=self.parts.clock.now(), since=since))

    def _seconds_until_due(self) -> float:
        if self.parts.gate.closed:
            return 0.5
        moment = timers.next_due(self.steps.timed, self._spared)
        return TICK if moment is None else min(TICK, max(0.0, moment - self.parts.clock.now()))

    def _fire_timers(self) -> None:
        if self.parts.gate.closed or not self.queue.empty():
            return
        now = self.parts.clock.now()
        for _moment, name, timer in timers.list_due(self.steps.timed, now):
            if self._spared.get((name, timer), 0.0) > now:
                continue
            aside = self.steps.tally.set_aside
            self.steps.take_step(name, i.TimerFired(time=now, timer=timer))
            if self.steps.tally.set_aside > aside:  # it stays due: once in a while is often enough to try
                self._spared[name, timer] = now + SPARED
                self._tried[name, timer] += 1
                if self._tried[name, timer] >= FIRED_IN_VAIN:
                    self.steps.take_step(name, i.HandlingFailed(time=now, kind="timer-fired"))

    def _every_so_often(self) -> None:
        now = self.parts.clock.monotonic()
        self._do_each(self._repeat_mark)
        if self.steps.tally.disk_full:
            self.steps.tally.disk_full = False
            log.info("the journal is written again")
            self._do_each(self.publish_mark)
        if now >= self._notes_at:
            self._notes_at = now + 1.0
            self._do_each(
                self.steps.count_floods,
                self.steps.complaints.tell_counted,
                self.parts.turnstile.tell_skipped,
                self.returning.send_owed,
                self._registers.look_at_file,
                self._tell_freed,
                self._save_positions,
                self._tell_pushed_out,
                self._log_presence,
            )
        if now >= self._alive_at:
            self._alive_at = now + ALIVE_EVERY
            self._do_each(self._tell_alive)

    def _do_each(self, *parts: Callable[[], object]) -> None:
        """Do each. One that fails costs neither the others nor the service: whatever somebody said that is kept, it
        would fail again after each start.

        Raises:
            JournalDiskFull, NameTaken, sqlite3.Error: the service is to end.
        """
        for part in parts:
            try:
                part()
            except (JournalDiskFull, NameTaken, sqlite3.Error):
                raise
            except Exception as error:
                what = getattr(part, "__name__", "a closure")
                if self.steps.complaints.count_messages(COORDINATOR, f"{what}: {type(error).__name__}"):
                    log.exception("a defect", what=what, error=type(error).__name__)

    def _repeat_mark(self) -> None:
        """Publish our mark again: confirmed, and never stored, no timer would ever fire again."""
        now, gate, tally = self.parts.clock.monotonic(), self.parts.gate, self.steps.tally
        if not gate.closed or not tally.reachable:
            self._waits_since, tally.mark_missing = None, False
            return
        self._waits_since = now if self._waits_since is None else self._waits_since
        if gate.nonce is not None and now - self._marked_at > MARK_AGAIN:
            self.publish_mark()
        tally.mark_missing = now - self._waits_since > MARK_MISSED
        if tally.mark_missing and self.steps.complaints.count_messages(COORDINATOR, "mark-missing"):
            log.error(
                "what this coordinator says on uplink does not come back: no timer fires, and no deadline ends",
                queue=UPLINK,
                advice="the broker withholds it, or uplink is being read back: ask who runs the broker",
            )

    def _tell_freed(self) -> None:
        for name in self._space.list_freed(self.steps.states, self.parts.clock.monotonic()):
            log.info("there is space again", experiment=name)
            self.steps.take_step(name, i.DiskFree(time=self.parts.clock.now()))

    def _tell_pushed_out(self) -> None:
        for name, users in self.parts.own_word.list_pushed_out(self.parts.clock.monotonic()).items():
            log.warning("others write into a queue that is ours: all is said again", queue=name, users=users)
            self._tell_again(name)

    def _log_presence(self) -> None:
        self.parts.presence.log_changes(self.steps.states)

    def _tell_alive(self) -> None:
        running = [name for name, state in sorted(self.steps.states.items()) if state.ended is None]
        word = "paused" if self.steps.tally.mark_missing else "running" if running else "idle"
        body = kinds.Alive(state=word, queued=min(len(running), 2**31))
        self.parts.say.send_live("alive", body)
        self.parts.journal.put_value("alive", repr(self.parts.clock.now()).encode())
        told = [story.tell_standing(self.steps.states[name]) for name in running[:MOST_SHOWN]]
        missing = f"; missing in the broker: {', '.join(sorted(self._missing))}" if self._missing else ""
        missing += "; our mark on uplink does not come back" if self.steps.tally.mark_missing else ""
        summary = f"{len(running)} running, entry {self.parts.journal.number}{missing}"
        systemd.notify_manager(f"STATUS={'; '.join(told) or 'idle'}; {summary}")

    def _save_positions(self) -> None:
        """Store positions that no entry took along."""
        self._inbound.save_positions()
        if positions := self.parts.own_word.unsaved_positions():
            self.parts.journal.note_written(Written({}, positions))
        for key, value in self.parts.own_word.unsaved_shares().items():
            self.parts.journal.put_value(key, value)

    def _wait_for_space(self, error: JournalDiskFull) -> None:
        """The journal cannot be written: nothing is decided, told or acknowledged until it can, and all of that waits.

        Raises:
            DiskFull: the service is to end.
        """
        now = self.parts.clock.monotonic()
        if not self.steps.tally.disk_full:
            self.steps.tally.disk_full = True
            self.parts.gate.note_loss(self.parts.clock.now())  # deadlines get the time back
            self._alive_at = 0.0
            log.error("waits for space on the disk", detail=str(error))
        if now >= self._alive_at:
            self._alive_at = now + ALIVE_EVERY
            self.parts.say.send_live("alive", kinds.Alive(state="paused"))
            systemd.notify_manager(f"STATUS=waits for space on the disk of {self.parts.journal.path.parent}")
        systemd.notify_manager("WATCHDOG=1")
        if self.ending.wait(STALL):
            raise error
