"""The folder of one party, at the party: its keys, its request, and what the operator's kit brought.

FOLDER/party.json     who it is
FOLDER/keys/          event.key, tls.key, and tls.pem, the certificate (password, where it logs in by one)
FOLDER/keys.next/     the same, of a renewal that waits for its kit
FOLDER/NAME.request   what to send to the operator
FOLDER/ca.pem, register.note, site.toml | coordinator.toml | profile.toml
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from deploy.broker.definitions import password_hash
from deploy.broker.roster import make_password
from deploy.provision import admission, texts
from deploy.provision.kit import PartyKit, check_kit, fits_keys, read_kit
from deploy.provision.pair import PartyKeys, make_keys, read_keys
from deploy.provision.request import Login, write_request
from messages.ground.durable import open_private_folder, replace_file
from messages.ground.errors import MalformedMessage, RequestError
from messages.ground.naming import WHOLE_NAME
from messages.ground.settings import read_secret
from messages.ground.strictness import StrictModel
from messages.ground.written.documents import read_json
from messages.ground.written.text import read_content
from messages.trust.register import Key, Register, Role, check_successor, read_register

STATE, REGISTER, CA = "party.json", "register.note", "ca.pem"
KEYS, NEXT, OLD = "keys", "keys.next", "keys.old"
CERTIFICATE, PASSWORD = "tls.pem", "password"


class PartyFacts(StrictModel):
    """`party.json`.

    Attributes:
        passphrase: where the keys' passphrase is read, "file:PATH" (absolute) or "credential:NAME"; "": none.
        operator: the operator's key, once a kit was accepted.
    """

    name: str = Field(pattern=WHOLE_NAME)
    role: Role
    login: Login = "certificate"
    passphrase: str = ""
    operator: Key | None = None


@dataclass(frozen=True, slots=True)
class Installed:
    """What a kit came to: the configuration, whether it was written now, and the register."""

    kit: PartyKit
    config: Path
    written: bool
    register: Register
    renewed: bool


class PartyFolder:
    """One party's folder, made by `make_party`; RequestError where it is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / STATE
        advice = "Name the folder where `konsil provision request` made its keys"
        if not path.is_file():
            raise RequestError("this is no party's folder", where=str(folder), advice=advice)
        try:
            self.facts = PartyFacts.model_validate(read_json(path, refuse=RequestError))
        except ValidationError:
            raise RequestError("cannot be read", where=str(path), advice=advice) from None
        self._passphrase = read_secret(self.facts.passphrase, "the passphrase").encode() or None

    @property
    def request(self) -> Path:
        """The request that was made last."""
        return self.folder / f"{self.facts.name}.request"

    def renew(self, at: float, *, lost: bool = False) -> PartyKeys:
        """Make new keys beside those in use, and a request that both sign.

        Args:
            lost: nobody goes by the old keys any more: the new ones alone sign, and a renewal that waits is forgotten.

        Raises:
            RequestError: no kit was installed yet, or a renewal waits already.
        """
        old, waiting = self._read_keys(KEYS), self.folder / NEXT
        if self.facts.operator is None:
            raise RequestError("no kit is installed here yet", where=str(self.folder), advice="Install it first")
        if lost:
            shutil.rmtree(waiting, ignore_errors=True)
        if waiting.exists():
            raise RequestError(
                "a renewal waits for its kit already",
                where=str(waiting),
                advice=f"Send {self.request} to the operator; or remove that folder, and renew again",
            )
        keys = self._make_keys(NEXT)
        self._write_request(keys, at, None if lost else old, NEXT)
        return keys

    def install(
        self, data: bytes, where: str, at: float, confirm: Callable[[PartyKit], None], *, config: bool = True
    ) -> Installed:
        """Take a kit: check it against the keys, keep what it brings, and write the configuration if there is none.

        Args:
            data: the kit's bytes.
            confirm: asked once, while the operator's key is new here; raises where it is not the operator's.
            config: whether to write the configuration; the coordinator's lists come later.

        Raises:
            RequestError: the kit is not this party's, not of the operator's who was accepted, or holds not together.
        """
        kit = read_kit(data, where)
        facts = self.facts
        if (kit.name, kit.role) != (facts.name, facts.role):
            raise RequestError(
                f"this kit is for {kit.name} ({kit.role})", where=where, advice=f"Here is {facts.name} ({facts.role})"
            )
        if facts.operator is not None and facts.operator != kit.operator:
            raise RequestError(
                "this kit is of another operator", where=where, advice="Read the operator's fingerprint on the phone"
            )
        found = self._keys_for(kit, where)
        register = check_kit(kit, self._read_keys(found), at, where)
        self._check_register(register, kit)
        if facts.operator is None:
            confirm(kit)
        self._keep(found, kit)
        self._write_state(facts.model_copy(update={"operator": kit.operator}))
        path = self.folder / texts.config_name(kit.role)
        written = config and not path.exists()
        if written:
            self._write(path, texts.write_config(kit, facts.passphrase).encode(), 0o600)
        return Installed(kit, path, written, register, found == NEXT)

    def _keys_for(self, kit: PartyKit, where: str) -> str:
        """Which of the folder's keys a kit is for; those that wait for a renewal first."""
        there = [name for name in (NEXT, KEYS) if (self.folder / name).is_dir()]
        for name in there:
            if fits_keys(kit, self._read_keys(name)):
                return name
        raise RequestError(
            "this kit is for another key", where=where, advice=f"Take the kit that answers {self.request.name}"
        )

    def _check_register(self, register: Register, kit: PartyKit) -> None:
        """Refuse one that does not follow from the register that is here."""
        path = self.folder / REGISTER
        if not path.exists():
            return
        try:
            before = read_register(read_content(path), bytes.fromhex(kit.operator), kit.consortium)
        except MalformedMessage as error:
            raise RequestError(f"cannot be used: {error.what}", where=str(path), advice="Move it away") from None
        check_successor(before, register)

    def _keep(self, found: str, kit: PartyKit) -> None:
        """Certificate beside its key, then the keys in their place, then what all share."""
        self._write(self.folder / found / CERTIFICATE, kit.certificate.encode(), 0o644)
        if found == NEXT:
            keys, old = self.folder / KEYS, self.folder / OLD
            if keys.exists():
                shutil.rmtree(old, ignore_errors=True)
                keys.rename(old)
            (self.folder / NEXT).rename(keys)
        self._write(self.folder / CA, kit.ca.encode(), 0o644)
        self._write(self.folder / REGISTER, kit.register_note.encode(), 0o644)

    def _read_keys(self, name: str) -> PartyKeys:
        return read_keys(self.folder / name, self._passphrase)

    def _make_keys(self, name: str) -> PartyKeys:
        keys = make_keys(self.folder / name, self._passphrase)
        if self.facts.login == "password":
            self._write(self.folder / name / PASSWORD, f"{make_password()}\n".encode(), 0o600)
        return keys

    def _write_request(self, keys: PartyKeys, at: float, old: PartyKeys | None, place: str = KEYS) -> None:
        secret = ""
        if self.facts.login == "password":
            kept = self.folder / place / PASSWORD
            secret = password_hash(kept.read_text().strip())
        data = write_request(
            keys,
            self.facts.name,
            self.facts.role,
            at,
            password_hash=secret,
            old=old.event if old is not None else None,
        )
        self._write(self.request, data, 0o644)

    def _write_state(self, facts: PartyFacts) -> None:
        self.facts = facts
        self._write(self.folder / STATE, facts.model_dump_json(indent=1).encode() + b"\n", 0o600)

    def _write(self, path: Path, content: bytes, mode: int) -> None:
        try:
            replace_file(path, content, mode=mode, durable=True)
        except OSError as error:
            raise RequestError(f"cannot be written ({error.strerror})", where=str(path)) from None


def make_party(
    folder: Path, name: str, role: Role, at: float, *, login: Login = "certificate", passphrase: str = ""
) -> tuple[PartyFolder, PartyKeys]:
    """Make a party's folder: both keys, and the request to send.

    Args:
        passphrase: "file:PATH" or "credential:NAME" under which its keys are kept; "": in clear, mode 0600.

    Raises:
        RequestError: a name that cannot be, or the folder is a party's already, or cannot be written.
    """
    admission.check_name(name, role)
    if (folder / STATE).exists() or (folder / KEYS).exists():
        raise RequestError(
            "keys were made here already", where=str(folder), advice="Another folder; or `konsil provision renew` here"
        )
    facts = PartyFacts(name=name, role=role, login=login, passphrase=place_secret(passphrase))
    try:
        open_private_folder(folder)
        replace_file(folder / STATE, facts.model_dump_json(indent=1).encode() + b"\n", mode=0o600)
        party = PartyFolder(folder)
        keys = party._make_keys(KEYS)
        party._write_request(keys, at, None)
    except OSError as error:
        forget_party(folder)
        raise RequestError(f"the folder cannot be written ({error.strerror})", where=str(folder)) from None
    except RequestError:
        forget_party(folder)
        raise
    return party, keys


def forget_party(folder: Path) -> None:
    """Undo what `make_party` began."""
    shutil.rmtree(folder / KEYS, ignore_errors=True)
    (folder / STATE).unlink(missing_ok=True)


def place_secret(reference: str) -> str:
    """A reference that means the same from any folder.

    Raises:
        RequestError: it is a secret itself, or leads nowhere.
    """
    kind, _, rest = reference.partition(":")
    if reference and kind not in ("file", "credential"):
        raise RequestError(
            "no passphrase belongs on a command line",
            where="--passphrase",
            advice="Use file:PATH or credential:NAME",
        )
    placed = f"file:{Path(rest).absolute()}" if kind == "file" else reference
    read_secret(placed, "--passphrase")
    return placed
