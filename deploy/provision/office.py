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
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field, ValidationError

from deploy.broker.certificates import LEAF_LIFE, Authority
from deploy.provision import admission, broker_files, member, texts
from deploy.provision.kit import BrokerFacts, PartyKit, write_kit
from deploy.provision.pair import certified_key, public_der
from deploy.provision.request import JoinRequest, Login, read_request
from messages import names
from messages.bus.amqp.tls import end_of_certificate
from messages.ground.durable import replace_file
from messages.ground.errors import MalformedMessage, RequestError
from messages.ground.naming import WHOLE_NAME
from messages.ground.strictness import StrictModel
from messages.ground.written.documents import read_json
from messages.ground.written.text import read_content
from messages.trust.keys import SigningKey, make_key, read_key, say_fingerprint, write_key
from messages.trust.register import Key, Register, check_successor, read_register, sign_register

STATE, OPERATOR_KEY, REGISTER = "consortium.json", "operator.key", "register.note"
LIFE = LEAF_LIFE.total_seconds()
"""Seconds that a party's keys are good, as long as its certificate."""


class OfficeFacts(StrictModel):
    """`consortium.json`.

    Attributes:
        passwords: party → RabbitMQ's hash of its password, of those that log in by one.
        reasons: party → why it was revoked, in the operator's words; they leave this folder with nothing.
    """

    consortium: str = Field(pattern=WHOLE_NAME)
    broker: BrokerFacts
    operator: Key
    passwords: dict[str, str] = {}
    reasons: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class MemberRow:
    """What `konsil provision list` tells of one party; moments are seconds since 1970."""

    name: str
    role: str
    login: Login
    words: str
    certificate_ends: float | None
    key_ends: float
    revoked: float | None
    reason: str


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
        _write(path, write_kit(kit, operator), 0o644)
        return path

    def revoke(self, name: str, at: float, passphrase: bytes | None, reason: str = "") -> None:
        """Shut a party out: its keys are good for nothing from now on, and the broker's files lack it."""
        operator, _ = self._unlock(passphrase)
        register = admission.revoke(self.register, name, at)
        self._write_facts(self.facts.model_copy(update={"reasons": self.facts.reasons | {name: reason}}))
        self.take_register(register, operator)

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
        broker_files.write_server(self.folder / "broker", authority, self.facts.broker.hosts, again=True)

    def take_register(self, register: Register, operator: SigningKey) -> None:
        """Keep the next register, and write anew what follows from it."""
        check_successor(self.register, register)
        data = sign_register(register, operator)
        _write(self.folder / f"register.{register.serial}.note", data, 0o644)
        _write(self.folder / REGISTER, data, 0o644)
        self.register = register
        self.render()

    def render(self) -> None:
        """Write anew what the broker and the coordinator read: it follows from register and facts alone."""
        members = admission.list_members(self.register)
        facts = self.facts
        broker_files.write_broker(self.folder / "broker", facts.consortium, members, facts.passwords, facts.broker.port)
        if (self.coordinator / REGISTER).exists():
            _write(self.coordinator / REGISTER, (self.folder / REGISTER).read_bytes(), 0o644)

    def admit_at_coordinator(self) -> str:
        """Name the members in coordinator.toml; returns what the operator has to know of it.

        The file comes with the first site and the first researcher, since no coordinator runs without.
        """
        members = admission.list_members(self.register)
        path = self.coordinator / texts.config_name("coordinator")
        lacking = sorted({"site", "researcher"} - {role for _name, role in members})
        if lacking:
            return f"it comes once a {' and a '.join(lacking)} is approved"
        if not path.exists():
            kit = self._read_kit_of_coordinator()
            passphrase = member.PartyFolder(self.coordinator).facts.passphrase
            _write(path, texts.write_config(kit, passphrase, members).encode(), 0o600)
            return "written"
        before = path.read_text()
        changed = texts.change_lists(before, members)
        if changed is None:
            return "name the sites and researchers there yourself: its lists are not where they were written"
        if changed != before:
            _write(path, changed.encode(), 0o600)
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
            words, reason = say_fingerprint(one.public), self.facts.reasons.get(one.name, "")
            rows.append(MemberRow(one.name, one.role, login, words, ends, one.until, one.revoked, reason))
        return rows

    def broker_ends(self) -> float:
        """When the broker's certificate ends."""
        return end_of_certificate((self.folder / "broker" / broker_files.SERVER).read_bytes())

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

    def _unlock(self, passphrase: bytes | None) -> tuple[SigningKey, Authority]:
        path = self.folder / OPERATOR_KEY
        operator = read_key(path, passphrase if self.is_locked else None)
        if operator.public.hex() != self.facts.operator:
            raise RequestError("this is not the key of this consortium's operator", where=str(path))
        return operator, Authority(self.folder / "ca", passphrase=passphrase, must_exist=True)

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
            ca=(self.folder / "ca" / "ca.pem").read_text(),
            register_note=(self.folder / REGISTER).read_text(),
            made=at,
        )

    def _read_kit_of_coordinator(self) -> PartyKit:
        party = member.PartyFolder(self.coordinator)
        request = read_request(read_content(party.request, refuse=RequestError), str(party.request))
        return self._make_kit(request, time.time())

    def _write_certificate(self, name: str, authority: Authority, public: ec.EllipticCurvePublicKey) -> None:
        _write(self.folder / "certificates" / f"{name}.pem", authority.certify_client(name, public), 0o644)

    def _write_facts(self, facts: OfficeFacts) -> None:
        self.facts = facts
        _write(self.folder / STATE, facts.model_dump_json(indent=1).encode() + b"\n", 0o600)


def found_office(
    folder: Path, consortium: str, broker: BrokerFacts, at: float, *, passphrase: str = "", member_secret: str = ""
) -> Office:
    """Make the operator's folder, with the coordinator's in it; whole or not at all.

    Args:
        passphrase: of the operator's and the authority's key, itself; "": they are kept in clear, mode 0600.
        member_secret: where the coordinator finds the passphrase of its own keys, as in `member.make_party`.

    Raises:
        RequestError: the folder is there and not empty, or cannot be written, or the name cannot be.
    """
    names.check_name(consortium, "consortium")
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if taken:
            raise RequestError("there is something already", where=str(folder), advice="Name a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
            made = Path(place) / "made"
            _found_in(made, consortium, broker, at, passphrase.encode() or None, member_secret)
            if folder.exists():
                folder.rmdir()
            made.rename(folder)
    except OSError as error:
        raise RequestError(f"the folder cannot be made ({error.strerror})", where=str(folder)) from None
    return Office(folder)


def _found_in(
    folder: Path, consortium: str, broker: BrokerFacts, at: float, passphrase: bytes | None, member_secret: str
) -> None:
    folder.mkdir(mode=0o700)
    operator = make_key()
    write_key(operator, folder / OPERATOR_KEY, passphrase)
    authority = Authority(folder / "ca", f"Konsil consortium {consortium}", passphrase=passphrase)
    facts = OfficeFacts(consortium=consortium, broker=broker, operator=operator.public.hex())
    _write(folder / STATE, facts.model_dump_json(indent=1).encode() + b"\n", 0o600)
    coordinator = folder / names.COORDINATOR
    party, keys = member.make_party(coordinator, names.COORDINATOR, "coordinator", at, passphrase=member_secret)
    register = admission.first_register(consortium, keys.event.public, at, at + LIFE)
    _write(folder / REGISTER, sign_register(register, operator), 0o644)
    _write(folder / "register.1.note", (folder / REGISTER).read_bytes(), 0o644)
    broker_files.write_server(folder / "broker", authority, broker.hosts)
    office = Office(folder)
    office._write_certificate(names.COORDINATOR, authority, keys.tls.public_key())
    request = read_request(party.request.read_bytes(), str(party.request))
    kit = office.approve(request, at, passphrase)
    party.install(kit.read_bytes(), str(kit), at, lambda _kit: None, config=False)
    office.render()


def _write(path: Path, content: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, content, mode=mode, durable=True)
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror})", where=str(path)) from None
