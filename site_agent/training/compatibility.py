"""Which version of the trainer's protocol the other side speaks, and what follows from it. No torch here.

A version is MAJOR.MINOR. A minor one only adds: optional fields, and frames that may be ignored. So
- a field that a request got with a minor version (`json_schema_extra={"since": MINOR}`) is left out for an older
  trainer where it says what it says by default; where it says more, that trainer cannot do what is asked;
- of a newer trainer's replies, unknown fields and kinds are left out;
- another major version is refused at once.
A process says its version with `Ready` before anything else. One that says none is taken for 1.0, which is 0.1's; that
holds for one release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import msgpack
from pydantic import ValidationError

from messages.ground.errors import MalformedMessage, WorkFailed
from site_agent.training.protocol import PROTOCOL, Frame, Ready, Reply, decode_reply, encode_frame, in_frame

MOST_ROUNDS = 8
"""How deep replies are nested: so often may leaving out unknown fields show further ones."""


@dataclass(frozen=True, slots=True, order=True)
class ProtocolVersion:
    """A version of the protocol; ordered."""

    major: int
    minor: int

    @classmethod
    def parse(cls, said: str) -> Self:
        """Read "1.1"; ValueError."""
        major, minor = said.split(".")
        return cls(int(major), int(minor))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


OURS = ProtocolVersion.parse(PROTOCOL)
UNSAID = ProtocolVersion(1, 0)
"""Of a process that says none: 0.1's."""


class NewerThanTrainer(WorkFailed):
    """A request asks for what the trainer's version of the protocol has no word for."""


class ForeignTrainer(WorkFailed):
    """The trainer speaks another major version."""


def encode_for(frame: Frame, version: ProtocolVersion) -> bytes:
    """One frame as a process of this version understands it.

    Raises:
        NewerThanTrainer: it says something in a field that came later.
        MalformedMessage: too large.
    """
    later = {
        name: field
        for name, field in type(frame).model_fields.items()
        if isinstance(field.json_schema_extra, dict)
        and int(str(field.json_schema_extra.get("since", 0))) > version.minor
    }
    for name, field in later.items():
        if getattr(frame, name) != field.get_default(call_default_factory=True):
            raise NewerThanTrainer(
                f"the trainer speaks version {version} of the protocol, which has no {name!r} in a request",
                where="training.command",
                advice=f"Bring the trainer to version {OURS} (docs/site.md, a trainer of one's own), or decline such"
                " experiments under [policy]",
            )
    return in_frame(frame.model_dump(exclude=set(later))) if later else encode_frame(frame)


def read_ready(body: bytes) -> ProtocolVersion | None:
    """The version that a frame's body says; None where it is another frame.

    Raises:
        MalformedMessage: it says none that can be read.
        ForeignTrainer: another major version.
    """
    try:
        plain = msgpack.unpackb(body, strict_map_key=True)
        if not isinstance(plain, dict) or plain.get("kind") != "ready":
            return None
        version = ProtocolVersion.parse(Ready.model_validate(plain).protocol)
    except (ValueError, msgpack.UnpackException):
        raise MalformedMessage("malformed", "the trainer's first word is no frame of its protocol") from None
    if version.major != OURS.major:
        newer = version > OURS
        raise ForeignTrainer(
            f"the trainer speaks version {version} of the protocol, and this agent {OURS}",
            where="training.command",
            advice="Update Konsil, or install the trainer that was made for this version"
            if newer
            else f"Bring the trainer to version {OURS} (docs/site.md, a trainer of one's own)",
        )
    return version


def read_reply(body: bytes, version: ProtocolVersion) -> Reply | None:
    """A frame's body as a reply; None: a kind that only the process's newer version has.

    Raises:
        MalformedMessage: it is none; what is unknown in it is no mistake of a newer version.
    """
    if version <= OURS:
        return decode_reply(body)
    for _ in range(MOST_ROUNDS):
        try:
            return decode_reply(body)
        except MalformedMessage as error:
            plain = msgpack.unpackb(body, strict_map_key=True) if _of_newer(error) else None
            if not isinstance(plain, dict):
                raise
            if isinstance(error.__cause__, KeyError) and isinstance(plain.get("kind"), str):
                return None
            body = msgpack.packb(_without(plain, error.__cause__))
    return decode_reply(body)


def _of_newer(error: MalformedMessage) -> bool:
    """Whether a frame is wrong only by a kind or by fields that we do not know."""
    cause = error.__cause__
    if isinstance(cause, ValidationError):
        return all(one["type"] == "extra_forbidden" for one in cause.errors(include_url=False, include_input=False))
    return isinstance(cause, KeyError)


def _without(plain: dict[str, Any], error: BaseException | None) -> dict[str, Any]:
    if isinstance(error, ValidationError):
        for one in error.errors(include_url=False, include_input=False):
            *way, last = one["loc"]
            place: Any = plain
            for step in way:  # the name of a member of a union stands in the way, too, and is no key
                if not isinstance(place, dict) or step in place:
                    place = place[step]
            if isinstance(place, dict):
                place.pop(last, None)
    return plain
