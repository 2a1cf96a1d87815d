"""TLS with a source: contexts from certificates in files (PS3.15, B.12: BCP 195, TLS 1.2 or newer, verified).

Errors name the key of site.toml that is wrong.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from messages.bus.amqp.tls import load_authority, unreadable_error
from messages.ground.errors import ConfigError
from messages.ground.settings import secret_path


def client_context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What we trust and show as the side that connects; None without `ca`: no TLS.

    Raises:
        ConfigError: a file is missing, is not what it should be, or one that belongs to another is not named.
    """
    if ca is None:
        for name, value in (("cert", cert), ("key", key)):
            if value is not None:
                raise ConfigError(
                    f"{name} needs ca, the authority that signed the PACS's certificate",
                    where=name,
                    advice="Add ca, or the connection is not TLS",
                )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return _fill_context(context, ca, cert, key)


def server_context(ca: Path | None, cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """What our own storage SCP shows and asks for: the PACS shows a certificate of the same authority.

    Raises:
        ConfigError: as `client_context`, and where TLS is asked for without a certificate of ours.
    """
    if ca is None:
        return None
    if cert is None:
        raise ConfigError(
            'retrieve = "move" over TLS needs a certificate of ours: the PACS connects to us',
            where="cert",
            advice='Name cert and key, or set retrieve = "get"',
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    return _fill_context(context, ca, cert, key)


def own_files(cert: Path | None, key: Path | None) -> tuple[str, str] | None:
    """Files of our certificate and key, where one is named."""
    if cert is None:
        return None
    return str(cert), str(cert if key is None else secret_path(str(key), "key"))


def explain_handshake(error: BaseException) -> str | None:
    """Why a handshake failed, in words; None where TLS is not to blame."""
    chain: list[BaseException] = []
    todo: list[object] = [error]
    while todo:
        one = todo.pop()
        if isinstance(one, BaseException) and one not in chain:
            chain.append(one)
            todo += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
    for one in chain:
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"its certificate cannot be trusted ({one.verify_message})"
    for one in chain:
        if isinstance(one, ssl.SSLError):
            reason = (one.reason or "no reason given").lower().replace("_", " ")
            return f"no TLS can be spoken with it ({reason})"
    return None


def _fill_context(context: ssl.SSLContext, ca: Path, cert: Path | None, key: Path | None) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_authority(context, ca, "ca")
    files = own_files(cert, key)
    if files is None:
        if key is not None:
            raise ConfigError("a key needs the certificate that it belongs to", where="key", advice="Add cert")
        return context
    for path, where in zip(files, ("cert", "key"), strict=True):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise unreadable_error(Path(path), where, error) from None
    try:
        # A key with a passphrase would have OpenSSL ask on the terminal: an empty one makes it an error.
        context.load_cert_chain(*files, password="")
    except (ssl.SSLError, ValueError):
        raise ConfigError(
            f"{files[0]} and {files[1]} are not a certificate and its key in PEM form, without a passphrase",
            where="cert, key",
            advice="Name the two files that were made together",
        ) from None
    return context
