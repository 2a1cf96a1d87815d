"""Who may log in at a private node: its consortium, its parties and their passwords, kept in its folder."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.broker.definitions import Definitions, password_hash
from deploy.broker.topology import ROLES, Party
from messages import names
from messages.ground.durable import replace_file
from messages.ground.errors import RequestError

LOGINS = "logins"
"""Folder of the private node's passwords, a file a login."""


@dataclass(frozen=True, slots=True)
class Roster:
    """A consortium and its logins, the coordinator first."""

    consortium: str
    parties: tuple[Party, ...]

    @property
    def passwords(self) -> dict[str, str]:
        return {one.name: one.password for one in self.parties}

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.parties]

    def with_parties(self, more: Iterable[tuple[str, str]]) -> Roster:
        """The same, with these (name, role) too; who is known keeps the password.

        Raises:
            RequestError: a name has another role already.
        """
        known = {one.name: one for one in self.parties}
        for name, role in more:
            if name in known and known[name].role != role:
                raise RequestError(
                    f"{name!r} is a {known[name].role} already",
                    advice=f"Choose another name, or remove it first with `konsil broker remove {name}`",
                )
            known.setdefault(name, Party(name, role, make_password()))
        return replace(self, parties=tuple(known.values()))

    def without_parties(self, gone: Sequence[str]) -> Roster:
        """The same without these names.

        Raises:
            RequestError: a name is not known, or is the coordinator's.
        """
        if strange := [name for name in gone if name not in self.names]:
            raise RequestError(
                f"{strange[0]!r} has no login here", advice=f"Those that have: {', '.join(sorted(self.names))}"
            )
        if names.COORDINATOR in gone:
            raise RequestError("the coordinator cannot be removed", advice="A consortium has exactly one")
        return replace(self, parties=tuple(one for one in self.parties if one.name not in gone))


def make_password() -> str:
    """A fresh password of 192 bits."""
    return secrets.token_urlsafe(24)


def list_parties(sites: Iterable[str], researchers: Iterable[str], auditors: Iterable[str]) -> list[tuple[str, str]]:
    """(name, role) of each party that was named.

    Raises:
        RequestError: a name twice.
    """
    listed = [
        (name, role) for role, given in zip(ROLES[1:4], (sites, researchers, auditors), strict=True) for name in given
    ]
    known = [name for name, _role in listed]
    if twice := [name for name in known if known.count(name) > 1 or name == names.COORDINATOR]:
        raise RequestError(f"name {twice[0]!r} is given twice", advice="Every party needs its own name")
    return listed


def new_roster(consortium: str, parties: Iterable[tuple[str, str]], known: Mapping[str, str] | None = None) -> Roster:
    """A roster of the coordinator and these; passwords are those already known, else fresh ones."""
    listed = [(names.COORDINATOR, "coordinator"), *parties]
    made = [Party(name, role, (known or {}).get(name) or make_password()) for name, role in listed]
    return Roster(consortium, tuple(made))


def read_roster(folder: Path) -> Roster | None:
    """What an earlier start of the node wrote; None where it was never started.

    Raises:
        RequestError: the file is not what `konsil broker` writes.
    """
    file = folder / "logins.json"
    try:
        plain = json.loads(file.read_text())
        passwords: dict[str, str] = dict(plain["passwords"])
        roles: dict[str, str] = plain.get("roles") or roles_of(json.loads((folder / "definitions.json").read_text()))
        parties = tuple(Party(name, roles[name], password) for name, password in passwords.items())
        return Roster(str(plain["consortium"]), parties)
    except (FileNotFoundError, NotADirectoryError):
        return None  # where there can be no folder, its making says so
    except (OSError, ValueError, KeyError, TypeError):
        raise RequestError(
            "this is not a file of logins that `konsil broker` wrote",
            where=str(file),
            advice="Put it back from a backup, or forget the node with `konsil broker down --forget`",
        ) from None


def roles_of(plain: Definitions) -> dict[str, str]:
    """The roles in definitions, which name none. KeyError, TypeError: they are not what `konsil broker` writes."""
    reads_only = {one["user"] for one in plain["permissions"] if one["write"] == "^$"}
    kinds = {one["user"]: str(one["write"]) for one in plain["topic_permissions"]}
    roles = {}
    for name in (one["name"] for one in plain["users"]):
        if name == names.COORDINATOR:
            roles[name] = "coordinator"
        elif name in reads_only:
            roles[name] = "auditor"
        else:
            roles[name] = "researcher" if kinds[name].startswith("^(") else "site"
    return roles


def write_roster(folder: Path, roster: Roster) -> None:
    """Keep a roster, and a file for each login that holds its password and nothing else: what `file:PATH` in a
    configuration reads."""
    plain = {
        "consortium": roster.consortium,
        "passwords": roster.passwords,
        "roles": {one.name: one.role for one in roster.parties},
    }
    write_private(folder / "logins.json", json.dumps(plain))
    logins = folder / LOGINS
    logins.mkdir(mode=0o700, exist_ok=True)
    for file in logins.iterdir():
        if file.stem not in roster.names:  # no name has a dot: NAME, and NAME.pem and NAME.key of a certificate
            file.unlink()
    for one in roster.parties:
        write_private(logins / one.name, one.password + "\n")


def read_definitions(folder: Path) -> Definitions:
    """What a node of this folder was last told; empty where it was told nothing that can be read."""
    try:
        plain: Definitions = json.loads((folder / "definitions.json").read_text())
    except (OSError, ValueError):
        return {}
    return plain


def with_known_hashes(rendered: Definitions, folder: Path, roster: Roster) -> Definitions:
    """Definitions in which who is known keeps the hash of the password: what is unchanged reads unchanged, since a
    RabbitMQ 4 that has streams does not boot where it imports them anew (`configuration`)."""
    try:
        known: dict[str, str] = {one["name"]: one["password_hash"] for one in read_definitions(folder)["users"]}
    except (KeyError, TypeError):
        return rendered
    passwords = roster.passwords
    users: list[Any] = []
    for user in rendered["users"]:
        kept = known.get(user["name"])
        fits = kept is not None and password_hash(passwords[user["name"]], base64.b64decode(kept)[:4]) == kept
        users.append(user | {"password_hash": kept} if fits else user)
    return rendered | {"users": users}


def write_private(path: Path, text: str) -> None:
    """Replace a file whole, readable by its owner only."""
    try:
        replace_file(path, text.encode(), mode=0o600)
    except OSError as error:
        raise RequestError(
            f"cannot be written ({error.strerror})", where=str(path), advice="Choose a folder that exists"
        ) from None
