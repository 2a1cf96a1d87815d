"""The agenda in memory and on disk: decides, and stores what was decided and said in one transaction."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from messages.ground import crash, logs
from messages.ground.clock import Clock, Event
from messages.ground.errors import WorkFailed
from messages.ground.operating.systemd import notify_manager
from site_agent.core.agenda import decide
from site_agent.core.decisions import Decision, Ignore, Invite
from site_agent.core.effects import STORED, Effect, FreeSecrets, KeepSecrets, Say, effects
from site_agent.core.evolve import evolve
from site_agent.core.inputs import AnyInput
from site_agent.core.jobs import Agenda, event_of
from site_agent.disk.spool import Spool
from site_agent.loop.budgets import Budgets
from site_agent.loop.tally import Tally
from site_agent.wire.outbox import Outbox
from site_agent.wire.pace import Pace

log = structlog.get_logger()

COMPLAIN_EVERY = 60.0


class Steps:
    """Owned by the main loop.

    Args:
        agenda: as it came out of the spool.
        stopping: set when the agent stops; a full disk is no longer waited for then.
        budgets: what training may cost.
    """

    def __init__(
        self, spool: Spool, voice: Outbox, agenda: Agenda, stopping: Event, clock: Clock, budgets: Budgets
    ) -> None:
        self._budgets = budgets
        self._spool, self._voice, self._stopping, self._clock = spool, voice, stopping, clock
        self.agenda = agenda
        self.tally = Tally()
        self._taken: list[Decision] = []
        self._complaints = Pace(clock)

    def atomically(self, work: Callable[[], list[Effect]]) -> list[Effect]:
        """Do work in a transaction of the spool; the agenda in memory goes back with it.

        A full disk is waited for, since going on would lose what happened.
        """
        before = self.agenda
        while True:
            try:
                self._taken.clear()
                with self._spool.transaction():
                    todo = work()
                for decision in self._taken:
                    crash.pass_step(f"agent:{type(decision).__name__.lower()}")
                return todo
            except WorkFailed as error:
                self.agenda = before
                if self._stopping.wait(1.0):
                    raise
                # once a minute: a log that grows by what a full disk says helps to fill it
                if self._complaints.is_due("storing", COMPLAIN_EVERY):
                    log.error("cannot be stored, trying again", error=str(error))
                notify_manager("WATCHDOG=1")
            except BaseException:
                self.agenda = before
                raise

    def take_step(self, given: AnyInput) -> list[Effect]:
        """Decide and store; inside a transaction. Returns what is to be done after it."""
        before = self.agenda
        given = self._budgets.judge_input(before, given)
        after, decisions, todo = before, decide(before, given), list[Effect]()
        for decision in decisions:
            found, after = after, evolve(after, decision)
            todo += effects(found, after, decision)
        now = self._clock.wall()
        self._spool.store_agenda(before, after, now)
        self._budgets.enter_decisions(after, given, decisions, now)
        for effect in todo:
            if isinstance(effect, Say):
                self._voice.say_event(effect, now, effect.question or _find_question(effect, after, before))
            elif isinstance(effect, KeepSecrets):
                self._spool.secure.keep_row(effect.experiment, effect.round, effect.kept)
            elif isinstance(effect, FreeSecrets):
                self._spool.secure.drop_rows(effect.experiment, effect.round)
        self.agenda = after
        self._taken += decisions
        for decision in decisions:
            self._tell_decision(decision)
        return [effect for effect in todo if not isinstance(effect, STORED)]

    def _tell_decision(self, decision: Decision) -> None:
        self.tally.count_decision(decision)
        name = type(decision).__name__.lower()
        experiment = getattr(decision, "experiment", None)
        reason = getattr(decision, "reason", None)
        job = None if experiment is None else self.agenda.job_of(experiment)
        level = log.debug if isinstance(decision, Ignore) else log.info
        with logs.bind_experiment(experiment, None if job is None else job.round):
            level("decided", what=name, reason=reason)
            if isinstance(decision, Invite) and decision.by_hand and decision.refusal is None:
                log.warning("awaits the operator's approval: konsil site resume --approve ID")


def _find_question(said: Say, *agendas: Agenda) -> bytes | None:
    """The event that one of ours answers: what opened the step that it is about."""
    for agenda in agendas:
        job = agenda.job_of(said.experiment)
        if job is not None and job.start is not None and said.round > 0 and event_of(job.start).round == said.round:
            return job.start
    return None
