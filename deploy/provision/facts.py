"""What the operator's folder says in words of its own: `consortium.json`, and what `konsil provision list` tells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from deploy.provision.kit import BrokerFacts
from deploy.provision.request import Login
from messages.ground.durable import replace_file
from messages.ground.errors import RequestError
from messages.ground.naming import WHOLE_NAME
from messages.ground.strictness import StrictModel
from messages.trust.register import Key, Role

STATE, OPERATOR_KEY, REGISTER, AUTHORITY, BROKER = "consortium.json", "operator.key", "register.note", "ca", "broker"


class Guest(StrictModel):
    """Who had a login before there was a register, and has no key yet: it logs in by its password, as it did."""

    role: Role
    password_hash: str


class OfficeFacts(StrictModel):
    """`consortium.json`.

    Attributes:
        guests: by name; one that is in the register is none any more.
        passwords: party → RabbitMQ's hash of its password, of those that log in by one.
        reasons: party → why it was revoked, in the operator's words; they leave this folder with nothing.
    """

    consortium: str = Field(pattern=WHOLE_NAME)
    broker: BrokerFacts
    operator: Key
    guests: dict[str, Guest] = {}
    passwords: dict[str, str] = {}
    reasons: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class MemberRow:
    """What `konsil provision list` tells of one party; moments are seconds since 1970. A guest has no key, no words."""

    name: str
    role: str
    login: Login
    words: str
    certificate_ends: float | None
    key_ends: float | None
    revoked: float | None
    reason: str


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Write a file whole, and its folder (mode 0700) where there is none; RequestError where that fails."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, content, mode=mode, durable=True)
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror})", where=str(path)) from None
