"""A private certificate authority and the certificates it signs, as PEM files: for a node that speaks TLS.

Profile of RFC 5280: ECDSA over P-256 (RFC 8446 makes every TLS 1.3 implementation know it, and signing costs little),
one authority that signs leaves only. Names stand in the subject alternative name, since clients look nowhere else
(RFC 9525, section 6).
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from messages.ground.durable import replace_file
from messages.ground.errors import RequestError

AUTHORITY_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=397)
RENEW_BEFORE = timedelta(days=30)
"""What ends sooner than this is made anew."""
SKEW = timedelta(hours=1)
"""Certificates begin so much before now: clocks differ."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its private key (mode 0600)."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority kept in a folder of its own: `ca.pem`, `ca.key`, and what it signed.

    Args:
        folder: made (mode 0700) if missing.
        name: the authority's common name, where it is made.
        passphrase: under which its key is kept; None: in clear.
        must_exist: never make one: who lost the consortium's authority has to know.

    Raises:
        RequestError: the folder cannot be written, or holds files that are no authority, or none that is good still
            where one must exist, or the passphrase is missing or wrong.
    """

    def __init__(
        self,
        folder: Path,
        name: str = "Konsil private authority",
        *,
        passphrase: bytes | None = None,
        must_exist: bool = False,
    ) -> None:
        self.folder = folder
        self.certificate = folder / "ca.pem"
        self._key_file = folder / "ca.key"
        with _telling_errors(folder):
            if must_exist:
                _require_authority(self.certificate)
            else:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not _lasts_long_enough(self.certificate) or not self._key_file.exists():
                    self._make_authority(name, passphrase)
            self._key = load_tls_key(self._key_file, passphrase)
            self._issuer = x509.load_pem_x509_certificate(self.certificate.read_bytes())
            if self._issuer.public_key() != self._key.public_key():
                raise ValueError

    def issue_server_identity(
        self, hosts: Sequence[str], stem: str = "server", life: timedelta = LEAF_LIFE, folder: Path | None = None
    ) -> Identity:
        """A server's identity, for names and addresses; the one of an earlier call where that still fits.

        Args:
            hosts: DNS names and IP addresses under which clients reach it, at least one.
            stem: file name without extension.
            life: how long it is valid from now; negative: it has run out already.
            folder: where it is kept; None: with the authority.
        """
        place = (folder or self.folder) / stem
        return self._issue_leaf(place, hosts[0], hosts, ExtendedKeyUsageOID.SERVER_AUTH, life)

    def issue_client_identity(self, name: str, life: timedelta = LEAF_LIFE, folder: Path | None = None) -> Identity:
        """A client's identity; its common name is the party's name. Arguments as of `issue_server_identity`."""
        return self._issue_leaf((folder or self.folder) / name, name, (), ExtendedKeyUsageOID.CLIENT_AUTH, life)

    def certify_client(self, name: str, public: ec.EllipticCurvePublicKey, life: timedelta = LEAF_LIFE) -> bytes:
        """A client's certificate (PEM) for a key that stays with the client; its common name is the party's name."""
        builder = self._begin_leaf(name, public, ExtendedKeyUsageOID.CLIENT_AUTH, life)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _make_authority(self, name: str, passphrase: bytes | None) -> None:
        key = make_tls_key()
        subject = _name_subject(name)
        certificate = (
            _from_now(x509.CertificateBuilder(), AUTHORITY_LIFE)
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        replace_file(self._key_file, key_pem(key, passphrase), mode=0o600)
        replace_file(self.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)

    def _issue_leaf(
        self, place: Path, name: str, hosts: Sequence[str], purpose: x509.ObjectIdentifier, life: timedelta
    ) -> Identity:
        identity = Identity(place.with_name(f"{place.name}.pem"), place.with_name(f"{place.name}.key"))
        with _telling_errors(self.folder):
            if life == LEAF_LIFE and self._fits_hosts(identity, hosts):
                return identity
            key = make_tls_key()
            builder = self._begin_leaf(name, key.public_key(), purpose, life)
            if hosts:
                names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
                builder = builder.add_extension(names, critical=False)
            certificate = builder.sign(self._key, hashes.SHA256())
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_file(identity.key, key_pem(key), mode=0o600)
            replace_file(identity.certificate, certificate.public_bytes(serialization.Encoding.PEM), mode=0o644)
        return identity

    def _begin_leaf(
        self, name: str, public: ec.EllipticCurvePublicKey, purpose: x509.ObjectIdentifier, life: timedelta
    ) -> x509.CertificateBuilder:
        return (
            _from_now(x509.CertificateBuilder(), life, self._issuer.not_valid_after_utc)
            .subject_name(_name_subject(name))
            .issuer_name(self._issuer.subject)
            .public_key(public)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def _fits_hosts(self, identity: Identity, hosts: Sequence[str]) -> bool:
        """Whether an earlier certificate is this authority's, lasts, and names these hosts."""
        if not _lasts_long_enough(identity.certificate) or not identity.key.exists():
            return False
        found = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
        try:
            found.verify_directly_issued_by(self._issuer)
        except Exception:  # noqa: BLE001 - cryptography raises three kinds; whatever is wrong, a new one is made
            return False
        named: list[x509.GeneralName] = []
        with contextlib.suppress(x509.ExtensionNotFound):
            named = list(found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        return named == [_general_name(host) for host in hosts]


def _name_subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _from_now(
    builder: x509.CertificateBuilder, life: timedelta, most: datetime | None = None
) -> x509.CertificateBuilder:
    """A time of validity that begins now and ends after `life`, and never after `most`."""
    now = datetime.now(UTC)
    end = now + life if most is None else min(now + life, most)
    return (
        builder.serial_number(x509.random_serial_number()).not_valid_before(min(now, end) - SKEW).not_valid_after(end)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _lasts_long_enough(path: Path) -> bool:
    """Whether a certificate is there and does not end soon."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return x509.load_pem_x509_certificate(content).not_valid_after_utc > datetime.now(UTC) + RENEW_BEFORE


def _require_authority(path: Path) -> None:
    """Refuse an authority that is missing or has run out, and never make another one in its place."""
    if not path.exists():
        raise RequestError("there is no certificate authority", where=str(path), advice="Put it back from a backup")
    end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    if end <= datetime.now(UTC):
        raise RequestError(
            f"the certificate authority has run out ({end:%Y-%m-%d})",
            where=str(path),
            advice="Check this machine's clock; if it is right, make a new consortium folder and new kits",
        )


def make_tls_key() -> ec.EllipticCurvePrivateKey:
    """A fresh key over P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def load_tls_key(path: Path, passphrase: bytes | None = None) -> ec.EllipticCurvePrivateKey:
    """A private key that `key_pem` wrote.

    Raises:
        RequestError: the passphrase is missing or wrong.
        ValueError, TypeError: it is no key over an elliptic curve.
    """
    data = path.read_bytes()
    locked = b"ENCRYPTED" in data
    if locked and passphrase is None:
        raise RequestError("the key needs a passphrase", where=str(path), advice="Name it with --passphrase")
    try:
        key = serialization.load_pem_private_key(data, passphrase if locked else None)
    except ValueError:
        if locked:
            raise RequestError("the passphrase is wrong", where=str(path)) from None
        raise
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError
    return key


def key_pem(key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> bytes:
    """A private key as PEM (PKCS #8), encrypted under a passphrase where there is one."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


@contextlib.contextmanager
def _telling_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RequestError(
            f"certificates cannot be kept here ({error.strerror})",
            where=str(folder),
            advice="Check the folder and its permissions",
        ) from None
    except (ValueError, TypeError):
        raise RequestError(
            "holds files that are no certificate authority of Konsil's",
            where=str(folder),
            advice="Move the folder away; a new authority will be made",
        ) from None
