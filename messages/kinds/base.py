"""What bodies of events have in common: bounded types, and how a later version's fields are read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationInfo, model_validator

from messages.ground.naming import WHOLE_NAME
from messages.ground.strictness import StrictModel, at_most
from messages.reasons import Reason
from messages.sections import MOST_ALONE, MOST_SITES
from messages.tensors.layout import Manifest
from messages.words import drop_unknown_fields, other_keys_folded, other_where_unknown, reading_of

Count = Annotated[int, Field(ge=0, le=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
RoundNumber = Annotated[int, Field(ge=0, le=1_000_000)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
EventId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
SiteName = Annotated[str, Field(pattern=WHOLE_NAME)]
Word = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,39}$")]
Versions = Annotated[dict[Word, Version], at_most(16)]
_REASONS = frozenset(one.value for one in Reason)
Code = Annotated[Reason, other_where_unknown(_REASONS)]
"""A reason code."""
LeftOut = Annotated[dict[Reason, Count], at_most(len(Reason)), other_keys_folded(_REASONS)]
MOST_RECEIPTS = 1000
MOST_LOSS = 1e12
"""Magnitude; no net that learns anything has such a loss."""
MOST_CHUNKS = 100_000
MOST_REGISTER_BYTES = 2**20
MOST_CANDIDATES = MOST_ALONE
Label = Word
"""Names a candidate within its experiment, as a code word: "final", "selected", …"""
NoteBytes = Annotated[bytes, Field(max_length=2**16)]
"""A signed note (`messages.trust.notes`); empty where there is none."""
Proof = Annotated[list[Annotated[bytes, Field(min_length=32, max_length=32)]], at_most(64)]
"""Hashes of a Merkle tree."""
Sites = Annotated[list[SiteName], at_most(MOST_SITES)]


class Body(StrictModel):
    """Base of all bodies: unknown fields, scalars of another type, NaN and infinity are refused; frozen.

    In an event that says that it is of a newer version, unknown fields are left out.
    """

    @model_validator(mode="before")
    @classmethod
    def _later_fields_are_left_out(cls, content: Any, info: ValidationInfo) -> Any:
        reading = reading_of(info)
        return drop_unknown_fields(cls, content, reading) if reading and isinstance(content, dict) else content

    def as_plain(self) -> dict[str, Any]:
        """As plain types for msgpack."""
        return self.model_dump(mode="python", exclude_none=True, by_alias=True, serialize_as_any=True)


class Transfer(Body):
    """Names a transfer and seals its content. (experiment and sender stand in the envelope.)"""

    round: RoundNumber
    attempt: Count = 1
    seal: Digest
    manifest: Manifest


class Unknown(Body):
    """What stands for the body of a kind that a newer version has and this one does not know: nothing is read of it."""
