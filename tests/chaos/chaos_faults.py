"""Carrying out a schedule: each fault at its moment, what was broken mended in time, what ended started again."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import psutil
from chaos_plan import BROKERS, Fault, Schedule
from chaos_world import World, arm
from proxy import FaultyProxy

from messages.ground.errors import KonsilError

LOOK_AGAIN = 0.05
RESTART_AFTER = 0.3
LAST, LAST_WITHIN = "agent:end", 4.0
"""The step that sites pass once the experiment is over, and how long it is waited for."""
SLOW = 1e6
"""Bits a second of a slow line."""
EXPECTED = (0, -signal.SIGKILL, 3)
"""How a service may end: in order, killed by us, and at its start while there is no broker."""


class Havoc:
    """One schedule at work; `turn` is called often, from one thread."""

    def __init__(self, world: World, schedule: Schedule) -> None:
        self.world = world
        self.fired: Counter[str] = Counter()
        self.unexpected: list[str] = []
        self._order = itertools.count()
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        """What mends."""
        self._strikes: list[tuple[float, int, Fault]] = []
        self._schedule = schedule
        self._armed: dict[str, list[Fault]] = {}
        self._back: dict[str, float] = {}
        """Service → when it is started again."""
        self._down_for: dict[str, float] = {}
        self._lurking: list[tuple[FaultyProxy, Fault]] = []
        self._told: set[str] = set()
        """Services that got SIGTERM."""
        self._broker: threading.Thread | None = None

    def arm(self) -> None:
        """Set the steps' traps; before the experiment is published."""
        for fault in self._schedule.faults:
            if fault.kind == "step":
                self._armed.setdefault(fault.party, []).append(fault)
        for several in self._armed.values():
            arm(self.world, several[0])

    def begin(self) -> None:
        """The clock of the timed faults starts."""
        for fault in self._schedule.faults:
            if fault.kind != "step":
                self._strike_in(fault.at, fault)

    def turn(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        while self._agenda and self._agenda[0][0] <= now:
            heapq.heappop(self._agenda)[2]()
        while self._strikes and self._strikes[0][0] <= now:
            self._strike(heapq.heappop(self._strikes)[2])
        self._traps()
        self._lurk()
        self._supervise(now)

    def end(self) -> None:
        """No more faults; what is broken is mended by `turn` as before."""
        self._strikes.clear()
        for proxy, _fault in list(self._lurking):
            self._heal(proxy)
        for party, several in list(self._armed.items()):
            if several and several[0].step == LAST:
                self._in(LAST_WITHIN, lambda party=party: self._disarm(party))
            else:
                self._disarm(party)

    def _disarm(self, party: str) -> None:
        self._traps()
        self.world.crash_file(party).unlink(missing_ok=True)
        self._armed.pop(party, None)

    @property
    def calm(self) -> bool:
        """Whether all is mended and every service runs."""
        return (
            not self._agenda
            and not self._back
            and (self._broker is None or not self._broker.is_alive())
            and all(child.running for child in self.world.services.values())
        )

    def _strike_in(self, seconds: float, fault: Fault) -> None:
        heapq.heappush(self._strikes, (time.monotonic() + seconds, next(self._order), fault))

    def _in(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, (time.monotonic() + seconds, next(self._order), action))

    def _traps(self) -> None:
        for party, several in self._armed.items():
            if several and not self.world.crash_file(party).exists():
                fault = several.pop(0)
                self.fired[fault.name] += 1
                self._down_for[party] = fault.lasts
                if several:
                    arm(self.world, several[0])

    def _supervise(self, now: float) -> None:
        for party, child in self.world.services.items():
            if child.running:
                continue
            if party not in self._back:
                status = child.process.returncode
                # SIGTERM before the handler stands, in its imports, ends it too: systemd takes that as a clean end.
                told = party in self._told and status == -signal.SIGTERM
                if status not in EXPECTED and not told:
                    self.unexpected.append(f"{party} ended with status {status}")
                self._back[party] = now + self._down_for.pop(party, RESTART_AFTER)
            elif now >= self._back[party]:
                del self._back[party]
                self.world.run(party)

    def _strike(self, fault: Fault) -> None:
        if fault.kind in BROKERS:
            self._break_broker(fault)
        elif fault.kind.startswith("line-"):
            self._break_line(fault)
        elif fault.kind.startswith("trainer-"):
            self._break_trainer(fault)
        else:
            self._break_service(fault)

    def _break_service(self, fault: Fault) -> None:
        child = self.world.services[fault.party]
        if not child.running:
            self._strike_in(LOOK_AGAIN, fault)
            return
        self.fired[fault.name] += 1
        if fault.kind == "stop":
            child.send_signal(signal.SIGSTOP)
            self._in(fault.lasts, lambda: child.send_signal(signal.SIGCONT))
            return
        self._down_for[fault.party] = fault.lasts
        if fault.kind == "term":
            self._told.add(fault.party)
        child.send_signal(signal.SIGKILL if fault.kind == "kill" else signal.SIGTERM)

    def _break_trainer(self, fault: Fault) -> None:
        trainer = self.world.trainer(fault.party)
        if trainer is None:
            self._strike_in(LOOK_AGAIN, fault)
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            if fault.kind == "trainer-stop":
                trainer.suspend()
                self._in(fault.lasts, lambda: _go_on(trainer))
            elif fault.kind == "trainer-kill":
                trainer.kill()
            else:
                trainer.terminate()
            self.fired[fault.name] += 1

    def _break_line(self, fault: Fault) -> None:
        proxy = self.world.proxies[fault.party]
        mended = True
        match fault.kind:
            case "line-cut" | "line-fin":
                proxy.cut(fin=fault.kind == "line-fin")
                mended = False
            case "line-cut-after" | "line-corrupt":
                struck = proxy.cut_after if fault.kind == "line-cut-after" else proxy.corrupt
                struck(fault.bytes, fault.way)
                self._lurking.append((proxy, fault))
                return
            case "line-half-open":
                proxy.half_open()
            case "line-down":
                proxy.refuse()
            case "line-delay":
                proxy.delay(0.05)
            case "line-slow":
                proxy.throttle(SLOW)
        self.fired[fault.name] += 1
        if mended:
            self._in(fault.lasts, lambda: self._heal(proxy))

    def _heal(self, proxy: FaultyProxy) -> None:
        """What lurks there and has not struck does not count."""
        self._lurk()
        self._lurking = [one for one in self._lurking if one[0] is not proxy]
        proxy.heal()

    def _lurk(self) -> None:
        """A line's fault that waits for its byte counts once that came by."""
        for proxy, fault in list(self._lurking):
            if proxy.idle:
                self.fired[fault.name] += 1
                self._lurking.remove((proxy, fault))

    def _break_broker(self, fault: Fault) -> None:
        if time.monotonic() < self.world.settled_at or (self._broker is not None and self._broker.is_alive()):
            self._strike_in(0.5, fault)
            return
        self.fired[fault.name] += 1
        if fault.kind == "broker-stop":
            pids = self.world.broker_pids()
            _signal(pids, signal.SIGSTOP)
            self._in(fault.lasts, lambda: _signal(pids, signal.SIGCONT))
            return
        self._broker = threading.Thread(target=self._restart_broker, args=(fault,), daemon=True)
        self._broker.start()

    def _restart_broker(self, fault: Fault) -> None:
        node = self.world.node
        if fault.kind == "broker-restart":
            node.stop()
        else:
            node.kill_node()
        time.sleep(fault.lasts)
        if fault.kind == "broker-wipe":
            node.wipe_messages()
        try:
            self.world.boot() if fault.kind == "broker-wipe" else node.start()
        except KonsilError as error:
            self.unexpected.append(f"the broker does not start again: {error}")


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _go_on(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()
