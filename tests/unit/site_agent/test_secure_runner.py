"""The work of a secure round is done again where the spool fails for a moment."""

from __future__ import annotations

import pytest

from messages.ground.errors import WorkFailed
from messages.ground.virtual.clock import VirtualClock
from messages.reasons import Reason
from site_agent.core.inputs import AnyInput, NoSpace, PartBroken
from site_agent.core.jobs import Job
from site_agent.core.secure.changes import Work
from site_agent.loop.secure_runner import AGAIN_AFTER, SecureRunner
from site_agent.secure.rounds import SecureWork


class Failing(SecureWork):
    """Fails so many times; NoSpace stands for what it then says."""

    def __init__(self, times: int, error: Exception) -> None:
        self.left, self.error = times, error

    def do_work(self, job: Job, work: Work) -> AnyInput:
        if self.left:
            self.left -= 1
            raise self.error
        return NoSpace("exp-1")


def run(times: int, error: Exception) -> tuple[list[AnyInput], float]:
    """What the main loop is told, and when."""
    clock, told = VirtualClock(), list[AnyInput]()

    def body() -> float:
        done = clock.make_event()

        def take(given: AnyInput) -> None:
            told.append(given)
            done.set()

        runner = SecureRunner(Failing(times, error), lambda call: call(), take, clock)
        runner.begin(Job.model_construct(experiment="exp-1", round=1, opening=1), "secure-consent")
        assert done.wait(600.0)
        return clock.monotonic()

    return told, clock.run(body)


@pytest.mark.parametrize("times", [0, 1, len(AGAIN_AFTER)])
def test_a_spool_that_fails_for_a_moment_costs_no_answer(times: int) -> None:
    told, _at = run(times, WorkFailed("the disk says no", where="spool"))
    assert told == [NoSpace("exp-1")]


def test_one_that_keeps_failing_is_said_once_and_so_is_a_defect_at_once() -> None:
    told, _at = run(100, WorkFailed("the disk says no", where="spool"))
    assert told == [PartBroken("exp-1", Reason.DISK_FULL)]
    told, _at = run(1, ZeroDivisionError())
    assert told == [PartBroken("exp-1")]
