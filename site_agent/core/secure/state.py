"""What a job keeps of a secure round, beside its training. No secret is in it: those lie sealed in the spool."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from messages.scores import SplitScores


class SecurePart(BaseModel):
    """A site's part in the newest try of a secure round; events as they came.

    Attributes:
        tried: number of the try.
        start: opened it.
        asked: is to be answered; None: all is answered. What opens the masking is no such: that waits for training.
        roster, masking, mail, closing: as far as they came.
        answered: kinds of answers that were said in this try.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tried: int
    start: bytes
    asked: bytes | None = None
    roster: bytes | None = None
    masking: bytes | None = None
    mail: bytes | None = None
    closing: bytes | None = None
    answered: tuple[str, ...] = ()

    @property
    def can_mask(self) -> bool:
        """Whether it is known with whom, and what they sealed for this site is here."""
        return self.masking is not None and self.mail is not None


class TrainedInside(BaseModel):
    """AnyInput: a round's training is done, and all that came of it is inside the site: nothing leaves unmasked.

    Attributes:
        loss, validation: as they would be told; they are masked, too.
        epsilon: spent so far, this round included; told in the open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiment: str
    round: int
    attempt: int
    cases: int
    epochs: int
    steps: int
    loss: float | None
    seconds: float
    validation: SplitScores | None = None
    epsilon: float | None = Field(None, exclude_if=lambda value: value is None)
