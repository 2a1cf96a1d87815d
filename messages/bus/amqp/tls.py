"""TLS to the broker: the client's settings from a configuration, and why a handshake failed in words of ours.

The broker's certificate is always verified: its chain against `broker.ca` alone, and its name against `broker.host` or
`broker.server_name` (RFC 9525; an address counts as a name where the certificate lists it).
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pika
from cryptography import x509

from messages.ground.errors import BrokerUnreachable, ConfigError, TlsFailed
from messages.ground.settings import BrokerAddress, secret_path

# X509_V_ERR_… (openssl/x509_vfy.h), as ssl.SSLCertVerificationError.verify_code has them
NOT_YET_VALID, EXPIRED = 9, 10
UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)
OTHER_NAME = (62, 64)

CERTIFICATE_ALERTS = ("UNKNOWN_CA", "BAD_CERTIFICATE", "CERTIFICATE_EXPIRED", "CERTIFICATE_UNKNOWN", "DECRYPT_ERROR")
"""What a server says of a client's certificate (RFC 8446, section 6.2)."""
UNKNOWN = "the broker's certificate is not signed by the authority in broker.ca"
NOT_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""OpenSSL's words for an answer that is no TLS record."""


def make_options(address: BrokerAddress) -> Any:
    """pika's TLS options (pika.SSLOptions), None where the address names no authority.

    Raises:
        ConfigError: a file is missing, is not what it should be, or one that belongs to another is not named.
    """
    if address.login == "certificate" and (address.ca is None or address.cert is None):
        raise ConfigError(
            "a login by certificate needs broker.ca, broker.cert and broker.key",
            where="broker.login",
            advice='Name the files of the kit, or log in with login = "password"',
        )
    if address.ca is None:
        for key, value in (("cert", address.cert), ("key", address.key)):
            if value is not None:
                raise ConfigError(
                    f"broker.{key} needs broker.ca, the authority that signed the broker's certificate",
                    where=f"broker.{key}",
                    advice="Add ca, or the connection is not TLS",
                )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_authority(context, address.ca, "broker.ca")
    if address.cert is not None:
        _load_own(context, address.cert, address.key, address.resolved_passphrase())
    elif address.key is not None:
        raise ConfigError(
            "a key needs the certificate that it belongs to", where="broker.key", advice="Add cert, or leave key out"
        )
    return pika.SSLOptions(context, address.name_in_certificate)


def end_of_certificate(pem: bytes) -> float:
    """When a certificate ends to be valid, seconds since 1970; ValueError where the bytes are none."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


def find_end_of_login(address: BrokerAddress) -> float | None:
    """When the certificate by which a party logs in ends, seconds since 1970; None where it has none, or a broken one.
    Read anew each time: it may have been renewed."""
    if address.cert is None:
        return None
    try:
        return end_of_certificate(address.cert.read_bytes())
    except (OSError, ValueError):
        return None


def explain_tls_failure(causes: Sequence[Any], host: str, where: str) -> BrokerUnreachable | None:
    """Why a TLS connection could not be made, or broke; None where TLS is not to blame.

    `TlsFailed` where only a person can mend it; what a bad line does as well is merely `BrokerUnreachable`.

    Args:
        causes: an exception and those that it wraps. pika wraps some as text only, so their texts are read as well.
        host: the name that the broker's certificate should have.
        where: for the message.
    """
    for one in causes:
        if isinstance(one, ssl.SSLCertVerificationError):
            return _explain_distrust(one, host, where)
    text = " ".join(repr(one) for one in causes)
    found = re.search(r"\[SSL: (\w+)\]", text)
    if found is None and not any(isinstance(one, ssl.SSLError) for one in causes):
        return None
    reason = found.group(1) if found else ""
    if "EOF" in reason or any(isinstance(one, ssl.SSLEOFError | ssl.SSLZeroReturnError) for one in causes):
        return None  # cut, by whomever
    if reason in NOT_TLS:
        return TlsFailed(
            "what answers on this port does not speak TLS",
            where=where,
            advice="Name the broker's TLS port (5671 as a rule); without ca under [broker] the connection is not TLS",
        )
    if "CERTIFICATE_REQUIRED" in reason:
        return TlsFailed(
            "the broker asks for a certificate of ours",
            where=where,
            advice="Name it with cert and key under [broker]; the consortium's operator gives it out",
        )
    if any(alert in reason for alert in CERTIFICATE_ALERTS):
        return TlsFailed(
            f"the broker does not accept our certificate ({_alert_words(reason)})",
            where=where,
            advice="Check cert and key under [broker], or ask the consortium's operator for new ones",
        )
    if any(alert in reason for alert in ("HANDSHAKE_FAILURE", "PROTOCOL_VERSION", "NO_SHARED_CIPHER")):
        return TlsFailed(
            f"the broker and we agree on no way to speak TLS ({_alert_words(reason)})",
            where=where,
            advice="It needs TLS 1.2 or 1.3 with AEAD ciphers; if it asks for a certificate of ours, add cert and key",
        )
    return BrokerUnreachable(
        f"the TLS connection with the broker failed ({_alert_words(reason) or 'no reason given'})",
        where=where,
        advice="Check ca, cert and key under [broker], and that this port speaks TLS",
    )


def _explain_distrust(error: ssl.SSLCertVerificationError, host: str, where: str) -> TlsFailed:
    if error.verify_code == EXPIRED:
        what = "the broker's certificate has expired"
        advice = "Check this machine's clock; if it is right, the consortium's operator must renew the certificate"
    elif error.verify_code == NOT_YET_VALID:
        what = "the broker's certificate is not valid yet"
        advice = "Check this machine's clock"
    elif error.verify_code in UNKNOWN_AUTHORITY:
        what = UNKNOWN
        advice = "Check that ca is the file that the consortium's operator gave out: this may be another's broker"
    elif error.verify_code in OTHER_NAME:
        what = f"the broker's certificate is not made out to {host!r}"
        advice = (
            "Set broker.host, or broker.server_name, to the name that the consortium's operator gave out: "
            "this may be another's broker"
        )
    else:
        what = f"the broker's certificate cannot be trusted ({error.verify_message})"
        advice = "Ask the consortium's operator for the broker's authority"
    return TlsFailed(what, where=where, advice=advice)


def _alert_words(reason: str) -> str:
    """OpenSSL's reason in small letters: "TLSV1_ALERT_UNKNOWN_CA" → "alert unknown ca"."""
    return re.sub(r"^(ssl|tls)v\d+ ", "", reason.lower().replace("_", " "))


def load_authority(context: ssl.SSLContext, ca: Path, where: str) -> None:
    """Trust this authority alone; ConfigError where its file cannot be read or holds no certificate."""
    try:
        context.load_verify_locations(cafile=str(ca))
    except ssl.SSLError:
        raise ConfigError(
            f"{ca} holds no certificate in PEM form", where=where, advice="Name the authority's ca.pem"
        ) from None
    except OSError as error:
        raise unreadable_error(ca, where, error) from None


class CertificateLogin(pika.credentials.ExternalCredentials):  # type: ignore[misc]
    """SASL EXTERNAL (RFC 4422, appendix A): the broker takes the name out of the certificate that we showed."""

    def __init__(self, username: str) -> None:
        super().__init__()
        self.username = username
        """For messages alone."""


def _load_own(context: ssl.SSLContext, cert: Path, key: str | None, passphrase: str) -> None:
    key_file = cert if key is None else secret_path(key, "broker.key")
    for path, where in ((cert, "broker.cert"), (key_file, "broker.key")):
        try:
            path.open("rb").close()
        except OSError as error:
            raise unreadable_error(path, where, error) from None
    try:
        # A key with a passphrase would have OpenSSL ask on the terminal: an empty one makes it an error.
        context.load_cert_chain(cert, key_file, password=passphrase)
    except (ssl.SSLError, ValueError) as error:
        mismatch = getattr(error, "reason", None) == "KEY_VALUES_MISMATCH"
        raise ConfigError(
            f"{key_file} is not the key of {cert}"
            if mismatch
            else f"{cert} and {key_file} are not a certificate and its key in PEM form"
            + (", or the passphrase is wrong" if passphrase else ", without a passphrase"),
            where="broker.cert, broker.key",
            advice="Name the two files that were made together, and passphrase where the key has one",
        ) from None


def unreadable_error(path: Path, where: str, error: OSError) -> ConfigError:
    """The error of a certificate or key that cannot be read; `where` names its key in the configuration."""
    return ConfigError(
        f"cannot read certificate or key in {path} ({error.strerror})",
        where=where,
        advice="Check the path and its permissions",
    )
