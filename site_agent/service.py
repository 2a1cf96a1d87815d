"""The site agent: the composition root, its start and end, and the main loop.

One thread, the main loop, owns the agenda. Bus, trainers, receiver, sender, control socket and signals hand it
closures through one queue; each is handled by the part that it is for (`hearing`, `reports`, `orders`), which has the
agenda decide and store in one transaction (`steps`) and then does what is to be done (`errands`).
"""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from messages.bus.base import BusState, Notice
from messages.ground import logs, starting
from messages.ground.errors import BrokerUnreachable, KonsilError
from messages.ground.exposition import Endpoint, Reading
from messages.ground.naming import NO_EXPERIMENT
from messages.ground.systemd import notify
from messages.kinds import Leaving
from messages.names import GLOBAL
from messages.tensors.seals import Sealer
from site_agent import config as configuration
from site_agent.config import SiteConfig
from site_agent.core.agenda import restored
from site_agent.core.effects import Say
from site_agent.core.inputs import ChunksSent, ModelReady, NoSpace, Restarted
from site_agent.core.jobs import Phase
from site_agent.data.guard import DataGuard
from site_agent.desk.control import ControlServer
from site_agent.desk.status import status_line, status_of
from site_agent.disk.spool import Spool
from site_agent.loop.effect_runner import Errands
from site_agent.loop.inbound import Hearing
from site_agent.loop.orders import Orders
from site_agent.loop.relay import Relay
from site_agent.loop.reports import Reports
from site_agent.loop.rules import Rules
from site_agent.loop.steps import Steps
from site_agent.loop.upkeep import Upkeep
from site_agent.metrics import readings
from site_agent.trainers.processes import Trainers
from site_agent.trainers.requests import Workshop
from site_agent.wire.connection import Connect, connect_rabbitmq
from site_agent.wire.outbox import Post
from site_agent.wire.pace import Pace
from site_agent.wire.receiver import Receiver
from site_agent.wire.sender import Sender
from site_agent.wire.subscriptions import Subscriptions

log = structlog.get_logger()

TICK = 0.25
SHOW_EVERY = 1.0
GOODBYE_WITHIN = 3.0


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
        self._lost = self._attached = False
        self._pace = Pace()
        self._rules = Rules(config)
        self.spool = Spool(config.site.state)
        try:
            agenda = restored(self.spool.load_agenda(config.site.name))
            self.spool.free_left_over({name for name, job in agenda.jobs.items() if job.phase is Phase.ENDED})
            self._bus = connect(config, lambda notice: self.post(lambda: self._on_notice(notice)))
            self._voice = Post(self._bus, self.spool, config.site.consortium, config.site.name)
            self._steps = Steps(self.spool, self._voice, agenda, self._stopping)
        except BaseException:
            self.spool.close()
            raise
        self._subscriptions = Subscriptions(self._bus, self.spool, self.post)
        self._make_hands()
        self._make_ears()

    def _make_hands(self) -> None:
        """What works: trainers, transfers, and what gives them their errands. They answer through the main loop."""
        config = self.config

        def room() -> int:
            return self.spool.room(config.limits.disk)

        sealer = Sealer()
        self._trainers = Trainers(
            on_reply=lambda name, token, reply: self.post(lambda: self._reports.reply(name, token, reply)),
            on_exit=lambda name, token, status: self.post(lambda: self._reports.exit(name, token, status)),
            logs=config.site.state / "logs",
            program=config.training.command,
            nice=config.training.nice,
            stuck_after=config.training.stuck_after,
        )
        self._workshop = Workshop(config, self.spool, self._trainers, sealer, room)
        self._relay = Relay(
            self._voice,
            self._rules.floors,
            moved=lambda: (self._receiver.bytes_down, self._sender.bytes_up),
            post=self.post,
        )
        self._receiver = Receiver(
            self.spool,
            on_complete=lambda key: self._errands.post(ModelReady(key.experiment, key)),
            on_no_room=lambda name: self._errands.post(NoSpace(name)),
            on_progress=lambda key, done, total: self._relay.transfer("fetching", key, done, total),
            ask=lambda name, body: self._voice.ask_coordinator("chunks-wanted", body, name),
            room=room,
        )
        self._sender = Sender(
            self._bus,
            config.limits.bandwidth,
            sealer,
            on_leaving=lambda key, size: self.spool.leaving(key, size, time.time()),
            on_sent=lambda key: self._errands.post(ChunksSent(key.experiment, key.round, key.attempt)),
            on_lost=lambda key: self._errands.post(self._workshop.lost(key)),
            on_progress=lambda key, done, total: self._relay.transfer("sending", key, done, total),
        )
        self._errands = Errands(
            steps=self._steps,
            voice=self._voice,
            trainers=self._trainers,
            workshop=self._workshop,
            receiver=self._receiver,
            sender=self._sender,
            guard=DataGuard(config.datasets, self.post, config.site.state),
            post=self.post,
            show=self._show,
        )

    def _make_ears(self) -> None:
        """What hears: the coordinator, the trainers, the operator, the clock."""
        self._hearing = Hearing(
            self.config.site.consortium,
            spool=self.spool,
            steps=self._steps,
            errands=self._errands,
            voice=self._voice,
            rules=self._rules,
            ack=self._subscriptions.ack,
            post=self.post,
        )
        self._reports = Reports(
            steps=self._steps, errands=self._errands, trainers=self._trainers,
            workshop=self._workshop, relay=self._relay,
        )  # fmt: skip
        self._orders = Orders(steps=self._steps, errands=self._errands, post=self.post, status=self.status)
        self._upkeep = Upkeep(
            steps=self._steps,
            errands=self._errands,
            voice=self._voice,
            trainers=self._trainers,
            rules=self._rules,
            spool=self.spool,
            retention=self.config.retention,
            hearing=self._hearing,
        )

    def post(self, work: Callable[[], None]) -> None:
        """Hand a closure to the main loop. Any thread."""
        self._queue.put(work)

    def stop(self) -> None:
        """Stop soon: say `leaving`, keep the state. Any thread; the loop ends within its next tick."""
        self._stopping.set()
        if not self._attached:  # whoever waits for the inbox, or for a broker that is away, is freed by this
            threading.Thread(target=self._bus.close, name="stopping", daemon=True).start()

    def run(self) -> int:
        """Work until stopped; returns the exit status."""
        control = endpoint = None
        try:
            # Shown before it waits: after a kill the broker holds the inbox for the dead agent a while longer.
            log.info("taking the inbox; another holder is waited for")
            self._errands.expect()
            try:
                self._subscriptions.attach(self.config.site.name, self._hearing.take, self._receiver.deliver)
            except BrokerUnreachable:
                if self._stopping.is_set():
                    return 0
                raise
            self._attached = True
            control = ControlServer(self.config.site.state, self._orders.take)
            self._recover()
            self._steps.tally.broker(BusState.CONNECTED if self._voice.connected else BusState.LOST)
            endpoint = Endpoint(self.config.metrics, self._read)
            self._voice.hello()
            notify("READY=1")
            log.info("ready", incarnation=self.spool.incarnation)
            while not self._stopping.is_set():
                self._turn()
            self._leave()
            return 0
        finally:
            notify("STOPPING=1")
            if endpoint is not None:
                endpoint.close()
            if control is not None:
                control.close()
            self._trainers.close()
            self._sender.close()
            self._receiver.close()
            self._bus.close()
            self.spool.close()

    def _recover(self) -> None:
        verdicts = {
            name: self._rules.judge(job.file, job.researcher)
            for name, job in self._steps.agenda.jobs.items()
            if job.phase is Phase.DECLINED
        }
        self._upkeep.look_at_the_clock()
        self._errands.apply(Restarted(verdicts))

    def _turn(self) -> None:
        """Handle what came, or the passing of time."""
        try:
            work: Callable[[], None] | None = self._queue.get(timeout=TICK)
        except queue.Empty:
            work = None
        if work is not None:
            self._safely(work)
        self._safely(self._tick)

    @staticmethod
    def _safely(work: Callable[[], None]) -> None:
        """Nothing that fails ends the agent: not a full disk, and not a defect."""
        try:
            work()
        except KonsilError as error:
            log.error("failed", error=str(error))
        except Exception:
            log.critical("defect", exc_info=True)

    def _on_notice(self, notice: Notice) -> None:
        if notice.state is BusState.RENEWED:
            self._renewed(notice.detail)
            return
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
        self._steps.tally.broker(notice.state)
        self._show()

    def _renewed(self, queue: str) -> None:
        """The broker lost what was there: what waits for its receipt is said again, and a standing is asked for."""
        log.warning("a queue is not the one that was read before", queue=queue)
        if queue != GLOBAL and self._voice.connected:  # chunks that lack are asked for by themselves
            self._voice.hello()

    def _tick(self) -> None:
        if self._pace.due("tick", TICK):
            self._upkeep.tick()
            if self._pace.due("show", SHOW_EVERY):
                self._show()
            if self._upkeep.drained:
                log.info("drained")
                self._stopping.set()

    def _show(self) -> None:
        notify(f"STATUS={status_line(self._steps.agenda, self._relay.latest, self._broker, self._relay.resumed)}")

    def status(self) -> dict[str, Any]:
        """What the agent does now, for `konsil site status`; main loop's thread."""
        return status_of(
            self._steps.agenda,
            site=self.config.site.name,
            broker=str(self._broker),
            progress=self._relay.latest,
            refusals=self._hearing.refusals,
            waiting=self.spool.count_waiting(),
            pids=self._trainers.pids(),
            used_bytes=self.spool.used_bytes(),
            bytes_down=self._receiver.bytes_down,
            bytes_up=self._sender.bytes_up,
            pending=self._bus.pending(),
            resumed=self._relay.resumed,
            opens_at=self._rules.opens_at(datetime.now()),
        )

    def _read(self) -> Iterable[Reading]:
        """The agent's figures; the metrics endpoint's thread."""
        return readings(
            self._steps.tally,
            self._steps.agenda,
            state=self.config.site.state,
            refusals=dict(self._hearing.refusals),
            set_aside=self._hearing.set_aside,
            progress=dict(self._relay.latest),
            bytes_down=self._receiver.bytes_down,
            bytes_up=self._sender.bytes_up,
            trainers=len(self._trainers.pids()),
            incarnation=self.spool.incarnation,
        )

    def _leave(self) -> None:
        """Say that the site goes, as far as the broker listens; training saves what it has, and goes on from there at
        the next start."""
        self._trainers.leave()
        with contextlib.suppress(KonsilError):  # on a full disk it goes without a word: its silence tells
            with self.spool.transaction():
                self._voice.say(
                    Say("leaving", NO_EXPERIMENT, 0, Leaving(), f"incarnation-{self.spool.incarnation}"),
                    time.time(),
                )
            self._voice.publish()
            if self._voice.connected:
                self._bus.flush(GOODBYE_WITHIN)
        log.info("leaving")


def run(config_path: Path) -> int:
    """Run the agent until it is stopped; returns the exit status, with one line on standard error for what failed."""
    logs.configure("site")
    try:
        config = configuration.read(config_path)
        logs.identify(site=config.site.name)
        agent = Agent(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        if starting.told():
            agent.stop()
        return agent.run()
    except KonsilError as error:
        return logs.last_word(error)
