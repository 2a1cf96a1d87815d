"""The site agent: the composition root, its start and end, and the main loop.

One thread, the main loop, owns the agenda. Bus, trainers, receiver, sender, control socket and signals hand it
closures through one queue; each is handled by the part that it is for (`hearing`, `reports`, `orders`), which has the
agenda decide and store in one transaction (`steps`) and then does what is to be done (`errands`).
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog

from messages.abilities import WORDS_6
from messages.bus.amqp.tls import find_end_of_login
from messages.bus.base import BusState, Notice
from messages.ground import logs, starting
from messages.ground.clock import Clock, Queue, SystemClock
from messages.ground.durable import OTHERS
from messages.ground.errors import BrokerUnreachable, ConfigError, KonsilError, NameTaken
from messages.ground.naming import NO_EXPERIMENT
from messages.ground.operating.exposition import Endpoint, Reading
from messages.ground.operating.systemd import notify_manager
from messages.kinds import Leaving
from messages.names import GLOBAL
from messages.reasons import Reason
from messages.tensors.seals import Sealer
from messages.tensors.signed_chunks import ChunkCheck, ChunkSigner
from messages.trust.settings import Trust, load_trust, make_verifier
from site_agent import config as configuration
from site_agent.config import SiteConfig
from site_agent.core.agenda import restore_agenda
from site_agent.core.effects import Say
from site_agent.core.inputs import ChunksSent, ModelReady, NoSpace, PartBroken, Restarted
from site_agent.core.jobs import Phase
from site_agent.core.policy import PolicyVerdict
from site_agent.data.guard import DataGuard
from site_agent.desk.control import ControlServer
from site_agent.desk.read_file import ReadFile, note_file
from site_agent.desk.status import status_line, status_of
from site_agent.disk.lineage import Draw, Lineage
from site_agent.disk.secret import require_whole
from site_agent.disk.spool import Spool
from site_agent.loop.budgets import Budgets
from site_agent.loop.effect_runner import EffectRunner
from site_agent.loop.inbound import REGISTER, Inbound
from site_agent.loop.orders import Orders
from site_agent.loop.orientation import Orientation
from site_agent.loop.relay import Relay
from site_agent.loop.reports import Reports
from site_agent.loop.rules import Rules
from site_agent.loop.steps import Steps
from site_agent.loop.upkeep import Upkeep
from site_agent.loop.witness import Standpoint, Witness
from site_agent.metrics import make_readings
from site_agent.secure.believing import Believing
from site_agent.secure.kept import require_openable
from site_agent.secure.rounds import SecureWork
from site_agent.trainers.base import StartTrainers
from site_agent.trainers.processes import start_processes
from site_agent.trainers.requests import Workshop
from site_agent.wire.connection import Connect, connect_rabbitmq
from site_agent.wire.outbox import Outbox
from site_agent.wire.pace import Pace
from site_agent.wire.receiver import ChunkReceiver
from site_agent.wire.sender import ChunkSender
from site_agent.wire.subscriptions import Subscriptions
from site_agent.wire.twin import TwinWatch

log = structlog.get_logger()

TICK = 1.0
"""Seconds between two looks at what time asks for; what comes is handled at once."""
HURRY = 0.25
"""The same while the bus takes what lies in the outbox only bit by bit."""
SHOW_EVERY = 1.0
GOODBYE_WITHIN = 3.0


class Agent:
    """One site's agent.

    Args:
        trainers: makes what trains; production has a process for each experiment.
        clock: by which all of it goes; None: the machine's.
        file: the file that `config` was read from, as it was then; None: no file.
        draw: so many random bytes, for the keys of commitments and the secrets of secure rounds.

    Raises (constructor and `run`):
        KonsilError: with the exit status it stands for: state directory or name taken (2), broker down or login
            refused at the start (3).
    """

    def __init__(
        self,
        config: SiteConfig,
        connect: Connect = connect_rabbitmq,
        *,
        trainers: StartTrainers = start_processes,
        clock: Clock | None = None,
        file: ReadFile | None = None,
        draw: Draw = secrets.token_bytes,
    ) -> None:
        self.config, self._file, self._draw = config, file, draw
        self._clock: Clock = SystemClock() if clock is None else clock
        self._queue: Queue[Callable[[], None]] = self._clock.make_queue()
        self._stopping = self._clock.make_event()
        self._broker = "connecting"
        self._lost = self._attached = False
        self._pace = Pace(self._clock)
        site = config.site
        trust = None if config.trust is None else load_trust(config.trust, site.consortium, site.name)
        self._verifier = make_verifier(site.consortium, trust)
        self._rules = Rules(config, self._clock, self._verifier)
        self.spool = Spool(config.site.state)
        self._lineage = Lineage(config.site.state, draw)
        try:
            self._lineage.require_sound()
            self._go_on_from_register()
            require_whole(config.site.state)  # said now, not by a trainer in the night
            require_openable(config.site.state, self.spool.secure, self.spool.site_secret)
            agenda = restore_agenda(self.spool.load_agenda(config.site.name))
            self.spool.free_left_over({name for name, job in agenda.jobs.items() if job.phase is Phase.ENDED})
            self._bus = connect(config, lambda notice: self.post_work(lambda: self._on_notice(notice)))
            key = None if trust is None else trust.key
            self._chunk_signer = (
                None if key is None else ChunkSigner(site.consortium, key, self._coordinator_can_read_signed)
            )
            self._voice = Outbox(self._bus, self.spool, site.consortium, site.name, self._clock, key)
            if self._verifier.register is not None:
                self._voice.note_register(self._verifier.register)
            self._budgets = Budgets(config, self.spool)
            self._steps = Steps(self.spool, self._voice, agenda, self._stopping, self._clock, self._budgets)
            stand = None if trust is None else self._stand_as_witness(trust)
            self._witness = Witness(stand, self.spool, self._voice, self._clock)
            self._orientation = Orientation(
                self.spool, self._voice, site.name, self._clock, self._budgets, signs=key is not None
            )
        except BaseException:
            self.spool.close()
            raise
        self._subscriptions = Subscriptions(self._bus, self.spool, self.post_work)
        self._make_hands(trainers)
        self._make_ears()

    def _coordinator_can_read_signed(self, _experiment: str) -> bool:
        """Whether the coordinator's version signs chunks and reads signed ones. Any thread."""
        return WORDS_6 in self._hearing.coordinator_can

    def _stand_as_witness(self, trust: Trust) -> Standpoint:
        site = self.config.site
        return Standpoint(site.consortium, site.name, trust, self._verifier.known_register)

    def _make_hands(self, trainers: StartTrainers) -> None:
        """What works: trainers, transfers, and what gives them their errands. They answer through the main loop."""
        config, clock = self.config, self._clock

        def room() -> int:
            return self.spool.room_left(config.limits.disk)

        self._guard = DataGuard(config.datasets, self.post_work, clock, config.site.state)
        sealer = Sealer()
        self._trainers = trainers(
            config,
            lambda name, token, reply: self.post_work(lambda: self._reports.take_reply(name, token, reply)),
            lambda name, token, status: self.post_work(lambda: self._reports.take_exit(name, token, status)),
            clock,
        )
        self._workshop = Workshop(config, self.spool, self._trainers, sealer, room, clock, self._lineage)
        self._relay = Relay(
            self._voice,
            self._rules.floors,
            moved=lambda: (self._receiver.bytes_down, self._sender.bytes_up),
            post=self.post_work,
            clock=clock,
        )
        self._receiver = ChunkReceiver(
            self.spool,
            clock,
            on_complete=lambda key, digest: self._errands.post_input(ModelReady(key.experiment, key, digest)),
            on_no_room=lambda name: self._errands.post_input(NoSpace(name)),
            on_progress=lambda key, done, total: self._relay.relay_transfer("fetching", key, done, total),
            on_broken=lambda name: self._errands.post_input(PartBroken(name)),
            ask=lambda name, body: self._voice.ask_coordinator("chunks-wanted", body, name),
            room=room,
            check=ChunkCheck(config.site.consortium, self._verifier, clock.wall),
            coordinator_signs=lambda: self._coordinator_can_read_signed(""),
        )
        self._sender = ChunkSender(
            self._bus,
            config.limits.bandwidth,
            sealer,
            clock,
            on_leaving=lambda key, size, seal: self.spool.note_leaving(key, size, clock.wall(), seal),
            on_sent=lambda key: self._errands.post_result(ChunksSent(key.experiment, key.round, key.attempt)),
            on_broken=lambda key: self._errands.post_input(PartBroken(key.experiment)),
            on_lost=lambda key: self._errands.post_input(self._workshop.note_lost(key)),
            on_progress=lambda key, done, total: self._relay.relay_transfer("sending", key, done, total),
            signer=self._chunk_signer,
        )
        believing = Believing(config.site.consortium, self._verifier, clock)
        secure = SecureWork(
            config.site.name, self.spool, sealer, believing, self._rules.floors, self._draw, room, clock
        )
        self._errands = EffectRunner(
            steps=self._steps,
            voice=self._voice,
            trainers=self._trainers,
            workshop=self._workshop,
            receiver=self._receiver,
            sender=self._sender,
            guard=self._guard,
            secure=secure,
            clock=clock,
            post=self.post_work,
            show=self._show_status,
        )

    def _make_ears(self) -> None:
        """What hears: the coordinator, the trainers, the operator, the clock."""
        self._hearing = Inbound(
            self.config.site.consortium,
            spool=self.spool,
            lineage=self._lineage,
            steps=self._steps,
            errands=self._errands,
            voice=self._voice,
            rules=self._rules,
            verifier=self._verifier,
            witness=self._witness,
            orientation=self._orientation,
            ack=self._subscriptions.acknowledge,
            post=self.post_work,
            clock=self._clock,
        )
        self._reports = Reports(
            steps=self._steps, errands=self._errands, trainers=self._trainers,
            workshop=self._workshop, relay=self._relay, post=self.post_work, clock=self._clock,
        )  # fmt: skip
        self._orders = Orders(
            steps=self._steps,
            errands=self._errands,
            post=self.post_work,
            status=self.make_status,
            clock=self._clock,
            note=lambda what, name, login: self.spool.note_order(self._clock.wall(), what, name, login),
        )
        self._upkeep = Upkeep(
            steps=self._steps,
            errands=self._errands,
            voice=self._voice,
            trainers=self._trainers,
            rules=self._rules,
            spool=self.spool,
            lineage=self._lineage,
            retention=self.config.retention,
            hearing=self._hearing,
            clock=self._clock,
        )
        self._errands.settled = self._hearing.has_read_history

    def _go_on_from_register(self) -> None:
        """Take the register that came last, if it is newer than that of the kit.

        Raises:
            ConfigError: one came, and nothing is checked any more.
        """
        kept, trust = self.spool.get_kept(REGISTER), self.config.trust
        if trust is not None:
            if kept is None or not self._verifier.go_on_from(kept):
                self.spool.put_kept(REGISTER, trust.register_file.read_bytes())
        elif kept is not None:
            raise ConfigError(
                "[trust] is missing, and this site goes by the operator's register",
                where=str(self.config.site.state / "spool.sqlite"),
                advice="Put the section back: nobody's events would be checked without it",
            )

    def post_work(self, work: Callable[[], None]) -> None:
        """Hand a closure to the main loop. Any thread."""
        self._queue.put(work)

    def stop(self) -> None:
        """Stop soon: say `leaving`, keep the state. Any thread."""
        self._stopping.set()
        self.post_work(lambda: None)  # the loop need not wait for its next tick
        if not self._attached:  # whoever waits for the inbox, or for a broker that is away, is freed by this
            self._clock.make_thread(self._bus.close, "stopping").start()

    def run(self) -> int:
        """Work until stopped; returns the exit status."""
        control = endpoint = None
        try:
            # Shown before it waits: after a kill the broker holds the inbox for the dead agent a while longer.
            log.info("taking the inbox; another holder is waited for")
            self._errands.expect_models()
            try:
                self._attach_inbox()
                control = ControlServer(self.config.site.state, self._orders.take_order)
                # Before it knows where it was: the register that it may lack comes on a stream.
                self._subscriptions.attach_streams(self._hearing.take_delivery, self._receiver.deliver_chunk)
            except BrokerUnreachable:
                if self._stopping.is_set():
                    return 0
                raise
            self._attached = True
            self._await_orientation()
            if self._orientation.awaited:
                return 0  # stopped before it knew what it had said: it says nothing
            self._recover_work()
            self._orientation.release()
            self._guard.look_at_lists()
            self._steps.tally.note_broker(BusState.CONNECTED if self._voice.connected else BusState.LOST)
            endpoint = Endpoint(self.config.metrics, self._read_figures)
            self._voice.send_hello()
            notify_manager("READY=1")
            log.info("ready", incarnation=self.spool.incarnation)
            while not self._stopping.is_set():
                self._take_turn()
            self._leave_consortium()
            return 0
        finally:
            notify_manager("STOPPING=1")
            if endpoint is not None:
                endpoint.close()
            if control is not None:
                control.close()
            self._trainers.close()
            self._sender.close()
            self._receiver.close()
            self._bus.close()
            self._lineage.close()
            self.spool.close()

    def _await_orientation(self) -> None:
        """Hear where this site was, before it speaks."""
        if self._orientation.awaited:
            notify_manager("READY=1")
        while not self._stopping.is_set() and self._orientation.go_on_asking():
            with contextlib.suppress(queue.Empty):
                self._do_safely(self._queue.get(timeout=TICK))
            self._do_safely(self._upkeep.do_waiting)

    def _attach_inbox(self) -> None:
        """Take the inbox.

        Raises:
            NameTaken: another agent holds the inbox: it lives, or a dead one's time is up.
            BrokerUnreachable: the bus was closed, or is.
        """
        site = self.config.site

        def give_up() -> None:  # whoever waits for the inbox is freed by this
            self._clock.make_thread(self._bus.close, "twin").start()

        twin = TwinWatch(self._bus, self._verifier, site.consortium, site.name, give_up, self._clock)
        try:
            with twin.listen():
                self._subscriptions.attach_inbox(site.name, self._hearing.take_delivery)
        except BrokerUnreachable:
            if not twin.found:
                raise
            raise NameTaken(
                f"another agent is at work under the name {site.name!r}",
                where=f"{self.config.broker.host}:{self.config.broker.port}",
                advice="Stop the other one first, or give this one a name of its own",
            ) from None

    def _recover_work(self) -> None:
        forked = PolicyVerdict(Reason.FORKED_LOG) if self._witness.forked else None
        verdicts = {
            name: PolicyVerdict(job.reason)
            if job.reason is Reason.UNPROVEN_LOG
            else forked or self._rules.judge_experiment(job.file, job.researcher, job.signer)
            for name, job in self._steps.agenda.jobs.items()
            if job.phase is Phase.DECLINED or job.pending is not None
        }
        self._upkeep.look_at_the_clock()
        self._errands.apply_input(Restarted(verdicts, self._orientation.list_said(self._steps.agenda.jobs)))

    def _take_turn(self) -> None:
        """Handle what came, or the passing of time."""
        try:
            work: Callable[[], None] | None = self._queue.get(timeout=self._patience())
        except queue.Empty:
            work = None
        if work is not None:
            self._do_safely(work)
        self._do_safely(self._do_due)

    def _patience(self) -> float:
        return HURRY if self._voice.behind and self._voice.connected else TICK

    @staticmethod
    def _do_safely(work: Callable[[], None]) -> None:
        """Nothing that fails ends the agent: not a full disk, and not a defect."""
        try:
            work()
        except KonsilError as error:
            log.error("failed", error=str(error))
        except Exception:
            log.critical("defect", exc_info=True)

    def _on_notice(self, notice: Notice) -> None:
        if notice.state is BusState.RENEWED:
            self._tell_again(notice.detail)
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
                self._voice.send_hello()
        self._broker = notice.state
        self._steps.tally.note_broker(notice.state)
        self._show_status()

    def _tell_again(self, queue: str) -> None:
        """The broker lost what was there: what waits for its receipt is said again, and a standing is asked for."""
        log.warning("a queue is not the one that was read before", queue=queue)
        if queue != GLOBAL and self._voice.connected:  # chunks that lack are asked for by themselves
            self._voice.send_hello()

    def _do_due(self) -> None:
        if self._pace.is_due("tick", self._patience()):
            self._upkeep.do_due()
            if self._pace.is_due("show", SHOW_EVERY):
                self._show_status()
            if self._upkeep.drained:
                log.info("drained")
                self._stopping.set()

    def _show_status(self) -> None:
        notify_manager(
            f"STATUS={status_line(self._steps.agenda, self._relay.latest, self._broker, self._relay.resumed)}"
        )

    def make_status(self) -> dict[str, Any]:
        """What the agent does now, for `konsil site status`; main loop's thread."""
        return status_of(
            self._steps.agenda,
            site=self.config.site.name,
            broker=str(self._broker),
            progress=self._relay.latest,
            refusals=self._count_refusals(),
            waiting=self.spool.count_waiting(),
            pids=self._trainers.pids(),
            used_bytes=self.spool.used_bytes(),
            bytes_down=self._receiver.bytes_down,
            bytes_up=self._sender.bytes_up,
            pending=self._bus.count_pending(),
            resumed=self._relay.resumed,
            opens_at=self._rules.opens_at(),
            file=self._file,
            lists=self._guard.lists.as_plain(),
            log=self._witness.as_plain(),
            term_jumps=[[*one] for one in self.spool.list_jumps()],
            privacy=self._budgets.list_words(),
            floors=self._rules.floors,
            unboxed=[name for name, one in self.config.trainers.items() if one.sandbox == "none"],
        )

    def _count_refusals(self) -> dict[str, int]:
        """Events and chunks that were refused, by reason."""
        return dict(Counter(self._hearing.refusals) + self._receiver.refusals)

    def _read_figures(self) -> Iterable[Reading]:
        """The agent's figures; the metrics endpoint's thread."""
        return make_readings(
            self._steps.tally,
            self._steps.agenda,
            state=self.config.site.state,
            refusals=self._count_refusals(),
            set_aside=self._hearing.set_aside,
            progress=dict(self._relay.latest),
            bytes_down=self._receiver.bytes_down,
            bytes_up=self._sender.bytes_up,
            trainers=len(self._trainers.pids()),
            incarnation=self.spool.incarnation,
            certificate_ends=find_end_of_login(self.config.broker),
        )

    def _leave_consortium(self) -> None:
        """Say that the site goes, as far as the broker listens; training saves what it has, and goes on from there at
        the next start."""
        self._trainers.leave()
        with contextlib.suppress(KonsilError):  # on a full disk it goes without a word: its silence tells
            with self.spool.transaction():
                self._voice.say_event(
                    Say("leaving", NO_EXPERIMENT, 0, Leaving(), f"incarnation-{self.spool.incarnation}"),
                    self._clock.wall(),
                )
            self._voice.publish_waiting()
            if self._voice.connected:
                self._bus.flush(GOODBYE_WITHIN)
        log.info("leaving")


def run_agent(config_path: Path) -> int:
    """Run the agent until it is stopped; returns the exit status, with one line on standard error for what failed."""
    logs.configure_log("site", for_good=True)
    os.umask(OTHERS)  # as its unit has it: whoever starts it by hand shows its files to nobody else either
    try:
        file = note_file(config_path)
        config = configuration.read_config(config_path)
        logs.identify_service(site=config.site.name)
        agent = Agent(config, file=file)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: agent.stop())
        if starting.was_told_to_stop():
            agent.stop()
        return agent.run()
    except KonsilError as error:
        return logs.last_word(error)
