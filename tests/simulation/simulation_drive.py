"""Lets the faults of a schedule strike, then waits for what has to come of it: an end, known to all, and silence."""

from __future__ import annotations

import math
from collections import Counter

from simulation_faults import Striker
from simulation_plan import COORDINATOR, LOSSY, WORDS, Act, Stage, Strike
from simulation_world import NAME, SimulatedWorld

from coordinator.core.state import ENDED, ExperimentState, Phase
from messages import kinds
from messages.reasons import Reason
from site_agent.core.jobs import OVER

LOOK = 0.25
"""Seconds between two looks at where the experiment is."""
STANDS = 45.0
"""Seconds in which nothing of the schedule comes: then the next fault strikes wherever the experiment is."""
ENDS_WITHIN = 6000.0
"""Seconds within which it has to be over once faults have stopped: the deadlines of the experiment, extended."""
KNOWN_WITHIN = 900.0
"""Seconds until every site knows that it is over, and nothing waits for its receipt."""
QUIET_AFTER = 45.0
"""Seconds after that in which what was under way may still be said."""
HEARD = 20.0
"""Seconds in which a pause is to show."""
UP_WITHIN = 200.0
"""Seconds until every party is up again."""
BEGUN_WITHIN = 30.0
"""Seconds after which the researcher starts an experiment again of which nothing is seen."""
EXCUSES = (Act.EXCLUDE, Act.NEW_DATA)
"""Faults by which sites may give up their part for good, so that a quorum may not be met. So may a trainer that is
killed twice."""


class SimulationDriver:
    """Drives one world.

    Args:
        struck: takes each fault that struck, with the stage that it met.
    """

    def __init__(self, world: SimulatedWorld, struck: list[list[str]]) -> None:
        self._world, self._striker, self._struck = world, Striker(world), struck
        self._left = [*world.schedule.strikes]
        self._reached: dict[tuple[Stage, int], float] = {}
        self._moved = world.clock.monotonic()
        self._paused = self._aborted = self._finished = False
        """What the researcher said last, as far as it was said before the end."""
        self._lossy = False
        self._begun = world.clock.monotonic()
        self._heard_by = 0.0
        """When the coordinator has heard that at the latest; infinity where something may hold it back."""

    def drive(self) -> str:
        """How it ended."""
        world = self._world
        world.pass_time()
        world.begin()
        while self._left:
            self._note_reached()
            for strike in self._list_due():
                self._left.remove(strike)
                self._strike(strike)
            self._begin_again()
            world.pass_time()
            world.clock.sleep(LOOK)
        self._settle()
        state = world.state()
        return "" if state is None else f"{state.phase}{f' ({state.reason})' if state.reason else ''}"

    def _begin_again(self) -> None:
        """What started the experiment was lost: a person starts it once more."""
        lost = self._lossy and self._world.coordinator is not None and self._world.state() is None
        if lost and self._world.clock.monotonic() > self._begun + BEGUN_WITHIN:
            self._begun = self._world.clock.monotonic()
            self._world.begin()

    def _note_reached(self) -> None:
        place = _place_of(self._world.state())
        if place not in self._reached:
            self._reached[place] = self._moved = self._world.clock.monotonic()

    def _list_due(self) -> list[Strike]:
        now = self._world.clock.monotonic()
        due = [
            one
            for one in self._left
            if (at := self._reached.get(_anchor_of(one))) is not None and now >= at + one.after
        ]
        if due:
            self._moved = now
        elif now - self._moved > STANDS or (Stage.OVER, 0) in self._reached:
            self._moved = now - STANDS + 5.0
            return self._left[:1]
        return due

    def _strike(self, one: Strike) -> None:
        world, state = self._world, self._world.state()
        stage = Stage.PAUSED if state is not None and state.phase is Phase.PAUSED else _place_of(state)[0]
        self._struck.append([one.act.value, stage.value])
        self._lossy |= one.act in LOSSY
        if one.act in WORDS and not self._is_over():
            self._aborted |= one.act is Act.ABORT
            self._finished |= one.act is Act.FINISH
            if one.act in (Act.PAUSE, Act.RESUME):
                self._paused = one.act is Act.PAUSE
            busy = state is None or world.later or world.machines[COORDINATOR].stuck or not world.broker.up
            self._heard_by = math.inf if busy else world.clock.monotonic() + 1.0
        self._striker.strike(one)

    def _is_over(self) -> bool:
        state = self._world.state()
        return state is not None and state.phase in ENDED

    def _wait(self, condition: str, within: float) -> bool:
        def holds() -> bool:
            self._note_reached()
            self._world.pass_time()
            return bool(getattr(self, condition)())

        return self._world.clock.wait_until(holds, within, every=1.0)

    def _settle(self) -> None:
        """Faults have stopped."""
        world, watch = self._world, self._world.watch
        world.watch.tell("the faults are over")
        world.end_faults()
        if not self._wait("_all_up", UP_WITHIN):
            watch.fail(f"not all start again: {self._tell_sites()}")
            return
        self._striker.end_pauses()
        self._begin_again()
        if self._lossy and not self._is_over():
            self._say_again()
        if self._paused and not self._aborted:
            if not self._wait("_is_paused_or_over", ENDS_WITHIN if not self._finished else HEARD):
                if not self._finished:
                    watch.fail(f"the last word was pause, and it is {self._tell()}")
                    return
            else:
                world.clock.sleep(HEARD)
                if not self._is_paused_or_over():
                    watch.fail(f"the last word was pause, and {HEARD:.0f} s later it is {self._tell()}")
            world.say("experiment-resume", kinds.ExperimentResume())
        if not self._wait("_is_over", ENDS_WITHIN):
            watch.fail(f"it hangs: {self._tell()}")
            return
        state = world.state()
        assert state is not None
        self._judge_end(state)
        if not self._wait("_all_know", KNOWN_WITHIN):
            watch.fail(f"it is over, and not all know: {self._tell_sites()}")
            return
        world.clock.sleep(QUIET_AFTER)
        watch.quiet = True
        world.clock.sleep(HEARD)
        for queue, inbox in world.broker.inboxes.items():
            if inbox.ready and not queue.endswith("dr-a"):
                watch.fail(f"{len(inbox.ready)} messages are left in {queue}")
        if f"experiment-{state.phase}" not in world.heard:
            watch.fail(f"the researcher was not told that it is {state.phase}")

    def _say_again(self) -> None:
        """The researcher's last words, which may be lost."""
        world = self._world
        if self._aborted:
            world.say("experiment-abort", kinds.ExperimentAbort())
        if self._finished:
            world.say("experiment-finish", kinds.ExperimentFinish())
        if self._paused:
            world.say("experiment-pause", kinds.ExperimentPause())
        else:
            world.say("experiment-resume", kinds.ExperimentResume())

    def _all_up(self) -> bool:
        return all(machine.service is not None and not machine.stopping for machine in self._world.machines.values())

    def _judge_end(self, state: ExperimentState) -> None:
        watch = self._world.watch
        acts = Counter(act for act, _stage in self._struck)
        excused = any(acts[act.value] for act in EXCUSES) or acts[Act.TRAINER.value] > 1
        excused |= state.reason is Reason.ENROLMENT_FAILED and self._world.schedule.enrol < 600.0
        if state.phase is Phase.FAILED and not excused:
            watch.fail(f"it failed: {state.reason}")
        if state.phase is Phase.ABORTED and not self._aborted:
            watch.fail("it was aborted, and nobody said so")
        late = self._reached[Stage.OVER, 0] > self._heard_by + 5.0 and not self._lossy
        if state.phase is Phase.COMPLETE and self._aborted and late:
            watch.fail("it is complete, and the last word was abort")
        short = state.phase is Phase.COMPLETE and state.completed < self._world.schedule.rounds
        if short and not self._finished:
            watch.fail(f"it is complete after {state.completed} rounds, and nobody said finish")

    def _is_paused_or_over(self) -> bool:
        state = self._world.state()
        if state is None:
            return False
        return state.phase in ENDED or (state.phase is Phase.PAUSED and state.paused_because is None)

    def _all_know(self) -> bool:
        """All know that it is over, and what they said has its receipt."""
        for site in self._world.schedule.sites:
            agent = self._world.agent(site)
            if agent is None or self._world.machines[site].stopping:
                return False
            job = agent._steps.agenda.job_of(NAME)
            if (job is not None and job.phase not in OVER) or agent.spool.count_waiting():
                return False
        return self._is_over()

    def _tell(self) -> str:
        state = self._world.state()
        place, number = _place_of(state)
        return f"{place} {number}, {None if state is None else (state.phase.value, state.paused_because)}"

    def _tell_sites(self) -> str:
        told = []
        for site in self._world.schedule.sites:
            agent = self._world.agent(site)
            job = None if agent is None else agent._steps.agenda.job_of(NAME)
            phase = "away" if agent is None else "unknown" if job is None else job.phase.value
            told.append(f"{site} {phase}, {0 if agent is None else agent.spool.count_waiting()} wait")
        return "; ".join(told)


def _anchor_of(one: Strike) -> tuple[Stage, int]:
    return one.stage, one.round if one.stage in (Stage.RUNNING, Stage.AGGREGATING) else 0


def _place_of(state: ExperimentState | None) -> tuple[Stage, int]:
    """Where the experiment is, paused or not."""
    if state is None:
        return Stage.AWAY, 0
    if state.phase in ENDED:
        return Stage.OVER, 0
    stage = Stage(state.stage.value)
    return stage, state.completed + 1 if stage in (Stage.RUNNING, Stage.AGGREGATING) else 0
