"""What the operator decides, as registers: who is let in, who gets new keys, who is shut out. Pure."""

from __future__ import annotations

from deploy.provision.request import JoinRequest
from messages import names
from messages.ground.errors import RequestError
from messages.trust.register import KeyEntry, Register, Role, replace_keys

RESERVED = frozenset(
    {names.COORDINATOR, "none", "operator"}
    | {names.DOWNLINK, names.GLOBAL, names.UPLINK, names.AUDIT, names.MODELS, names.PROGRESS}
)
"""What no other party is called; an event says under one word whom or which queue it is for."""
SKEW = 3600.0
"""Seconds: a key begins so much before it is let in, since clocks differ."""
OVERLAP = 14 * 86400.0
"""Seconds for which an old key is good beside the new one."""


def first_register(consortium: str, key: bytes, at: float, until: float) -> Register:
    """Serial 1: the coordinator alone."""
    entry = enter_key(names.COORDINATOR, "coordinator", key.hex(), at, until)
    return Register(consortium=consortium, serial=1, made=at, keys=(entry,))


def enter_key(name: str, role: Role, key: str, at: float, until: float) -> KeyEntry:
    """An entry of the register that is good from now on."""
    return KeyEntry(name=name, role=role, key=key, since=max(at - SKEW, 0.0), until=until)


def is_entered(register: Register, request: JoinRequest) -> bool:
    """Whether this very request was let in already (and its key was not revoked since)."""
    found = [one for one in register.keys if one.key == request.event_key]
    return [(one.name, one.role, one.revoked) for one in found] == [(request.name, request.role, None)]


def admit(register: Register, request: JoinRequest, at: float, until: float, *, lost: bool = False) -> Register:
    """The next register, with the request's key; where it renews, the old key ends after an overlap.

    A name that was revoked is never given again: its old certificate is good until it ends, and the broker goes by the
    name in it.

    Args:
        lost: the party has lost its keys, and nobody else has them: those in the register are revoked.

    Raises:
        RequestError: the name is taken, reserved or barred, the role is another, or the old key is not good.
    """
    name = request.name
    check_name(name, request.role)
    if register.is_barred(name, at):
        raise RequestError(f"{name!r} was revoked", advice="Let the party make a request under a new name")
    if request.renews is None:
        if register.knows(name) and not lost:
            raise RequestError(
                f"the name {name!r} is taken",
                advice="Another name; the same party renews with `konsil provision renew`, or, where its keys are lost"
                " and nobody else has them, is approved with --lost",
            )
        ended = register if not register.knows(name) else end_keys(register, name, at)
        entry = enter_key(name, request.role, request.event_key, at, until)
        return replace_keys(register, (*ended.keys, entry), at)
    olds = [one for one in register.keys if one.key == request.renews and one.name == name and one.is_good(at)]
    if not olds:
        raise RequestError(
            f"the old key of this request is none that is good for {name!r}",
            advice="Revoke the name, and let the party make a request under a new one",
        )
    kept = tuple(
        one.model_copy(update={"until": min(one.until, at + OVERLAP)}) if one.key == request.renews else one
        for one in register.keys
    )
    return replace_keys(register, (*kept, enter_key(name, request.role, request.event_key, at, until)), at)


def check_name(name: str, role: Role) -> None:
    """Refuse a name that is reserved; RequestError."""
    names.check_name(name)
    if (name in RESERVED or role == "coordinator") and (name, role) != (names.COORDINATOR, "coordinator"):
        raise RequestError(
            f"a {role} cannot be named {name!r}", advice=f"{', '.join(sorted(RESERVED))} are no names of parties"
        )


def revoke(register: Register, name: str, at: float) -> Register:
    """The next register, in which no key of a party is good from now on.

    Raises:
        RequestError: nobody has that name, it was revoked already, or it is the coordinator.
    """
    if name == names.COORDINATOR:
        raise RequestError("nobody can do without the coordinator", advice="It gets new keys: `Office.replace_keys`")
    if not register.knows(name):
        known = sorted({one.name for one in register.keys})
        raise RequestError(f"nobody is named {name!r}", advice=f"Those that are: {', '.join(known)}")
    return end_keys(register, name, at)


def end_keys(register: Register, name: str, at: float) -> Register:
    """The next register, in which no key is good from now on that a party has today; RequestError: it has none."""
    mine = [one for one in register.keys if one.name == name]
    if all(one.revoked is not None for one in mine):
        raise RequestError(f"{name!r} was revoked already")
    keys = tuple(
        one.model_copy(update={"revoked": at}) if one.name == name and one.revoked is None else one
        for one in register.keys
    )
    return replace_keys(register, keys, at)


def require_signatures(register: Register, at: float) -> Register:
    """The next register, under which nobody takes an event without a signature.

    Raises:
        RequestError: that is so already.
    """
    if register.signatures == "required":
        raise RequestError("signatures are required already")
    return register.model_copy(update={"serial": register.serial + 1, "made": at, "signatures": "required"})


def list_members(register: Register) -> list[tuple[str, Role]]:
    """(name, role) of all who are let in: the coordinator first, then as they came; not who was revoked."""
    roles: dict[str, Role] = {}
    for one in register.keys:
        if one.revoked is None:
            roles.setdefault(one.name, one.role)
    return sorted(roles.items(), key=lambda item: item[0] != names.COORDINATOR)
