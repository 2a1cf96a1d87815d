"""The operator's register: who belongs to a consortium, in which role, and which keys speak for whom. Pure.

A register is a signed note (`messages.trust.notes`) whose text is one line that says what it is and one JSON object,
written in one way only. It has a serial number. A party pins the operator's public key, which its kit brings, and
takes only a register that this key signed and that follows from the one it has (`check_successor`).

A key is good from `since` to `until`, by the time of the log; two may overlap while one takes the other's place. A
revoked key stays in the register for ever, with the time from which it holds no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from messages.ground.errors import MalformedMessage, RequestError
from messages.ground.naming import WHOLE_NAME
from messages.ground.strictness import StrictModel, at_most
from messages.reasons import Reason
from messages.trust.keys import SigningKey, is_usable
from messages.trust.notes import Note, read_note

HEADING = "konsil register 1"
OPERATOR = "operator"
"""The name under which the operator signs."""
MOST_ENTRIES = 4096

Role = Literal["coordinator", "site", "researcher", "auditor", "viewer"]
Key = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A public key: 32 bytes in hex."""
Moment = Annotated[float, Field(ge=0, lt=2**53)]
"""Seconds since 1970."""


class KeyEntry(StrictModel):
    """One key of one party.

    Attributes:
        since, until: when it begins and ends to be good.
        revoked: from this moment on it is good for nothing; None: it was not revoked.
    """

    name: str = Field(pattern=WHOLE_NAME)
    role: Role
    key: Key
    since: Moment
    until: Moment
    revoked: Moment | None = None

    def is_good(self, at: float) -> bool:
        """Whether it speaks for its party at this moment."""
        return self.since <= at < self.until and (self.revoked is None or at < self.revoked)

    @property
    def public(self) -> bytes:
        return bytes.fromhex(self.key)


class Register(StrictModel):
    """The register's content.

    Attributes:
        serial: grows by at least one with each register.
        signatures: "accepted": an event without a signature is taken from a party that has no good key; "required":
            it is taken from nobody. Never goes back.
    """

    consortium: str = Field(pattern=WHOLE_NAME)
    serial: int = Field(ge=1, lt=2**53)
    made: Moment
    signatures: Literal["accepted", "required"] = "accepted"
    keys: Annotated[tuple[KeyEntry, ...], at_most(MOST_ENTRIES)] = ()

    @model_validator(mode="after")
    def _one_party_a_key(self) -> Register:
        owners: dict[str, tuple[str, str]] = {}
        roles: dict[str, str] = {}
        for one in self.keys:
            if not is_usable(one.public):
                raise ValueError(f"the key of {one.name} is none")
            if one.key in owners:
                raise ValueError(f"{one.name} has a key that is in the register already")
            if roles.setdefault(one.name, one.role) != one.role:
                raise ValueError(f"{one.name} has two roles")
            owners[one.key] = (one.name, one.role)
        return self

    def keys_of(self, name: str, at: float) -> tuple[bytes, ...]:
        """The public keys that speak for a party at a moment: none, one, or two while it changes them."""
        return tuple(one.public for one in self.keys if one.name == name and one.is_good(at))

    def knows(self, name: str) -> bool:
        """Whether the party has or had a key."""
        return any(one.name == name for one in self.keys)

    def role_of(self, name: str) -> Role | None:
        """A party's role; None where the register does not know it."""
        return next((one.role for one in self.keys if one.name == name), None)

    def is_barred(self, name: str, at: float) -> bool:
        """Whether the party was known once, and none of its keys is good any more because the operator revoked one."""
        mine = [one for one in self.keys if one.name == name]
        revoked = any(one.revoked is not None and one.revoked <= at for one in mine)
        return revoked and not self.keys_of(name, at)


def sign_register(register: Register, operator: SigningKey) -> bytes:
    """The register as its file: a signed note."""
    plain = register.model_dump(mode="json")
    text = f"{HEADING}\n{json.dumps(plain, sort_keys=True, indent=1, ensure_ascii=True)}\n"
    return Note(text).with_signature(OPERATOR, operator).encode()


def read_register(data: bytes, operator: bytes, consortium: str) -> Register:
    """Read a register and check the operator's signature.

    Raises:
        MalformedMessage: it is no register, not this operator's, or of another consortium.
    """
    note = read_note(data)
    if note.text.startswith(HEADING + "\n") and not note.is_signed_by(OPERATOR, operator):
        raise MalformedMessage(Reason.BAD_SIGNATURE, "a register that the operator did not sign")
    return parse_register(note, consortium)


def parse_register(note: Note, consortium: str | None = None) -> Register:
    """What a register says (of this consortium; None: of any); whose signature is under it is not checked here.

    Raises:
        MalformedMessage: it is no register, or of another consortium.
    """
    heading, _, content = note.text.partition("\n")
    if heading != HEADING:
        raise MalformedMessage(Reason.MALFORMED, "not a register")
    try:
        register = Register.model_validate(json.loads(content))
    except (ValueError, ValidationError, RecursionError):
        raise MalformedMessage(Reason.MALFORMED, "a register that cannot be read") from None
    if consortium is not None and register.consortium != consortium:
        raise MalformedMessage(Reason.MALFORMED, "a register of another consortium")
    return register


def check_successor(old: Register, new: Register) -> None:
    """Refuse a register that does not follow from the one that a party has.

    Raises:
        RequestError: an older serial, signatures no longer required, a key that vanished, changed its owner, or is no
            longer revoked. Two registers of one serial must be the same.
    """
    if new.consortium != old.consortium:
        raise RequestError(f"a register of {new.consortium}, not of {old.consortium}")
    if new.serial == old.serial and new != old:
        raise RequestError(f"another register with serial {new.serial}", advice="Ask the operator which one is right")
    if new.serial < old.serial:
        raise RequestError(f"an older register: serial {new.serial}, and {old.serial} is known")
    if old.signatures == "required" != new.signatures:
        raise RequestError("a register that no longer requires signatures", advice="Nothing can switch that back")
    later = {one.key: one for one in new.keys}
    for one in old.keys:
        now = later.get(one.key)
        if now is None or (now.name, now.role, now.since) != (one.name, one.role, one.since):
            raise RequestError(f"a key of {one.name} is gone, or is another's", advice="Keys are ended, not removed")
        if one.revoked is not None and (now.revoked is None or now.revoked > one.revoked):
            raise RequestError(f"a key of {one.name} that was revoked is good again")


def add_keys(register: Register, more: Iterable[KeyEntry], made: float) -> Register:
    """The next register, with more keys.

    Raises:
        RequestError: a key that is in it already, a second role, or no key.
    """
    return replace_keys(register, (*register.keys, *more), made)


def replace_keys(register: Register, keys: Iterable[KeyEntry], made: float) -> Register:
    """The next register with these keys; RequestError where they contradict each other."""
    plain = register.model_dump() | {
        "serial": register.serial + 1,
        "made": made,
        "keys": [one.model_dump() for one in keys],
    }
    try:
        return Register.model_validate(plain)
    except ValidationError as error:
        words = str(error.errors()[0].get("ctx", {}).get("error", error.errors()[0]["msg"]))
        raise RequestError(words) from None
