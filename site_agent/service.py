"""The site agent: the composition root and the main loop around the pure agenda.

One thread, the main loop, owns the agenda. Bus, trainers, receiver, sender, control socket and signals hand it
closures through one queue; it handles each, stores what changed in one transaction, then does what is to be done.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import structlog

from messages.bus.base import Bus, BusState, Delivery, Notice, OnNotice, Position, Subscription, digest_of
from messages.bus.rabbitmq import RabbitBus
from messages.envelope import Event, check_origin, decode
from messages.errors import KonsilError, MalformedMessage, RequestError, WorkFailed
from messages.kinds import (
    KINDS,
    Alive,
    CheckAnswer,
    ExperimentAccepted,
    ExperimentChecked,
    Leaving,
    Progress,
    Receipt,
    Refused,
    Standing,
)
from messages.names import COORDINATOR, DOWNLINK, GLOBAL, NO_EXPERIMENT, inbox
from messages.reasons import Reason
from messages.systemd import notify, watchdog_interval
from messages.transfer import TransferKey
from site_agent import config as configuration
from site_agent import logs, policy
from site_agent.agenda import IllegalStimulus, restored, step
from site_agent.config import SiteConfig
from site_agent.control import ControlServer
from site_agent.post import Post
from site_agent.receiver import Receiver
from site_agent.rules import Rules
from site_agent.sender import Sender, Task
from site_agent.spool import Spool
from site_agent.status import state_word, status_of
from site_agent.trainers import Trainers
from site_agent.training import protocol
from site_agent.work import (
    OVER,
    Approved,
    ChunksSent,
    CloseTrainer,
    Decision,
    Effect,
    Fetch,
    Free,
    Halt,
    Heard,
    Ignore,
    ModelReady,
    NoSpace,
    Phase,
    Receipted,
    Restarted,
    RunEvaluate,
    RunPrepare,
    RunTrain,
    Say,
    SendChunks,
    Stimulus,
    Switched,
    TrainerDied,
    TrainerFailed,
    experiment_of,
)
from site_agent.workshop import Workshop

log = structlog.get_logger()

ALIVE_EVERY = 5.0
PROGRESS_EVERY = 0.5
TICK = 0.25
DAILY = 86400.0
GOODBYE_WITHIN = 3.0
EVER = 10**9


class Connect(Protocol):
    """Makes the agent's bus; raises BrokerUnreachable or LoginRefused."""

    def __call__(self, config: SiteConfig, on_notice: OnNotice) -> Bus: ...


def connect_rabbitmq(config: SiteConfig, on_notice: OnNotice) -> Bus:
    """The agent's connection to its consortium's broker."""
    bus = RabbitBus(config.broker, config.site.name, on_notice=on_notice)
    bus.connect()
    return bus


class Agent:
    """One site's agent.

    Raises (constructor and `run`):
        KonsilError: with the exit status it stands for: state directory or name taken (2), broker down or login
            refused at the start (3).
    """

    def __init__(self, config: SiteConfig, connect: Connect = connect_rabbitmq) -> None:
        self.config = config
        self._queue: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._broker = "connecting"
        self._lost = False
        self._refusals: dict[str, int] = {}
        self._last: dict[str, float] = {}
        self._progress: dict[str, Progress] = {}
        self._watched: dict[str, int] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self.spool = Spool(config.site.state)
        try:
            self.agenda = restored(self.spool.load_agenda(config.site.name))
            self._rules = Rules(config)
            self._bus = connect(config, lambda notice: self.post(lambda: self._on_notice(notice)))
        except BaseException:
            self.spool.close()
            raise
        self._voice = Post(self._bus, self.spool, config.site.consortium, config.site.name)
        self._make_helpers()

    def _make_helpers(self) -> None:
        config = self.config
        self._trainers = Trainers(
            on_reply=lambda name, token, reply: self.post(lambda: self._on_reply(name, token, reply)),
            on_exit=lambda name, token, status: self.post(lambda: self._on_exit(name, token, status)),
            logs=config.site.state / "logs",
            program=config.training.command,
            nice=config.training.nice,
            stuck_after=config.training.stuck_after,
        )
        self._workshop = Workshop(config, self.spool, self._trainers, self._room)
        self._receiver = Receiver(
            self.spool,
            on_complete=lambda key: self.post(lambda: self._apply(ModelReady(key.experiment, key))),
            on_no_room=lambda name: self.post(lambda: self._apply(NoSpace(name))),
            on_progress=lambda key, done, total: self._transfer_progress("fetching", key, done, total),
            ask=lambda name, body: self._voice.ask_coordinator("chunks-wanted", body, name),
            room=self._room,
        )
        self._sender = Sender(
            self._bus,
            config.limits.bandwidth,
            on_sent=lambda key: self.post(lambda: self._apply(ChunksSent(key.experiment, key.round, key.attempt))),
            on_lost=lambda key: self.post(lambda: self._apply(self._workshop.lost(key))),
            on_progress=lambda key, done, total: self._transfer_progress("sending", key, done, total),
        )

    def post(self, work: Callable[[], None]) -> None:
        """Hand a closure to the main loop. Any thread."""
        self._queue.put(work)

    def stop(self) -> None:
        """Stop soon: say `leaving`, keep the state. Any thread; the loop ends within its next tick."""
        self._stopping.set()

    def run(self) -> int:
        """Work until stopped; returns the exit status."""
        control = None
        try:
            self._attach()
            control = ControlServer(self.config.site.state, self._on_control)
            self._recover()
            self._voice.hello()
            notify("READY=1")
            log.info("ready", site=self.config.site.name, incarnation=self.spool.incarnation)
            while not self._stopping.is_set():
                self._turn()
            self._leave()
            return 0
        finally:
            notify("STOPPING=1")
            if control is not None:
                control.close()
            self._trainers.close()
            self._sender.close()
            self._receiver.close()
            self._bus.close()
            self.spool.close()

    def _attach(self) -> None:
        """Take the inbox (the lock of this site's name), then the streams from where they were left."""
        self._subscribe(inbox(self.config.site.name), exclusive=True)
        self._subscribe(DOWNLINK)
        subscription = self._bus.subscribe(
            GLOBAL, lambda delivery: self._receiver.deliver(delivery, self._ack),
            position=lambda: self.spool.position(GLOBAL),
        )  # fmt: skip
        self._subscriptions[GLOBAL] = subscription

    def _subscribe(self, name: str, *, exclusive: bool = False) -> None:
        subscription = self._bus.subscribe(
            name,
            lambda delivery: self.post(lambda: self._on_delivery(delivery)),
            position=None if exclusive else lambda: self.spool.position(name),
            exclusive=exclusive,
        )
        self._subscriptions[name] = subscription

    def _ack(self, delivery: Delivery) -> None:
        subscription = self._subscriptions.get(delivery.queue)
        if subscription is None:  # delivered before `subscribe` returned: its turn comes again
            self.post(lambda: self._ack(delivery))
            return
        subscription.ack(delivery)

    def _recover(self) -> None:
        verdicts = {
            name: self._rules.judge(job.file, job.researcher)
            for name, job in self.agenda.jobs.items()
            if job.phase is Phase.DECLINED
        }
        self._apply(Switched(open=self._opens_in() == 0))
        self._apply(Restarted(verdicts))

    def _turn(self) -> None:
        """Handle what came, or the passing of time."""
        try:
            work: Callable[[], None] | None = self._queue.get(timeout=TICK)
        except queue.Empty:
            work = None
        if work is not None:
            try:
                work()
            except KonsilError as error:
                log.error("failed", error=str(error))
            except Exception:
                log.critical("defect", exc_info=True)
        self._tick()

    # what comes

    def _on_notice(self, notice: Notice) -> None:
        if notice.state in (BusState.LOST, BusState.REFUSED):
            self._lost = True
            self._voice.connected = False
            log.warning("broker lost", state=notice.state, detail=notice.detail, retry_in=notice.retry_in)
        elif notice.state is BusState.BLOCKED:
            self._voice.connected = False
            log.warning("broker takes no messages", detail=notice.detail)
        elif notice.state in (BusState.CONNECTED, BusState.UNBLOCKED):
            self._voice.connected = True
            if self._lost:
                self._lost = False
                log.info("broker is back")
                self._voice.hello()
        self._broker = notice.state
        self._show()

    def _on_delivery(self, delivery: Delivery) -> None:
        try:
            event = decode(delivery.body)
            check_origin(event, delivery.key, delivery.user, self.config.site.consortium)
        except MalformedMessage as error:
            self._refuse(error.reason, delivery.queue)
            event = None
        self._perform(self._store(delivery, event))
        self._ack(delivery)

    def _store(self, delivery: Delivery, event: Event | None) -> list[Effect]:
        """Handle and store one delivery; one that cannot be handled is set aside."""

        def work(handled: Event | None) -> list[Effect]:
            todo = [] if handled is None else self._hear(handled)
            if delivery.offset is not None:
                position = Position(delivery.offset, digest_of(delivery.body))
                self.spool.set_position(delivery.queue, position)
            return todo

        try:
            return self._atomically(lambda: work(event))
        except IllegalStimulus:
            log.critical("an event could not be handled and is set aside", exc_info=True)
            return self._atomically(lambda: work(None))

    def _hear(self, event: Event, *, embedded: bool = False) -> list[Effect]:
        """Handle an event of the coordinator; inside a transaction. Returns what is to be done after it."""
        if event.sender != COORDINATOR or event.consortium != self.config.site.consortium:
            self._refuse(Reason.SENDER_MISMATCH, event.kind)
            return []
        if not embedded:
            if event.term < self.spool.term:
                self._refuse(Reason.OLD_TERM, event.kind)
                return []
            self.spool.raise_term(event.term)
        body = event.body
        now = time.time()
        if isinstance(body, Receipt):
            return [effect for identity in body.events for effect in self._receipt(identity, now)]
        if isinstance(body, Standing):
            return self._standing(body)
        if isinstance(body, ExperimentChecked):
            self._answer_check(body, event.experiment)
            return []
        if event.kind == "coordinator-hello":
            self.post(self._voice.hello)
            return []
        if KINDS[event.kind].history and not self.spool.see(event.id, now):
            return []
        if isinstance(body, Refused):
            log.warning("refused by the coordinator", kind=body.kind, reason=body.reason, experiment=event.experiment)
        return self._step(self._heard(event))

    def _heard(self, event: Event) -> Heard:
        job = self.agenda.job(event.experiment)
        if isinstance(event.body, ExperimentAccepted):
            verdict = self._rules.accepted(event.body)
        elif event.kind in ("round-start", "evaluation-start") and job is not None:
            verdict = self._rules.judge(job.file, job.researcher)
        else:
            return Heard(event)
        return Heard(event, verdict, self._opens_in())

    def _standing(self, body: Standing) -> list[Effect]:
        todo: list[Effect] = []
        for raw in body.events:
            try:
                todo += self._hear(decode(raw), embedded=True)
            except MalformedMessage as error:
                self._refuse(error.reason, "standing")
        return todo

    def _receipt(self, identity: str, now: float) -> list[Effect]:
        event = self._voice.receipted(identity, now)
        if event is None or event.kind != "weights-ready":
            return []
        return self._step(Receipted(event.experiment, event.round, event.attempt))

    def _answer_check(self, body: ExperimentChecked, experiment: str) -> None:
        verdict = self._rules.judge(body.experiment, body.researcher)
        if verdict.reason is Reason.NOT_INVITED:
            return
        reason = verdict.reason or (Reason.SITE_DRAINING if self.agenda.draining else None)
        answer = CheckAnswer(nonce=body.nonce, accepts=reason is None, reason=reason)
        self.post(lambda: self._voice.live("check-answer", answer, experiment=experiment))

    def _refuse(self, reason: str, what: str) -> None:
        self._refusals[reason] = self._refusals.get(reason, 0) + 1
        log.warning("message refused", reason=reason, what=what)

    def _on_reply(self, name: str, token: int, reply: protocol.Reply) -> None:
        job = self.agenda.job(name)
        if job is None or not self._trainers.current(name, token):
            return
        self._trainers.heard(name, reply)
        if isinstance(reply, protocol.Progress):
            self._trainer_progress(name, reply)
        elif isinstance(reply, protocol.Prepared):
            prepared = self._workshop.prepared(job, reply)
            if prepared.lack is not None:
                self._trainers.kill(name)  # what it has read does not suffice: the next round reads anew
            self._apply(prepared)
            self._trainers.proceed(name)
        elif isinstance(reply, protocol.Trained):
            # Sealing reads the whole file: on a thread of its own.
            threading.Thread(
                target=lambda: self._post_stimulus(self._workshop.trained(job, reply)),
                name="seal",
                daemon=True,
            ).start()
        elif isinstance(reply, protocol.Evaluated):
            self._apply(self._workshop.scored(job, reply))
        else:
            self._apply(self._workshop.failed(job, reply))

    def _post_stimulus(self, stimulus: Stimulus) -> None:
        self.post(lambda: self._apply(stimulus))

    def _on_exit(self, name: str, token: int, status: int) -> None:
        if not self._trainers.current(name, token):
            return
        busy, stuck = self._trainers.ended(name)
        log.warning("trainer ended", experiment=name, status=status, busy=busy, stuck=stuck)
        if busy:
            self._apply(TrainerDied(name, stuck))

    # the agenda

    def _apply(self, stimulus: Stimulus) -> None:
        """Decide, store, then do."""
        self._perform(self._atomically(lambda: self._step(stimulus)))

    def _atomically(self, work: Callable[[], list[Effect]]) -> list[Effect]:
        """Do work in a transaction of the spool; the agenda in memory goes back with it.

        A full disk is waited for, since going on would lose what happened.
        """
        before = self.agenda
        while True:
            try:
                with self.spool.transaction():
                    return work()
            except WorkFailed as error:
                self.agenda = before
                if self._stopping.wait(1.0):
                    raise
                log.error("cannot be stored, trying again", error=str(error))
                notify("WATCHDOG=1")
            except BaseException:
                self.agenda = before
                raise

    def _step(self, stimulus: Stimulus) -> list[Effect]:
        """Decide and store; inside a transaction."""
        before = self.agenda
        after, decisions, effects = step(before, stimulus)
        now = time.time()
        self.spool.store_agenda(before, after, now)
        for effect in effects:
            if isinstance(effect, Say):
                self._voice.say(effect, now)
        self.agenda = after
        for decision in decisions:
            self._tell(decision)
        return [effect for effect in effects if not isinstance(effect, Say)]

    def _tell(self, decision: Decision) -> None:
        name = type(decision).__name__.lower()
        experiment = getattr(decision, "experiment", None)
        reason = getattr(decision, "reason", None)
        job = None if experiment is None else self.agenda.job(experiment)
        round_number = None if job is None else job.round
        level = log.debug if isinstance(decision, Ignore) else log.info
        level("decided", what=name, experiment=experiment, round=round_number, reason=reason)

    def _perform(self, effects: list[Effect]) -> None:
        self._voice.publish()
        for effect in effects:
            try:
                self._do(effect)
            except KonsilError as error:
                log.error("cannot be done", what=type(effect).__name__, error=str(error))
                if isinstance(effect, RunPrepare | RunTrain | RunEvaluate):
                    self._post_stimulus(TrainerFailed(effect.experiment, Reason.TRAINER_DIED))
        self._watch()
        if effects:
            self._show()

    def _watch(self) -> None:
        """Tell the receiver of which rounds chunks may come. After the last round, the one chosen on validation may."""
        for name, job in self.agenda.jobs.items():
            if job.phase in OVER:
                self._watched.pop(name, None)
            elif self._watched.get(name) != job.round:
                self._watched[name] = job.round
                self._receiver.watch(name, job.round, again=job.round == experiment_of(job).rounds.count)

    def _do(self, effect: Effect) -> None:
        job = self.agenda.jobs[effect.experiment] if not isinstance(effect, Say | Fetch) else None
        if isinstance(effect, Fetch):
            self._receiver.expect(effect.key, effect.seal)
        elif isinstance(effect, Free):
            self._receiver.drop(effect.experiment, effect.round)
            self._sender.drop(effect.experiment, EVER if effect.round is None else effect.round)
        elif isinstance(effect, Halt):
            self._trainers.halt(effect.experiment)
        elif isinstance(effect, CloseTrainer):
            self._trainers.kill(effect.experiment)
        elif isinstance(effect, RunPrepare) and job is not None:
            self._workshop.prepare(job)
        elif isinstance(effect, RunTrain) and job is not None and job.phase is Phase.TRAINING:
            obstacle = self._workshop.train(job)
            if obstacle is not None:
                self._post_stimulus(obstacle)
        elif isinstance(effect, RunEvaluate) and job is not None and job.phase is Phase.EVALUATING:
            self._workshop.evaluate(job, effect.label)
        elif isinstance(effect, SendChunks) and job is not None and job.update is not None:
            key = TransferKey(job.experiment, job.round, self.config.site.name, job.attempt)
            self._sender.send(Task(key, job.update.transfer, self._workshop.update(job), effect.chunks))

    # time

    def _due(self, what: str, every: float) -> bool:
        now = time.monotonic()
        if now - self._last.get(what, -EVER) < every:
            return False
        self._last[what] = now
        return True

    def _tick(self) -> None:
        if not self._due("tick", TICK):
            return
        interval = watchdog_interval()
        if interval is not None and self._due("watchdog", interval / 2):
            notify("WATCHDOG=1")
        self._voice.publish()
        self._trainers.end_stuck()
        if self._due("hours", 5.0) and self.agenda.open != (self._opens_in() == 0):
            self._apply(Switched(open=not self.agenda.open))
        if self._due("alive", ALIVE_EVERY):
            self._voice.live("alive", self._alive())
        if self._due("prune", DAILY):
            self._prune()
        if self.agenda.draining and not self.agenda.busy and not self.spool.waiting():
            log.info("drained")
            self._stopping.set()

    def _alive(self) -> Alive:
        return Alive(state=state_word(self.agenda), busy_with=self.agenda.running, queued=len(self.agenda.queue))

    def _prune(self) -> None:
        now = time.time()
        self.spool.prune(now, self.config.retention.sent_ledger)
        for name, job in self.agenda.jobs.items():
            folder = self.spool.cache_of(name)
            if job.phase in OVER and now - self.spool.changed(name) > self.config.retention.cache:
                shutil.rmtree(folder, ignore_errors=True)

    def _opens_in(self) -> float:
        return self._rules.opens_in(datetime.now())

    def _room(self) -> int:
        return self.spool.room(self.config.limits.disk)

    # what is shown

    def _trainer_progress(self, name: str, reply: protocol.Progress) -> None:
        last = reply.done == reply.total
        body = Progress(
            phase=reply.phase,
            done=reply.done,
            total=reply.total,
            epoch=reply.epoch or None,
            epochs=reply.epochs or None,
            loss=policy.loss_for_sharing(self._rules.floors, reply.loss),
            eta_seconds=reply.eta_seconds,
            bytes_down=self._receiver.bytes_down,
            bytes_up=self._sender.bytes_up,
        )
        self._relay(name, reply.round, body, last=last)

    def _transfer_progress(self, phase: Any, key: TransferKey, done: int, total: int) -> None:
        """From the receiver's or the sender's thread: only now and then, or at the end."""
        moment = time.monotonic()
        if done != total and moment - self._last.get(phase, -EVER) < PROGRESS_EVERY:
            return
        self._last[phase] = moment
        body = Progress(
            phase=phase, done=done, total=total,
            bytes_down=self._receiver.bytes_down, bytes_up=self._sender.bytes_up,
        )  # fmt: skip
        self.post(lambda: self._relay(key.experiment, key.round, body, last=done == total))

    def _relay(self, name: str, round_number: int, body: Progress, *, last: bool) -> None:
        self._progress[name] = body
        if self._due(f"progress {name}", PROGRESS_EVERY) or last:
            self._voice.live("progress", body, experiment=name, round_number=round_number)

    def _show(self) -> None:
        notify(f"STATUS={state_word(self.agenda)}, broker {self._broker}")

    def status(self) -> dict[str, Any]:
        """What the agent does now, for `konsil site status`; main loop's thread."""
        return status_of(
            self.agenda,
            site=self.config.site.name,
            broker=str(self._broker),
            progress=self._progress,
            refusals=self._refusals,
            waiting=self.spool.waiting(),
            pids=self._trainers.pids(),
            used_bytes=self.spool.used_bytes(),
        )

    # orders

    def _on_control(self, request: dict[str, Any]) -> dict[str, Any]:
        """An operator's request, on a thread of the control socket: handled on the main loop."""
        answers: queue.SimpleQueue[dict[str, Any] | KonsilError] = queue.SimpleQueue()

        def work() -> None:
            try:
                answers.put(self._ordered(request))
            except KonsilError as error:
                answers.put(error)

        self.post(work)
        try:
            answer = answers.get(timeout=8.0)
        except queue.Empty:
            raise KonsilError("the agent is busy", advice="Try again") from None
        if isinstance(answer, KonsilError):
            raise answer
        return answer

    def _ordered(self, request: dict[str, Any]) -> dict[str, Any]:
        order = request.get("do")
        if order == "pause":
            self._apply(Switched(paused=True))
        elif order == "resume":
            self._apply(Switched(paused=False, draining=False))
        elif order == "drain":
            self._apply(Switched(draining=True))
        elif order == "approve":
            name = str(request.get("experiment"))
            if self.agenda.phase(name) is not Phase.AWAITING:
                raise RequestError(
                    f"no experiment {name!r} awaits approval",
                    advice="`konsil site status` lists those that do",
                )
            self._apply(Approved(name))
        elif order != "status":
            raise RequestError(f"unknown order {order!r}")
        log.info("ordered", what=order) if order != "status" else None
        return self.status()

    def _leave(self) -> None:
        """Say that the site goes, as far as the broker listens; training stops, and begins again at the next start."""
        self._trainers.close()
        with self.spool.transaction():
            self._voice.say(
                Say("leaving", NO_EXPERIMENT, 0, Leaving(), f"incarnation-{self.spool.incarnation}"),
                time.time(),
            )
        self._voice.publish()
        if self._voice.connected:
            with contextlib.suppress(KonsilError):
                self._bus.flush(GOODBYE_WITHIN)
        log.info("leaving")


def run(config_path: Path) -> int:
    """Run the agent until it is stopped; returns the exit status, with one line on standard error for what failed."""
    logs.configure()
    try:
        agent = Agent(configuration.read(config_path))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        return agent.run()
    except KonsilError as error:
        print(f"konsil: {error}", file=sys.stderr, flush=True)  # noqa: T201 (the one line)
        return error.exit_status
