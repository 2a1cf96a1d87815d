"""A party's two keys: Ed25519, which signs what it says, and P-256, by which the broker knows it. They never leave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.broker.certificates import key_pem, load_tls_key, make_tls_key
from messages.ground.durable import open_private_folder, replace_file
from messages.ground.errors import RequestError
from messages.trust.keys import SigningKey, make_key, read_key, write_key

EVENT_KEY, TLS_KEY = "event.key", "tls.key"


@dataclass(frozen=True, slots=True)
class PartyKeys:
    """Both keys of one party."""

    event: SigningKey
    tls: ec.EllipticCurvePrivateKey

    @property
    def tls_public(self) -> bytes:
        """The public half, in the form by which two are compared (SubjectPublicKeyInfo, DER)."""
        return public_der(self.tls.public_key())


def public_der(public: ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7) as DER."""
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def certified_key(pem: bytes) -> bytes:
    """A certificate's public key, as `public_der` has it (of another kind: empty); ValueError: it is no certificate."""
    public = x509.load_pem_x509_certificate(pem).public_key()
    return public_der(public) if isinstance(public, ec.EllipticCurvePublicKey) else b""


def make_keys(folder: Path, passphrase: bytes | None = None) -> PartyKeys:
    """Make both keys in a folder of their own (mode 0700, files 0600).

    Raises:
        RequestError: there are keys already, or the folder cannot be written.
    """
    keys = PartyKeys(make_key(), make_tls_key())
    try:
        open_private_folder(folder)
        write_key(keys.event, folder / EVENT_KEY, passphrase)
        replace_file(folder / TLS_KEY, key_pem(keys.tls, passphrase), mode=0o600)
    except OSError as error:
        raise RequestError(f"keys cannot be kept here ({error.strerror})", where=str(folder)) from None
    return keys


def read_keys(folder: Path, passphrase: bytes | None = None) -> PartyKeys:
    """Read both keys; RequestError where one cannot be read or the passphrase does not open it."""
    event = read_key(folder / EVENT_KEY, passphrase)
    path = folder / TLS_KEY
    try:
        return PartyKeys(event, load_tls_key(path, passphrase))
    except OSError as error:
        raise RequestError(f"the key cannot be read ({error.strerror})", where=str(path)) from None
    except (ValueError, TypeError):
        raise RequestError("no key over P-256 in PEM", where=str(path)) from None
