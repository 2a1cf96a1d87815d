"""What the main loop needs of an experiment's trainers, whatever they are: processes, or a script in a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from messages.ground.clock import Clock
from site_agent.config import SiteConfig
from site_agent.training.protocol import Prepare, Reply, Request

OnReply = Callable[[str, int, Reply], None]
"""(experiment, token of the trainer, reply); any thread."""
OnExit = Callable[[str, int, int], None]
"""(experiment, token of the trainer, exit status); any thread."""


@dataclass(frozen=True)
class Ended:
    """How a trainer ended: was it at work, was it ended as stuck, or by the kernel for want of memory."""

    busy: bool
    stuck: bool
    out_of_memory: bool


class Trainers(Protocol):
    """The warm trainers, one an experiment. Owned by the main loop, which calls every method but `pids`.

    Replies and exits come through `OnReply` and `OnExit`, marked with the trainer's token. The main loop drops those
    of a trainer that does not count any more (`current`), and tells of each other one (`heard`, `ended`).
    """

    def ask(self, experiment: str, prepare: Prepare, request: Request | None) -> None:
        """Send a request to the experiment's trainer; a cold one is started and prepared first. Without a request,
        the data are read (again).

        Raises:
            WorkFailed: the trainer cannot be started.
        """

    def proceed(self, experiment: str) -> None:
        """The data are read and found enough: hand over what waited for that."""

    def current(self, experiment: str, token: int) -> bool:
        """Whether a word comes from the trainer that counts."""

    def heard(self, experiment: str, reply: Reply) -> None:
        """Note a sign of life; an answer settles its request."""

    def ended(self, experiment: str, status: int) -> Ended:
        """The trainer ended with this exit status. It is cold from now on."""

    def end_stuck(self) -> None:
        """Kill what has been silent for too long; its exit follows."""

    def bound_logs(self) -> None:
        """Keep the trainers' own words within bounds."""

    def forget(self, experiment: str) -> None:
        """Remove the words of an experiment's trainers; none of them runs any more."""

    def kill(self, experiment: str) -> None:
        """End the trainer at once; nothing more is heard of it."""

    def halt(self, experiment: str) -> None:
        """Void what the trainer works on. One that has answered everything stays warm."""

    def leave(self) -> None:
        """Ask what is at work to save what it has and end; `close` waits for it."""

    def close(self) -> None:
        """End all. What is at work gets some seconds to save what it has."""

    def pids(self) -> dict[str, int]:
        """Experiment → process id, for `status` and the metrics' thread."""


class StartTrainers(Protocol):
    """Makes a site's trainers; none of them runs yet."""

    def __call__(self, config: SiteConfig, on_reply: OnReply, on_exit: OnExit, clock: Clock) -> Trainers: ...
