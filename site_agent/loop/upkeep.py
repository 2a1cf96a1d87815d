"""What time asks for: the pulse, trainers that are stuck, the operator's hours, what is kept too long."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from messages.ground.clock import Clock
from messages.ground.errors import KonsilError
from messages.ground.operating.systemd import notify_manager, watchdog_interval
from messages.kinds import Alive
from messages.reasons import Reason
from site_agent.config import Retention
from site_agent.core.inputs import Retried, Switched
from site_agent.core.jobs import OVER
from site_agent.desk.status import state_word
from site_agent.disk.lineage import Lineage
from site_agent.disk.spool import Spool
from site_agent.loop.effect_runner import EffectRunner
from site_agent.loop.inbound import Inbound
from site_agent.loop.rules import Rules
from site_agent.loop.steps import Steps
from site_agent.trainers.base import Trainers
from site_agent.wire.outbox import Outbox
from site_agent.wire.pace import Pace

log = structlog.get_logger()

ALIVE_EVERY = 5.0
ENQUIRE_AFTER = 60.0
"""Seconds without a word of the coordinator about an open experiment, until it is asked where things are: what the
broker confirmed may never have been stored, and the last event of an experiment leaves no gap behind it."""
GREET_EVERY = 600.0
"""Seconds until it is asked in any case: the announcement of an experiment may have been lost."""
HOURS_EVERY = 5.0
DAILY = 86400.0
COMPLAIN_EVERY = 60.0


AGAIN_FIRST, AGAIN_LAST = 60.0, 3600.0
"""Seconds until a round is tried again that lacked something; doubled each time."""
LACKING = frozenset({Reason.DISK_FULL, Reason.DATASET_GONE})
"""What may be there again, and nobody says so."""


@dataclass(frozen=True)
class _Again:
    """When an experiment's round is tried again, and the pause before that."""

    round: int
    at: float
    pause: float


class Upkeep:
    """Owned by the main loop."""

    def __init__(
        self,
        *,
        steps: Steps,
        errands: EffectRunner,
        voice: Outbox,
        trainers: Trainers,
        rules: Rules,
        spool: Spool,
        lineage: Lineage,
        retention: Retention,
        hearing: Inbound,
        clock: Clock,
    ) -> None:
        self._steps, self._errands, self._voice, self._trainers = steps, errands, voice, trainers
        self._rules, self._spool, self._retention = rules, spool, retention
        self._lineage = lineage
        self._hearing = hearing
        self._clock, self._pace = clock, Pace(clock)
        self._asked = clock.monotonic()
        self._again: dict[str, _Again] = {}

    def do_due(self) -> None:
        """Do what is due. A part that fails costs the others nothing: a trainer that is stuck is ended all the same."""
        self._do_each(
            self._beat,
            self._voice.publish_waiting,
            self._errands.begin_held,
            self._trainers.end_stuck,
            self._trainers.bound_logs,
            self._tell_liveness,
            self._enquire_standing,
            self._try_again,
            self._hearing.seek_proofs,
            self._judge_key,
            self._prune_due,
            self._spool.secure.clear_traces,
        )

    def do_waiting(self) -> None:
        """Do what is due while the site does not know yet where it was."""
        self._do_each(self._beat, self._voice.publish_waiting, self._tell_pulse)

    def _do_each(self, *parts: Callable[[], None]) -> None:
        for part in parts:
            try:
                part()
            except KonsilError as error:
                if self._pace.is_due(f"complaint about {part.__name__}", COMPLAIN_EVERY):
                    log.error("failed", what=part.__name__, error=str(error))
            except Exception:
                if self._pace.is_due(f"complaint about {part.__name__}", COMPLAIN_EVERY):
                    log.critical("defect", what=part.__name__, exc_info=True)

    def _beat(self) -> None:
        interval = watchdog_interval()
        if interval is not None and self._pace.is_due("watchdog", interval / 2):
            notify_manager("WATCHDOG=1")

    def _tell_liveness(self) -> None:
        if self._pace.is_due("hours", HOURS_EVERY):
            self.look_at_the_clock()
        self._tell_pulse()

    def _tell_pulse(self) -> None:
        if self._pace.is_due("alive", ALIVE_EVERY):
            self._voice.send_live("alive", self._make_pulse())

    def _prune_due(self) -> None:
        if self._pace.is_due("prune", DAILY):
            self._prune_old()

    def _make_pulse(self) -> Alive:
        agenda = self._steps.agenda
        word = state_word(agenda)
        opens_in = self._rules.opens_in() if word == "outside-hours" else None
        return Alive(state=word, busy_with=agenda.running, queued=len(agenda.queue), opens_in=opens_in)

    def _enquire_standing(self) -> None:
        """Say hello again where nothing is heard: the answer tells where each experiment is."""
        now = self._clock.monotonic()
        if not self._voice.connected or now - self._asked < ENQUIRE_AFTER:
            return
        heard = self._hearing.heard_at
        open_ = [name for name, job in self._steps.agenda.jobs.items() if job.phase not in OVER]
        if now - self._asked >= GREET_EVERY or any(now - heard.get(name, 0.0) >= ENQUIRE_AFTER for name in open_):
            self._asked = now
            self._voice.send_hello()

    def _try_again(self) -> None:
        """Take rounds on again that were given up for want of something that may be there again, ever more seldom."""
        now, jobs = self._clock.monotonic(), self._steps.agenda.jobs
        lacking = {name for name, job in jobs.items() if job.pending is not None and job.reason in LACKING}
        self._again = {name: due for name, due in self._again.items() if jobs[name].round == due.round}
        for name in lacking:
            due = self._again.setdefault(name, _Again(jobs[name].round, now + AGAIN_FIRST, AGAIN_FIRST))
            if now >= due.at:
                pause = min(AGAIN_LAST, 2 * due.pause)
                self._again[name] = _Again(due.round, now + pause, pause)
                self._errands.apply_input(Retried(name))

    def _judge_key(self) -> None:
        if self._pace.is_due("key", HOURS_EVERY):
            self._hearing.judge_key()

    def look_at_the_clock(self) -> None:
        """Tell the agenda when the operator's hours begin or end."""
        is_open = self._rules.opens_in() == 0
        if self._steps.agenda.open != is_open:
            self._errands.apply_input(Switched(open=is_open))

    @property
    def drained(self) -> bool:
        """Whether a draining agent has nothing left to do."""
        agenda = self._steps.agenda
        return agenda.draining and not agenda.busy and not self._spool.count_waiting()

    def _prune_old(self) -> None:
        now = self._clock.wall()
        self._spool.prune_old(now, self._retention.sent_ledger)
        self._lineage.prune_old(now - self._retention.sent_ledger)
        for name, job in self._steps.agenda.jobs.items():
            if job.phase in OVER and now - self._spool.changed_at(name) > self._retention.cache:
                shutil.rmtree(self._spool.cache_of(name), ignore_errors=True)
                self._trainers.forget(name)
