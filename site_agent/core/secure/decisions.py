"""What the agenda decides of secure rounds."""

from __future__ import annotations

from dataclasses import dataclass

from messages.kinds import Body
from site_agent.core.secure.state import TrainedInside


@dataclass(frozen=True)
class SecretsKept:
    """What a round's row in the spool holds after a step: secrets as they were sealed, and what was done, as bytes."""

    sealed: bytes
    record: bytes


@dataclass(frozen=True)
class TryAgain:
    """The round's keys are exchanged once more, from the same model: training goes on."""

    experiment: str
    opening: int
    raw: bytes


@dataclass(frozen=True)
class TakeStep:
    """A step of the secure round is taken on."""

    experiment: str
    opening: int
    raw: bytes


@dataclass(frozen=True)
class TakeMail:
    """What the others sealed for this site is here."""

    experiment: str
    raw: bytes


@dataclass(frozen=True)
class TellSecure:
    """A step's answer leaves."""

    experiment: str
    kind: str
    body: Body
    kept: SecretsKept


@dataclass(frozen=True)
class KeepInside:
    """The round is trained; it waits until it is known with whom the update is masked."""

    experiment: str
    trained: TrainedInside


@dataclass(frozen=True)
class AwaitMasking:
    """All is scored; it waits until it is known with whom the scores are masked."""

    experiment: str


@dataclass(frozen=True)
class MaskAgain:
    """The masked update is not what it was: it is made again from the difference that is kept, to the same bytes."""

    experiment: str


@dataclass(frozen=True)
class LeaveSecure:
    """The secure round is over: its secrets go."""

    experiment: str


SecureDecision = TryAgain | TakeStep | TakeMail | TellSecure | KeepInside | AwaitMasking | MaskAgain | LeaveSecure
