"""The real services of a consortium in one process and in virtual time: each party a machine with a disk, a clock, a
line to the broker, and a process that may be gone at any moment.

Not run as they are: the agent's control socket and the endpoints of metrics (doors for outsiders, whose threads take no
turns), and the trainer, which is a script.
"""

from __future__ import annotations

import errno
import random
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from coordinator_kit import CONSORTIUM, plain
from simulation_broker import FaultyBroker, Line, PartyBus
from simulation_clock import Dial, PartyClock
from simulation_disk import Disk
from simulation_party import Machine, make_agent, make_coordinator
from simulation_plan import COORDINATOR, RESEARCHER, Schedule, draw_share
from simulation_watch import Watch

from coordinator.core.state import ExperimentState, Phase
from coordinator.service import Coordinator
from deploy.broker.definitions import Party, render_definitions
from deploy.provision.key_ring import KeyRing, make_key_ring
from messages import envelope, kinds
from messages.bus.base import Delivery
from messages.envelope import Author
from messages.ground.errors import KonsilError
from messages.ground.virtual.clock import VirtualClock
from messages.trust.keys import SigningKey, read_key
from messages.trust.register import Role
from site_agent.service import Agent

NAME = "exp-1"
PAGES = 2**30
HEARTBEATS = 40.0
"""Seconds until a broker drops what it no longer hears of (two missed heartbeats, docs/reliability.md)."""


class SimulatedWorld:
    """Made, driven and closed in `clock.run`, within `simulation_run.patched`."""

    def __init__(
        self, folder: Path, clock: VirtualClock, schedule: Schedule, ring: KeyRing | None = None, *, tell: bool = False
    ) -> None:
        self.folder, self.clock, self.schedule = folder, clock, schedule
        self.disk = Disk()
        self.watch = Watch(schedule, clock, self._is_settled, self._is_kept, tell=tell)
        self.broker = FaultyBroker(definitions_of(schedule.sites), clock=clock, on_publish=self.watch.note_publish)
        now = clock.wall()
        self.machines = {name: Machine(name, Line(), Dial(now)) for name in (COORDINATOR, *schedule.sites)}
        for name, seconds in schedule.late.items():
            self.machines[name].boots_at = clock.monotonic() + seconds
        self.later: list[tuple[float, Callable[[], None]]] = []
        """What is undone once its time has come."""
        self.works: Counter[str] = Counter()
        self.heard: set[str] = set()
        self._over = False
        self._words = 1
        self._ring = ring
        self.researcher = PartyBus(self.broker, RESEARCHER, Line(), clock, self.watch.note)
        self._down = self.researcher.subscribe("downlink", self._take)

    def trust_of(self, party: str) -> dict[str, Any]:
        """Of its configuration, what says whom it trusts and with which key it signs."""
        return {} if self._ring is None else {"trust": self._ring.trust_of(party)}

    def key_of(self, party: str) -> SigningKey | None:
        """With which it signs; None: nobody does."""
        return None if self._ring is None else read_key(self._ring.key_file(party))

    # processes

    def boot(self, machine: Machine) -> None:
        """Start a party's process."""
        machine.boots_at, machine.stopping = None, False
        machine.starts += 1
        self.watch.starts += machine.name == COORDINATOR
        machine.clock = PartyClock(self.clock, machine.dial)
        self.watch.tell(f"{machine.name} starts, for the {machine.starts}. time")
        machine.clock.make_thread(partial(self._live, machine, machine.clock), f"{machine.name}").start()

    def _live(self, machine: Machine, clock: PartyClock) -> None:
        ended = "ended by itself"
        try:
            make = make_coordinator if machine.name == COORDINATOR else make_agent
            machine.service = service = make(self, machine, clock)
            self.limit_database(machine)
            service.run()
        except KonsilError as error:
            ended = f"ended: {error}"
        except Exception as error:  # noqa: BLE001 (what ended a service is what the run is for)
            ended = f"died: {type(error).__name__}: {error}"
        machine.service = None
        if not (machine.stopping or self._over) or ended.startswith("died"):
            self.watch.fail(f"{machine.name} {ended}")
        if not self._over:
            machine.boots_at = max(machine.boots_at or 0.0, self.clock.monotonic())

    def connect(self, machine: Machine, clock: PartyClock, notice: Any) -> PartyBus:
        """Its process's connection to the broker."""
        machine.bus = PartyBus(self.broker, machine.name, machine.line, clock, self.watch.note, notice)
        return machine.bus

    def do_work(self, what: str) -> None:
        """The coordinator's pool is at this for a while; its disk may be full behind it."""
        self.works[what] += 1
        self.clock.sleep(self.schedule.works[what] * (0.5 + draw_share(self.schedule.seed, what, self.works[what])))
        if self.machines[COORDINATOR].full is not None:
            raise OSError(errno.ENOSPC, "No space left on device")

    # the end of a process

    def crash(self, machine: Machine, away: float, power: random.Random | None) -> None:
        """Its process is gone, at once; `power`: what was not synced too, as far as this draws it. Where a thread of
        its own calls this, it never returns."""
        clock, service = machine.clock, machine.service
        if clock is None or clock.gone:
            return
        clock.gone = True
        clock.hold()
        machine.dead.append(clock)
        machine.armed, machine.clock, machine.service, machine.trainers = None, None, None, None
        bus, machine.bus = machine.bus, None
        if bus is not None and power is None:
            bus.vanish()
        elif bus is not None:
            self.undo_after(power.uniform(0.0, HEARTBEATS), bus.vanish)
        state = self.folder / machine.name
        if state.exists():
            grave = self.folder / f"dead-{machine.name}-{machine.starts}"
            state.rename(grave)
            if power is None:
                self.disk.copy_after_kill(grave, state)
            else:
                self.disk.copy_after_power_cut(grave, state, power, full=_is_full_sync(service))
        machine.boots_at = self.clock.monotonic() + away
        if clock.owns(threading.current_thread()):
            clock.end_process()

    def stop(self, machine: Machine, away: float) -> None:
        """It is told to stop, and started again once it was away for so long."""
        if machine.service is not None and not machine.stopping:
            machine.stopping = True
            machine.boots_at = self.clock.monotonic() + away
            machine.service.stop()

    def passed(self, step: str) -> None:
        """A process is behind a step: it ends there, if it was to."""
        thread = threading.current_thread()
        self.watch.note("step", step)
        for machine in self.machines.values():
            if machine.clock is not None and machine.clock.owns(thread):
                if machine.armed is not None and machine.armed[0] in ("", step):
                    act, machine.armed = machine.armed[1], None
                    self.watch.tell(f"{machine.name} is behind {step}, and gone")
                    act()
                return

    def close(self) -> None:
        """End all."""
        self._over, self.watch.quiet = True, False
        for machine in self.machines.values():
            self.free_disk(machine)
            machine.stopping = True
            if machine.service is not None:
                machine.service.stop()
        ends = self.clock.monotonic() + 300.0
        while any(machine.service is not None for machine in self.machines.values()):
            if self.clock.monotonic() > ends:
                left = [name for name, machine in self.machines.items() if machine.service is not None]
                self.watch.fail(f"told to stop, and going on: {left}")
                break
            self.pass_time()
            self.clock.sleep(0.25)

    def release_dead(self) -> None:
        """Let what was killed unwind with the rest, once nothing is judged any more."""
        for machine in self.machines.values():
            for clock in machine.dead:
                clock.release_dead()

    # time

    def pass_time(self) -> None:
        """What is due by now: processes start, disks empty, lines come back, confirms come."""
        now = self.clock.monotonic()
        due = [one for one in self.later if one[0] <= now]
        self.later = [one for one in self.later if one[0] > now]
        for _at, undo in due:
            undo()
        for machine in self.machines.values():
            if machine.full is not None and now >= machine.full:
                self.free_disk(machine)
            if machine.bus is not None:
                machine.bus.pass_time()
            if machine.service is None and machine.boots_at is not None and now >= machine.boots_at and not self._over:
                self.boot(machine)
        self.researcher.pass_time()

    def undo_after(self, seconds: float, undo: Callable[[], None]) -> None:
        """Do this once so much time has passed, or the faults end."""
        self.later.append((self.clock.monotonic() + seconds, undo))

    def end_faults(self) -> None:
        """All that a fault holds back is let go."""
        for _at, undo in sorted(self.later, key=lambda one: one[0]):
            undo()
        self.later.clear()
        for machine in self.machines.values():
            machine.armed = None
            self.free_disk(machine)
            if machine.boots_at is not None:
                machine.boots_at = 0.0

    # disks

    def is_full(self, path: Any) -> bool:
        """Whether a disk has no space for files."""
        text = str(path)
        return any(
            machine.full is not None and text.startswith(str(self.folder / name))
            for name, machine in self.machines.items()
        )

    def free_disk(self, machine: Machine) -> None:
        machine.full, machine.stuck = None, False
        self.limit_database(machine)

    def limit_database(self, machine: Machine) -> None:
        """SQLite's limit is never below what the file has: so no page more."""
        service = machine.service
        if service is not None:
            with suppress(sqlite3.ProgrammingError):  # it is ending, and its database closed
                _database_of(service).execute(f"PRAGMA max_page_count = {1 if machine.stuck else PAGES}")

    # what is seen

    @property
    def coordinator(self) -> Coordinator | None:
        service = self.machines[COORDINATOR].service
        return service if isinstance(service, Coordinator) else None

    def agent(self, site: str) -> Agent | None:
        service = self.machines[site].service
        return service if isinstance(service, Agent) else None

    def state(self) -> ExperimentState | None:
        """What the coordinator knows of the experiment; None while it is away, or knows of none."""
        service = self.coordinator
        shell = getattr(service, "shell", None)
        return None if shell is None else shell.steps.states.get(NAME)

    def _is_settled(self, event: str) -> bool | None:
        service = self.coordinator
        return None if service is None else bool(service.journal.seen_settled(event))

    def _is_kept(self, event: str) -> bool | None:
        state = self.state()
        if state is None or state.round is None or state.phase in (Phase.COMPLETE, Phase.FAILED, Phase.ABORTED):
            return None
        for part in state.round.parts.values():
            left_behind = state.round.closed_at is not None and not part.stored
            if part.update is not None and part.update.event == event and not left_behind:
                blob = self.folder / COORDINATOR / "blobs" / NAME / part.update.seal
                return part.stored and self.disk.is_durable(blob)
        return None

    # the researcher

    def say(self, kind: str, body: kinds.Body) -> None:
        self._words += 1
        event = Author(CONSORTIUM, RESEARCHER, key=self.key_of(RESEARCHER)).write_event(
            kind, body, time=self.clock.wall(), experiment=NAME, attempt=self._words, seq=self._words
        )
        self.watch.tell(f"the researcher says {kind}")
        self.researcher.publish(event.key, event.raw)

    def begin(self) -> None:
        self.say("experiment-start", kinds.ExperimentStart(experiment=plain(**self.schedule.content())))

    def _take(self, delivery: Delivery) -> None:
        event = envelope.decode_event(delivery.body)
        self.heard.add(event.kind)
        self._down.ack(delivery)


def make_ring(folder: Path, schedule: Schedule) -> KeyRing | None:
    """Keys of all parties, and their register; None where nobody signs. To be made before the world is."""
    if not schedule.signed:
        return None
    roles: dict[str, Role] = {COORDINATOR: "coordinator", RESEARCHER: "researcher"}
    return make_key_ring(folder / "keys", CONSORTIUM, roles | dict.fromkeys(schedule.sites, "site"), seed="simulation")


@cache
def definitions_of(sites: tuple[str, ...]) -> Any:
    """The broker's definitions of a consortium; nobody changes them."""
    parties = [Party(COORDINATOR, COORDINATOR, "x"), Party(RESEARCHER, "researcher", "x")]
    return render_definitions(CONSORTIUM, [*parties, *(Party(site, "site", "x") for site in sites)])


def _is_full_sync(service: Coordinator | Agent | None) -> bool:
    if service is None:
        return True
    with suppress(sqlite3.ProgrammingError):
        return bool(_database_of(service).execute("PRAGMA synchronous").fetchone()[0] >= 2)
    return True


def _database_of(service: Coordinator | Agent) -> sqlite3.Connection:
    return service.journal._db if isinstance(service, Coordinator) else service.spool._db


def usage_in(world: Callable[[], SimulatedWorld]) -> Callable[[Any], Any]:
    """`shutil.disk_usage`, by the world's disks."""
    usage = shutil.disk_usage

    def disk_usage(folder: Any) -> Any:
        found = usage(folder)
        return found._replace(free=0) if world().is_full(folder) else found

    return disk_usage
