"""The file that a party gets once it is let in: its certificate, the authority, the register, and where the broker is.

It is a note that the operator signed. It holds facts and no configuration: what a party runs and lets in stays in the
files that `konsil provision install` writes at the party, out of these facts. No private key is in it. Pure.
"""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Annotated

from cryptography import x509
from cryptography.x509.oid import NameOID
from pydantic import AfterValidator, Field, ValidationError

from deploy.provision.pair import PartyKeys, certified_key
from deploy.provision.request import Login
from messages.ground.errors import MalformedMessage, RequestError
from messages.ground.naming import WHOLE_NAME
from messages.ground.strictness import StrictModel, at_most
from messages.trust.keys import SigningKey, say_fingerprint
from messages.trust.notes import Note, read_note
from messages.trust.register import OPERATOR, Key, Moment, Register, Role, read_register

HEADING = "konsil kit 1"
ADVICE = "Ask the consortium's operator for the kit again"
READ_ME = "For this party alone: konsil provision install FILE --into FOLDER, where the request was made"
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")


def check_host(host: str) -> str:
    """A DNS name (RFC 1123, section 2.1) or an IP address as it came; ValueError for anything else."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not _HOST.fullmatch(host):
            raise ValueError(f"{host!r} is no host name and no address") from None
    return host


class BrokerFacts(StrictModel):
    """Where a consortium's broker is.

    Attributes:
        hosts: names and addresses that stand in its certificate; the parties use the first.
    """

    hosts: Annotated[tuple[Annotated[str, AfterValidator(check_host)], ...], at_most(16)] = Field(min_length=1)
    port: int = Field(5671, ge=1, le=65535)


class PartyKit(StrictModel):
    """The content; certificates are PEM, `register_note` is the register's file."""

    read_me: str = READ_ME
    consortium: str = Field(pattern=WHOLE_NAME)
    name: str = Field(pattern=WHOLE_NAME)
    role: Role
    login: Login
    broker: BrokerFacts
    operator: Key
    certificate: str = Field(max_length=16384)
    ca: str = Field(max_length=16384)
    register_note: str
    made: Moment

    @property
    def words(self) -> str:
        """The fingerprint of the operator's key."""
        return say_fingerprint(bytes.fromhex(self.operator))


def write_kit(kit: PartyKit, operator: SigningKey) -> bytes:
    """The file of a kit."""
    text = f"{HEADING}\n{json.dumps(kit.model_dump(mode='json'), sort_keys=True, indent=1)}\n"
    return Note(text).with_signature(OPERATOR, operator).encode()


def read_kit(data: bytes, where: str) -> PartyKit:
    """Read a kit, and check that the operator whom it names signed it: who that is, people have to compare.

    Raises:
        RequestError: it is none, or was altered.
    """
    none = RequestError("this is no kit of `konsil provision approve`", where=where, advice=ADVICE)
    try:
        note = read_note(data)
    except MalformedMessage:
        raise none from None
    heading, _, content = note.text.partition("\n")
    if heading != HEADING:
        raise none
    try:
        kit = PartyKit.model_validate(json.loads(content))
    except (ValueError, ValidationError, RecursionError):
        raise RequestError("this kit cannot be read", where=where, advice=ADVICE) from None
    if not note.is_signed_by(OPERATOR, bytes.fromhex(kit.operator)):
        raise RequestError("the operator did not sign this: it was altered on its way", where=where, advice=ADVICE)
    return kit


def fits_keys(kit: PartyKit, keys: PartyKeys) -> bool:
    """Whether the kit is for these very keys."""
    try:
        certified = certified_key(kit.certificate.encode())
    except ValueError:
        return False
    return certified == keys.tls_public and f'"{keys.event.public.hex()}"' in kit.register_note


def check_kit(kit: PartyKit, keys: PartyKeys, at: float, where: str) -> Register:
    """Refuse a kit that does not hold together; returns its register.

    Args:
        at: now, seconds since 1970.

    Raises:
        RequestError: certificate, authority and register are not one consortium's, not this party's, or have run out.
    """

    def refuse(what: str, advice: str = ADVICE) -> RequestError:
        return RequestError(what, where=where, advice=advice)

    if not fits_keys(kit, keys):
        raise refuse("this kit is for another key", "Take the kit that answers this folder's request")
    try:
        register = read_register(kit.register_note.encode(), bytes.fromhex(kit.operator), kit.consortium)
    except MalformedMessage as error:
        raise refuse(f"its register cannot be used: {error.what}") from None
    mine = [one for one in register.keys if one.public == keys.event.public]
    if [(one.name, one.role) for one in mine] != [(kit.name, kit.role)]:
        raise refuse(f"its register does not have this key for {kit.name}")
    if not mine[0].is_good(at):
        raise refuse("its register says that this key is not good now", "Check this machine's clock, or make new keys")
    try:
        issuer = x509.load_pem_x509_certificate(kit.ca.encode())
        found = x509.load_pem_x509_certificate(kit.certificate.encode())
        found.verify_directly_issued_by(issuer)
    except Exception:  # noqa: BLE001 - cryptography raises several kinds; whatever is wrong, it is no such certificate
        raise refuse("its certificate is not of its own authority") from None
    if [str(one.value) for one in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] != [kit.name]:
        raise refuse(f"its certificate is not made out to {kit.name}")
    for what, one in (("certificate", found), ("authority", issuer)):
        if not one.not_valid_before_utc.timestamp() <= at < one.not_valid_after_utc.timestamp():
            raise refuse(f"its {what} is not valid now", "Check this machine's clock; else ask for a new kit")
    return register
