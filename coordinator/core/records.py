"""Base of inputs and decisions: strict frozen records, which the journal keeps as plain maps.

A record of 0.1 has every field, and 0.1 refuses others. A field that came later has a default that means "as before",
and `exclude_if` keeps it out of the journal where it has that. Text for people is marked `WORDS`: replay does not
compare it.
"""

from __future__ import annotations

from functools import cache

from pydantic import BaseModel, ConfigDict, Field

from messages import codec


class FieldMark:
    """A mark on a record's field: `Annotated[type, MARK]`."""


WORDS = FieldMark()


class Record(BaseModel):
    """Base: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def compared_bytes(self) -> bytes:
        """What replay compares: every field but words for people, whatever bytes the journal keeps of it.

        A field that the journal does not state has its default here. 1 and 1.0 differ.
        """
        return codec.canonical(self.model_dump(mode="python", exclude=_words_of(type(self))))


class Bounds(Record):
    """What the operator allowed when an experiment began; None: no bound.

    `cases_max`: most cases that a site may claim, all splits together. `weight_cap`: largest share of one site in a
    mean. `norm_factor`: an update whose norm is more than so many times the round's median is not used.
    """

    cases_max: int | None = None
    weight_cap: float | None = None
    norm_factor: float | None = None


NO_BOUNDS = Bounds()


class MadeModel(Record):
    """A model that was made and stored: seal and digest; `wire` as `inputs.Initialised` says."""

    seal: str
    digest: str
    wire: str | None = Field(None, exclude_if=lambda value: value is None)


class ModelOrigin(Record):
    """The model that an experiment begins with, where it is not drawn.

    `digest`: of the model. `experiment`: the one that made it, in so many `rounds`; `seal`: of its blob there. None:
    the operator put it into the coordinator's folder of models.
    """

    digest: str
    experiment: str | None = None
    rounds: int | None = None
    seal: str | None = None


@cache
def _words_of(record: type[Record]) -> set[str]:
    return {name for name, field in record.model_fields.items() if WORDS in field.metadata}
