"""How each fault of a schedule strikes the world."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from hashlib import sha256

from coordinator_kit import CONSORTIUM, weights
from simulation_party import Machine
from simulation_plan import COORDINATOR, Act, Strike
from simulation_world import NAME, SimulatedWorld

from messages import kinds
from messages.envelope import Author
from messages.ground.errors import KonsilError
from messages.reasons import Reason
from messages.tensors.transfer import ChunkHeader, TransferKey, encode_chunk
from site_agent.core.inputs import Switched

HOUR = 3600.0
HEARD_BY = 30.0
"""Seconds until a party notices that nothing comes: two heartbeats."""


class Striker:
    """Lets faults strike."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self._table: Mapping[Act, Callable[[Strike], None]] = {
            Act.KILL: self._kill,
            Act.POWER: self._kill,
            Act.KILL_BEHIND: self._arm,
            Act.POWER_BEHIND: self._arm,
            Act.STOP: lambda one: world.stop(self._machine(one), one.lasts),
            Act.HANG: self._hang,
            Act.TRAINER: self._end_trainer,
            Act.DISK_FULL: self._fill_disk,
            Act.NO_BYTE: self._fill_disk,
            Act.DISK_FREE: lambda one: world.free_disk(self._machine(one)),
            Act.JUMP: self._turn_clock,
            Act.DRIFT: self._turn_clock,
            Act.STILL: self._turn_clock,
            Act.CUT: self._cut_line,
            Act.HALF_OPEN: self._silence_line,
            Act.ONE_WAY: self._silence_line,
            Act.LATE_CONFIRMS: self._delay_confirms,
            Act.LOST_CONFIRMS: self._lose_confirms,
            Act.TWICE: self._double,
            Act.RESTART: self._stop_broker,
            Act.BROKER_POWER: self._stop_broker,
            Act.WIPED: lambda _one: world.broker.wipe_all(),
            Act.TRUNCATED: self._truncate,
            Act.DELETED: self._delete_queue,
            Act.ALARM: self._alarm,
            Act.PAUSE: lambda _one: world.say("experiment-pause", kinds.ExperimentPause()),
            Act.RESUME: lambda _one: world.say("experiment-resume", kinds.ExperimentResume()),
            Act.ABORT: lambda _one: world.say("experiment-abort", kinds.ExperimentAbort()),
            Act.FINISH: lambda _one: world.say("experiment-finish", kinds.ExperimentFinish()),
            Act.EXCLUDE: self._exclude,
            Act.SITE_PAUSE: self._pause_site,
            Act.NEW_DATA: self._change_data,
            Act.RUBBISH: self._say_rubbish,
        }

    def strike(self, one: Strike) -> None:
        """Do it."""
        self._world.watch.tell(f"FAULT {one}")
        self._table[one.act](one)

    def _machine(self, one: Strike) -> Machine:
        return self._world.machines[one.where]

    def _kill(self, one: Strike) -> None:
        power = random.Random(one.draw) if one.act in (Act.POWER, Act.POWER_BEHIND) else None
        self._world.crash(self._machine(one), one.lasts, power)

    def _arm(self, one: Strike) -> None:
        self._machine(one).armed = (one.step, lambda: self._kill(one))

    def _hang(self, one: Strike) -> None:
        machine = self._machine(one)
        clock = machine.clock
        if clock is None or clock.gone or clock.held:
            return
        clock.hold()
        began = self._world.clock.monotonic()

        def go_on() -> None:
            if machine.clock is clock:
                if self._world.clock.monotonic() - began > HEARD_BY:  # the broker has dropped it meanwhile
                    self._break_line(machine)
                clock.let_go()

        self._world.undo_after(one.lasts, go_on)

    def _end_trainer(self, one: Strike) -> None:
        if (trainers := self._machine(one).trainers) is not None:
            trainers.die()

    def _fill_disk(self, one: Strike) -> None:
        machine = self._machine(one)
        machine.full = self._world.clock.monotonic() + one.lasts
        machine.stuck |= one.act is Act.NO_BYTE
        self._world.limit_database(machine)

    def _turn_clock(self, one: Strike) -> None:
        now, dial = self._world.clock.wall(), self._machine(one).dial
        if one.act is Act.JUMP:
            dial.turn_to(now, offset=random.Random(one.draw).choice([-24 * HOUR, -HOUR, -60.0, 60.0, HOUR, 48 * HOUR]))
        elif one.act is Act.DRIFT:
            dial.turn_to(now, rate=random.Random(one.draw).uniform(0.99, 1.01))
        else:
            dial.turn_to(now, rate=0.0)
            self._world.undo_after(one.lasts, lambda: dial.turn_to(self._world.clock.wall(), rate=1.0))

    def _break_line(self, machine: Machine) -> None:
        machine.line.cuts += 1
        if machine.bus is not None:
            machine.bus.break_line()

    def _cut_line(self, one: Strike) -> None:
        machine = self._machine(one)
        machine.line.up = False
        self._break_line(machine)

        def mend() -> None:
            machine.line.up = True
            self._break_line(machine)

        self._world.undo_after(one.lasts, mend)

    def _silence_line(self, one: Strike) -> None:
        machine, line = self._machine(one), self._machine(one).line
        line.deaf, line.mute = True, line.mute or one.act is Act.HALF_OPEN

        def notice() -> None:
            line.deaf = line.mute = False
            self._break_line(machine)

        self._world.undo_after(min(one.lasts, HEARD_BY), notice)

    def _delay_confirms(self, one: Strike) -> None:
        line = self._machine(one).line
        line.late = random.Random(one.draw).uniform(0.1, 10.0)
        self._world.undo_after(one.lasts, lambda: setattr(line, "late", 0.0))

    def _lose_confirms(self, one: Strike) -> None:
        """What is sent in a while is stored; its confirms are on the way when the line breaks."""
        machine, line = self._machine(one), self._machine(one).line
        line.late = 60.0

        def cut() -> None:
            line.late = 0.0
            self._break_line(machine)

        self._world.undo_after(random.Random(one.draw).uniform(0.5, 10.0), cut)

    def _double(self, one: Strike) -> None:
        line = self._machine(one).line
        line.twice = True
        self._world.undo_after(one.lasts, lambda: setattr(line, "twice", False))

    def _stop_broker(self, one: Strike) -> None:
        world = self._world
        if not world.broker.up:
            return
        world.broker.stop()
        for machine in world.machines.values():
            if machine.bus is not None:
                machine.bus.break_line()
        world.researcher.break_line()
        if one.act is Act.BROKER_POWER:
            gone = world.broker.lose_tail(random.Random(one.draw).uniform(0.0, 5.0))
            world.watch.tell(f"{gone} messages of streams are lost")
        world.undo_after(max(0.5, one.lasts), world.broker.start)

    def _truncate(self, one: Strike) -> None:
        draw = random.Random(one.draw)
        for queue in sorted(self._world.broker.streams):
            if draw.random() < 0.5:
                self._world.broker.truncate_stream(queue, draw.choice([0, 1, 5]))

    def _delete_queue(self, one: Strike) -> None:
        broker = self._world.broker
        queue = random.Random(one.draw).choice(sorted([*broker.streams, *broker.inboxes]))
        self._world.watch.tell(f"{queue} is deleted, and declared again")
        if queue in broker.streams:
            broker.wipe_stream(queue)
        else:
            broker.empty_inbox(queue)

    def _alarm(self, one: Strike) -> None:
        broker = self._world.broker
        broker.alarm = True
        self._world.undo_after(one.lasts, lambda: setattr(broker, "alarm", False))

    def _exclude(self, one: Strike) -> None:
        self._world.say("experiment-exclude", kinds.ExperimentExclude(site=one.where, reason=Reason.EXCLUDED))

    def _pause_site(self, one: Strike) -> None:
        self._switch(one.where, True)
        self._world.undo_after(one.lasts, lambda: self._switch(one.where, False))

    def _switch(self, site: str, paused: bool) -> None:
        world, agent = self._world, self._world.agent(site)

        def switch() -> None:
            assert agent is not None
            agent._errands.apply_input(Switched(paused=paused))
            if paused and agent._steps.agenda.paused:
                world.watch.paused.setdefault(site, world.clock.monotonic())
            else:
                world.watch.paused.pop(site, None)

        if not paused:
            world.watch.paused.pop(site, None)
        if agent is not None:
            agent.post_work(switch)

    def end_pauses(self) -> None:
        """No operator pauses any more."""
        for site in self._world.schedule.sites:
            if (agent := self._world.agent(site)) is not None and agent._steps.agenda.paused:
                self._switch(site, False)

    def _change_data(self, one: Strike) -> None:
        """An image comes, and goes."""
        image = self._world.folder / f"data-{one.where}" / "case-1.nii.gz"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(b"x")
        self._world.undo_after(one.lasts, lambda: image.unlink(missing_ok=True))

    def _say_rubbish(self, one: Strike) -> None:
        world, draw, site = self._world, random.Random(one.draw), one.where
        now, mine = world.clock.wall(), Author(CONSORTIUM, site, key=world.key_of(site))
        other = Author(CONSORTIUM, COORDINATOR, 9, 99, key=world.key_of(site))
        noise = sha256(str(one.draw).encode()).digest()
        said = [
            mine.write_event("weights-ready", weights(999), time=now, experiment=NAME, round_number=999, attempt="x"),
            mine.write_event("joined", kinds.Joined(cases=weights(1).cases, platform=weights(1).platform),
                             time=now, experiment="exp-9", attempt=draw.randrange(99)),
            other.write_event("experiment-aborted", kinds.ExperimentAborted(), time=now, experiment=NAME),
        ]  # fmt: skip
        key = TransferKey(NAME, 10_000, site, 1)
        chunk = encode_chunk(ChunkHeader(key, 0, 1024, 1024, noise), bytes(1024))
        sent = [(one.kind, one.raw) for one in said] + [("round-accepted", noise), ("update-chunk", chunk)]
        world.watch.rubbish = True
        for kind, raw in sent:
            try:
                world.broker.publish(site, f"{kind}.{site}.{NAME}", raw)
            except KonsilError:
                world.watch.note("refused by the broker", kind)
        world.watch.rubbish = False
