"""The file that a party sends to be let in: its public keys, and proof that it holds both private ones. Pure.

It is a signed note (`messages.trust.notes`): one line that says what it is, one JSON object, and the signature of the
party's Ed25519 key. In it stands a certificate request (PKCS #10, RFC 2986), which the TLS key signed and whose subject
names the party and its Ed25519 key. So each key vouches for the other, and who alters a letter breaks a signature.
A request for new keys is signed by the old Ed25519 key too.
"""

from __future__ import annotations

import json
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import Field, ValidationError

from deploy.provision.pair import PartyKeys
from messages.ground.errors import MalformedMessage, RequestError
from messages.ground.naming import WHOLE_NAME
from messages.ground.strictness import StrictModel
from messages.trust.keys import SigningKey, say_fingerprint
from messages.trust.notes import Note, read_note
from messages.trust.register import Key, Moment, Role

HEADING = "konsil request 1"
MOST_BYTES = 64 * 2**10
ADVICE = "Ask the party for its request again"
Login = Literal["certificate", "password"]


class JoinRequest(StrictModel):
    """What a party asks for.

    Attributes:
        event_key: its new Ed25519 public key.
        csr: certificate request for its new TLS key, PEM.
        login: how it logs in at the broker; "password" where its firewall breaks client certificates.
        password_hash: RabbitMQ's salted hash of the password that it made, which it never tells; for that login only.
        renews: the Ed25519 key that the new one takes the place of; None: the party is new.
    """

    name: str = Field(pattern=WHOLE_NAME)
    role: Role
    event_key: Key
    csr: str = Field(max_length=8192)
    made: Moment
    login: Login = "certificate"
    password_hash: str = Field("", pattern="^([A-Za-z0-9+/]{48})?$")
    renews: Key | None = None

    @property
    def words(self) -> str:
        """The fingerprint of the Ed25519 key, which signs all of it."""
        return say_fingerprint(bytes.fromhex(self.event_key))

    def tls_public(self) -> ec.EllipticCurvePublicKey:
        """The TLS key; `read_request` has looked at it."""
        return _read_csr(self.csr)[1]


def write_request(
    keys: PartyKeys,
    name: str,
    role: Role,
    made: float,
    *,
    password_hash: str = "",
    old: SigningKey | None = None,
) -> bytes:
    """The file; `old` is the Ed25519 key whose place the new one takes."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, keys.event.public.hex()),
        ]
    )
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(keys.tls, hashes.SHA256())
    request = JoinRequest(
        name=name,
        role=role,
        event_key=keys.event.public.hex(),
        csr=csr.public_bytes(serialization.Encoding.PEM).decode(),
        made=made,
        login="password" if password_hash else "certificate",
        password_hash=password_hash,
        renews=old.public.hex() if old is not None else None,
    )
    text = f"{HEADING}\n{json.dumps(request.model_dump(mode='json'), sort_keys=True, indent=1)}\n"
    note = Note(text).with_signature(name, keys.event)
    return (note if old is None else note.with_signature(name, old)).encode()


def read_request(data: bytes, where: str) -> JoinRequest:
    """Read a request, and check that both keys signed it (and the old one, where it renews).

    Raises:
        RequestError: it is none, was altered, or a key did not sign it.
    """
    if len(data) > MOST_BYTES:
        raise RequestError("too large for a request", where=where, advice=ADVICE)
    try:
        note = read_note(data)
    except MalformedMessage:
        raise RequestError("this is no request of `konsil provision request`", where=where, advice=ADVICE) from None
    heading, _, content = note.text.partition("\n")
    if heading != HEADING:
        raise RequestError("this is no request of `konsil provision request`", where=where, advice=ADVICE)
    try:
        request = JoinRequest.model_validate(json.loads(content))
    except (ValueError, ValidationError, RecursionError):
        raise RequestError("this request cannot be read", where=where, advice=ADVICE) from None
    altered = RequestError("its keys did not sign this: it was altered on its way", where=where, advice=ADVICE)
    signers = [request.event_key, *([request.renews] if request.renews else [])]
    if not all(note.is_signed_by(request.name, bytes.fromhex(key)) for key in signers):
        raise altered
    if (request.login == "password") != bool(request.password_hash):
        raise RequestError("login and password_hash do not go together", where=where, advice=ADVICE)
    try:
        said, _ = _read_csr(request.csr)
    except (ValueError, TypeError, InvalidSignature):
        raise altered from None
    if said != (request.name, request.event_key):
        raise altered
    return request


def _read_csr(pem: str) -> tuple[tuple[str, str], ec.EllipticCurvePublicKey]:
    """((name, Ed25519 key), TLS key) of a certificate request that its own key signed.

    Raises:
        ValueError, TypeError, InvalidSignature: it is none.
    """
    csr = x509.load_pem_x509_csr(pem.encode())
    public = csr.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise TypeError
    if not csr.is_signature_valid:
        raise InvalidSignature
    kinds = (NameOID.COMMON_NAME, NameOID.ORGANIZATIONAL_UNIT_NAME)
    if [one.oid for one in csr.subject] != list(kinds):
        raise ValueError
    name, key = (str(one.value) for one in csr.subject)
    return (name, key), public
