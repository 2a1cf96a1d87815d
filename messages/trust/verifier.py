"""Whether an event was said by whom it names: what every receiver asks before it does anything with the content.

The operator's register says which keys speak for whom (`messages.trust.register`). The rules:

| the sender | its event is taken |
|---|---|
| has a key, or had one | with a good signature only: there is no way back to none |
| has no key yet, signatures are "accepted" | without a signature |
| has no key, signatures are "required" | never |

A key is good by the time that the event says, within `SKEW`; a revoked one is good for nothing that comes after, since
whoever has it may write any time into an event. Without a register nothing is checked, as in 0.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from messages.ground.errors import MalformedMessage
from messages.reasons import Reason
from messages.trust.keys import fingerprint_of, verify_message
from messages.trust.register import KeyEntry, Register, Role, check_successor, read_register
from messages.trust.signatures import KEY, TO, is_signed_by, name_key, split_event

SKEW = 600.0
"""Seconds by which a party's clock may differ from that of the operator, who writes when a key begins and ends."""
LATE = 30 * 86400.0
"""Seconds for which an event may lie in an outbox after its key has ended."""


class Claim(Protocol):
    """What is read of a decoded event."""

    @property
    def sender(self) -> str: ...
    @property
    def consortium(self) -> str: ...
    @property
    def time(self) -> float: ...
    @property
    def ext(self) -> Mapping[str, Any]: ...
    @property
    def raw(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class _Index:
    """A register, by party."""

    register: Register
    keys: Mapping[str, Mapping[str, KeyEntry]]
    """Party → its keys by their names in events."""
    revokes: bool
    """Whether any key is revoked."""

    @classmethod
    def of_register(cls, register: Register) -> _Index:
        keys: dict[str, dict[str, KeyEntry]] = {}
        for one in register.keys:
            keys.setdefault(one.name, {})[name_key(fingerprint_of(one.public))] = one
        return cls(register, keys, any(one.revoked is not None for one in register.keys))


class Verifier:
    """Checks signatures by the newest register that it was given. Reads from any thread; one thread gives registers.

    Args:
        operator: the operator's public key; None: nothing is checked, and no register is taken.
        register: the one to begin with.
    """

    def __init__(self, consortium: str, operator: bytes | None = None, register: Register | None = None) -> None:
        self._consortium, self._operator = consortium, operator
        self._index = None if register is None else _Index.of_register(register)

    @property
    def register(self) -> Register | None:
        """The newest register; None: nothing is checked."""
        return None if self._index is None else self._index.register

    def list_barred(self, now: float) -> frozenset[str]:
        """Parties none of whose keys is good any more, because the operator revoked one."""
        index = self._index
        if index is None or not index.revokes:
            return frozenset()
        return frozenset(
            name
            for name, keys in index.keys.items()
            if any(one.revoked is not None and one.revoked <= now for one in keys.values())
            and not any(one.is_good(now) for one in keys.values())
        )

    def known_register(self) -> Register:
        """The newest register; LookupError where nothing is checked."""
        if self._index is None:
            raise LookupError("a party without [trust] goes by no register")
        return self._index.register

    def take_register(self, data: bytes) -> Register | None:
        """Go on with a newer register; returns it, or None where it is the one that is known.

        Raises:
            MalformedMessage: it is none, or not the operator's.
            RequestError: it does not follow from the one that is known.
        """
        if self._operator is None or self._index is None:
            return None
        new, known = read_register(data, self._operator, self._consortium), self._index.register
        check_successor(known, new)
        if new.serial == known.serial:
            return None
        self._index = _Index.of_register(new)
        return new

    def go_on_from(self, data: bytes) -> bool:
        """Begin with the newer one of the register that is known and of one that was kept before; whether that is the
        kept one. Raises as above, where neither follows from the other."""
        if self._operator is None or self._index is None:
            return False
        kept, known = read_register(data, self._operator, self._consortium), self._index.register
        if kept.serial >= known.serial:
            check_successor(known, kept)
            self._index = _Index.of_register(kept)
            return True
        check_successor(kept, known)
        return False

    def check_event(self, event: Claim, queue: str, now: float) -> None:
        """Refuse an event that its sender did not write for this queue.

        Args:
            queue: that it came on; of an event within another one, the queue of its kind.
            now: the receiver's clock, seconds since 1970.

        Raises:
            MalformedMessage: signature-missing, no-good-key, bad-signature, wrong-addressee or sender-mismatch.
        """
        self._check(event, queue, now, late=LATE)

    def check_enclosed(self, event: Claim, queue: str, now: float, role: Role) -> None:
        """Refuse an event of another party that came within one, however long ago it was written; raises as above.

        Args:
            role: that its author has to have.
        """
        self._check(event, queue, now, late=float("inf"))
        register = self.register
        if register is not None and register.knows(event.sender) and register.role_of(event.sender) != role:
            raise MalformedMessage(Reason.NO_GOOD_KEY, f"the key of a {register.role_of(event.sender)}, not a {role}")

    def check_past(self, event: Claim, queue: str) -> None:
        """Refuse what is read of the past, and decides nothing, by the keys of its time; raises as above.

        While signatures are accepted, events that are older than their sender's first key have none.
        """
        self._check(event, queue, event.time, late=float("inf"))

    def list_speaking(self, name: str, now: float) -> frozenset[str] | None:
        """Names of the keys whose word counts for a party, today and of what was said before: those that were not
        revoked. None: it has no key yet, or nothing is checked, so that what it says without a signature counts."""
        keys = {} if self._index is None else self._index.keys.get(name, {})
        if not any(one.since <= now for one in keys.values()):
            return None
        return frozenset(key for key, one in keys.items() if one.revoked is None)

    def find_signer(self, event: Claim) -> str | None:
        """The fingerprint of the key that signed an event which was checked; None: it is not signed, or not checked."""
        keys = {} if self._index is None else self._index.keys.get(event.sender, {})
        key = keys.get(str(event.ext.get(KEY)))
        return None if key is None else fingerprint_of(key.public)

    def check_message(
        self, sender: str, key_name: str, context: str, message: bytes, signature: bytes, now: float
    ) -> None:
        """Refuse what a party signed in another context than an event's, and that says no time.

        Raises:
            MalformedMessage: no-good-key, bad-signature.
        """
        key = None if self._index is None else self._index.keys.get(sender, {}).get(key_name)
        if key is None or not _is_good(key, min(now, key.until), now, LATE):
            raise MalformedMessage(Reason.NO_GOOD_KEY, "signed with a key that is unknown, or not good now")
        if not verify_message(key.public, context, message, signature):
            raise MalformedMessage(Reason.BAD_SIGNATURE, "a signature that does not fit")

    def _check(self, event: Claim, queue: str, now: float, *, late: float) -> None:
        index = self._index
        if index is None:
            return
        if event.consortium != self._consortium:
            raise MalformedMessage(Reason.SENDER_MISMATCH, "an event of another consortium")
        payload, signature = split_event(event.raw)
        keys = index.keys.get(event.sender, {})
        if not signature:
            begun = any(one.since <= now for one in keys.values())
            if begun or index.register.signatures == "required":
                raise MalformedMessage(Reason.SIGNATURE_MISSING, "an event without a signature")
            return
        key = keys.get(str(event.ext.get(KEY)))
        if key is None or not _is_good(key, event.time, now, late):
            raise MalformedMessage(Reason.NO_GOOD_KEY, "signed with a key that is unknown, or not good at that time")
        if not is_signed_by(key.public, payload, signature):
            raise MalformedMessage(Reason.BAD_SIGNATURE, "a signature that does not fit")
        if event.ext.get(TO) != name_addressee(queue):
            raise MalformedMessage(Reason.WRONG_ADDRESSEE, "an event for another party or queue")


def name_addressee(queue: str) -> str:
    """What an event says under `to`: the party whose inbox it is for, else the queue."""
    return queue.removeprefix("inbox.")


def is_as_taken(
    register: Register, sender: str, payload: bytes, signature: bytes, written: object, taken: float
) -> bool:
    """Whether a receiver with this register takes such an event; what a log is held against.

    Args:
        written: the time that the event says.
        taken: the receiver's clock then.
    """
    mine = [one for one in register.keys if one.name == sender]
    if not signature:
        return register.signatures != "required" and not any(one.since <= taken for one in mine)
    good = [one for one in mine if isinstance(written, int | float) and _is_good(one, written, taken, LATE)]
    return any(is_signed_by(one.public, payload, signature) for one in good)


def _is_good(key: KeyEntry, written: float, now: float, late: float) -> bool:
    if key.revoked is not None and key.revoked <= max(now, written):
        return False
    return key.since - SKEW <= written < key.until + SKEW and now < key.until + late
