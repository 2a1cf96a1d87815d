"""The operator's folder: its key, the authority, the register, and all that is written anew when one of them changes.

FOLDER/consortium.json    name, broker, the operator's public key
FOLDER/operator.key       signs registers and kits
FOLDER/ca/                signs certificates: keep it off the broker's machine
FOLDER/register.note      the newest register; register.SERIAL.note, each one
FOLDER/certificates/      the newest certificate of each party
FOLDER/kits/              what was sent to each party
FOLDER/broker/            what RabbitMQ reads
FOLDER/coordinator/       the coordinator's own folder (`deploy.provision.member`)
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from deploy.broker.certificates import LEAF_LIFE, Authority
from deploy.provision import admission, broker_files, member, texts
from deploy.provision.facts import (
    AUTHORITY,
    BROKER,
    OPERATOR_KEY,
    REGISTER,
    STATE,
    Guest,
    MemberRow,
    OfficeFacts,
    write_file,
)
from deploy.provision.kit import PartyKit, write_kit
from deploy.provision.pair import certified_key, public_der
from deploy.provision.request import JoinRequest, Login, read_request
from messages import names
from messages.bus.amqp.tls import end_of_certificate
from messages.ground.errors import MalformedMessage, RequestError
from messages.ground.written.documents import read_json
from messages.ground.written.text import read_content
from messages.trust.keys import SigningKey, read_key, say_fingerprint
from messages.trust.register import Register, Role, check_successor, read_register, sign_register

LIFE = LEAF_LIFE.total_seconds()
"""Seconds that a party's keys are good, as long as its certificate."""


class Office:
    """The folder of a consortium's operator, made by `found_office`.

    Raises:
        RequestError: it is none, or what lies in it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / STATE
        if not path.is_file():
            raise RequestError(
                "this is no operator's folder",
                where=str(folder),
                advice="Name it with --folder; `konsil provision init` makes one",
            )
        try:
            self.facts = OfficeFacts.model_validate(read_json(path, refuse=RequestError))
        except ValidationError:
            raise RequestError("cannot be read", where=str(path), advice="Put it back from a backup") from None
        self.register = self._read_register()

    @property
    def words(self) -> str:
        """The fingerprint of the operator's key."""
        return say_fingerprint(bytes.fromhex(self.facts.operator))

    @property
    def is_locked(self) -> bool:
        """Whether its keys need a passphrase."""
        path = self.folder / OPERATOR_KEY
        return path.exists() and b"ENCRYPTED" in path.read_bytes()

    @property
    def coordinator(self) -> Path:
        """The coordinator's folder."""
        return self.folder / names.COORDINATOR

    def approve(self, request: JoinRequest, at: float, passphrase: bytes | None, *, lost: bool = False) -> Path:
        """Let a party in, or give a party that is in its new keys; returns its kit.

        The same request again makes the same kit again.

        Raises:
            RequestError: the name is taken, barred or reserved, or the authority has run out.
        """
        guest = self._guests().get(request.name)
        if guest is not None and guest.role != request.role:
            raise RequestError(f"{request.name!r} is a {guest.role} already", advice="Let it ask in that role")
        operator, authority = self._unlock(passphrase)
        if not admission.is_entered(self.register, request):
            register = admission.admit(self.register, request, at, at + LIFE, lost=lost)
            self._write_certificate(request.name, authority, request.tls_public())
            passwords = {name: kept for name, kept in self.facts.passwords.items() if name != request.name}
            if request.password_hash:
                passwords[request.name] = request.password_hash
            self._write_facts(self.facts.model_copy(update={"passwords": passwords}))
            self.take_register(register, operator)
        kit = self._make_kit(request, at)
        path = self.folder / "kits" / f"{request.name}.kit"
        write_file(path, write_kit(kit, operator), 0o644)
        return path

    def revoke(self, name: str, at: float, passphrase: bytes | None, reason: str = "") -> None:
        """Shut a party out: its keys are good for nothing from now on, and the broker's files lack it."""
        operator, _ = self._unlock(passphrase)
        if name in self._guests():
            guests = {known: one for known, one in self.facts.guests.items() if known != name}
            self._write_facts(self.facts.model_copy(update={"guests": guests}))
            self.render()
            return
        register = admission.revoke(self.register, name, at)
        self._write_facts(self.facts.model_copy(update={"reasons": self.facts.reasons | {name: reason}}))
        self.take_register(register, operator)

    def replace_keys(self, at: float, passphrase: bytes | None, reason: str = "") -> None:
        """Shut out whoever has the coordinator's keys, and give the coordinator new ones, in one register."""
        self._unlock(passphrase)
        party = member.PartyFolder(self.coordinator)
        party.renew(at, lost=True)
        request = read_request(read_content(party.request, refuse=RequestError), str(party.request))
        kit = self.approve(request, at, passphrase, lost=True)
        party.install(kit.read_bytes(), str(kit), at, lambda _kit: None, config=False)
        self._write_facts(self.facts.model_copy(update={"reasons": self.facts.reasons | {request.name: reason}}))

    def require_signatures(self, at: float, passphrase: bytes | None) -> None:
        """From now on nobody takes an event without a signature; nothing can switch that back."""
        operator, _ = self._unlock(passphrase)
        self.take_register(admission.require_signatures(self.register, at), operator)

    def renew(self, at: float, passphrase: bytes | None) -> None:
        """New keys and certificate for the coordinator, and a new certificate for the broker."""
        _, authority = self._unlock(passphrase)
        party = member.PartyFolder(self.coordinator)
        if not (self.coordinator / member.NEXT).exists():
            party.renew(at)
        request = read_request(read_content(party.request, refuse=RequestError), str(party.request))
        kit = self.approve(request, at, passphrase)
        party.install(kit.read_bytes(), str(kit), at, lambda _kit: None)
        broker_files.write_server(self.folder / BROKER, authority, self.facts.broker.hosts, again=True)

    def take_register(self, register: Register, operator: SigningKey) -> None:
        """Keep the next register, and write anew what follows from it."""
        check_successor(self.register, register)
        data = sign_register(register, operator)
        write_file(self.folder / f"register.{register.serial}.note", data, 0o644)
        write_file(self.folder / REGISTER, data, 0o644)
        self.register = register
        self.render()

    def render(self) -> None:
        """Write anew what the broker and the coordinator read: it follows from register and facts alone."""
        facts = self.facts
        passwords = facts.passwords | {name: one.password_hash for name, one in self._guests().items()}
        broker_files.write_broker(self.folder / BROKER, facts.consortium, self._members(), passwords, facts.broker.port)
        if (self.coordinator / REGISTER).exists():
            write_file(self.coordinator / REGISTER, (self.folder / REGISTER).read_bytes(), 0o644)

    def admit_at_coordinator(self) -> str:
        """Name the members in coordinator.toml; returns what the operator has to know of it.

        The file comes with the first site and the first researcher, since no coordinator runs without.
        """
        members = self._members()
        path = self.coordinator / texts.config_name("coordinator")
        lacking = sorted({"site", "researcher"} - {role for _name, role in members})
        if lacking:
            return f"it comes once a {' and a '.join(lacking)} is approved"
        if not path.exists():
            kit = self._read_kit_of_coordinator()
            passphrase = member.PartyFolder(self.coordinator).facts.passphrase
            write_file(path, texts.write_config(kit, passphrase, members).encode(), 0o600)
            return "written"
        before = path.read_text()
        changed = texts.change_lists(before, members)
        if changed is None:
            return "name the sites and researchers there yourself: its lists are not where they were written"
        if changed != before:
            write_file(path, changed.encode(), 0o600)
            return "names them; restart the coordinator"
        return "unchanged"

    def list_members(self) -> list[MemberRow]:
        """Each party with its newest key, revoked ones too."""
        newest = {one.name: one for one in sorted(self.register.keys, key=lambda one: one.since)}
        rows = []
        for one in newest.values():
            path = self.folder / "certificates" / f"{one.name}.pem"
            ends = end_of_certificate(path.read_bytes()) if path.exists() else None
            login: Login = "password" if one.name in self.facts.passwords else "certificate"
            reason = "" if one.revoked is None else self.facts.reasons.get(one.name, "")
            words = say_fingerprint(one.public)
            rows.append(MemberRow(one.name, one.role, login, words, ends, one.until, one.revoked, reason))
        for name, guest in self._guests().items():
            rows.append(MemberRow(name, guest.role, "password", "", None, None, None, ""))
        return rows

    def broker_ends(self) -> float:
        """When the broker's certificate ends."""
        return end_of_certificate((self.folder / BROKER / broker_files.SERVER).read_bytes())

    @contextmanager
    def alone(self) -> Iterator[Office]:
        """One command at a time changes the folder; RequestError where another one does."""
        descriptor = os.open(self.folder, os.O_RDONLY)  # flock(2) takes folders, too
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield Office(self.folder)
        except BlockingIOError:
            raise RequestError(
                "another `konsil provision` works in this folder", where=str(self.folder), advice="Wait for its end"
            ) from None
        finally:
            os.close(descriptor)

    def _guests(self) -> dict[str, Guest]:
        return {name: one for name, one in self.facts.guests.items() if not self.register.knows(name)}

    def _members(self) -> list[tuple[str, Role]]:
        """(name, role) of all who log in."""
        return admission.list_members(self.register) + [(name, one.role) for name, one in self._guests().items()]

    def _unlock(self, passphrase: bytes | None) -> tuple[SigningKey, Authority]:
        path = self.folder / OPERATOR_KEY
        operator = read_key(path, passphrase if self.is_locked else None)
        if operator.public.hex() != self.facts.operator:
            raise RequestError("this is not the key of this consortium's operator", where=str(path))
        return operator, Authority(self.folder / AUTHORITY, passphrase=passphrase, must_exist=True)

    def _read_register(self) -> Register:
        path = self.folder / REGISTER
        try:
            data = read_content(path, refuse=RequestError)
            return read_register(data, bytes.fromhex(self.facts.operator), self.facts.consortium)
        except MalformedMessage as error:
            raise RequestError(f"cannot be used: {error.what}", where=str(path), advice="Put it back") from None

    def _make_kit(self, request: JoinRequest, at: float) -> PartyKit:
        certificate = (self.folder / "certificates" / f"{request.name}.pem").read_bytes()
        if certified_key(certificate) != public_der(request.tls_public()):
            raise RequestError(f"newer keys of {request.name!r} were approved since", advice="Take its newest request")
        return PartyKit(
            consortium=self.facts.consortium,
            name=request.name,
            role=request.role,
            login=request.login,
            broker=self.facts.broker,
            operator=self.facts.operator,
            certificate=certificate.decode(),
            ca=(self.folder / AUTHORITY / "ca.pem").read_text(),
            register_note=(self.folder / REGISTER).read_text(),
            made=at,
        )

    def _read_kit_of_coordinator(self) -> PartyKit:
        party = member.PartyFolder(self.coordinator)
        request = read_request(read_content(party.request, refuse=RequestError), str(party.request))
        return self._make_kit(request, time.time())

    def _write_certificate(self, name: str, authority: Authority, public: ec.EllipticCurvePublicKey) -> None:
        write_file(self.folder / "certificates" / f"{name}.pem", authority.certify_client(name, public), 0o644)

    def _write_facts(self, facts: OfficeFacts) -> None:
        self.facts = facts
        write_file(self.folder / STATE, facts.model_dump_json(indent=1).encode() + b"\n", 0o600)
