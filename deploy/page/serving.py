"""Where a page listens: loopback by a link, elsewhere TLS and logins; one line each where that cannot be."""

from __future__ import annotations

import getpass
import ipaddress
import signal
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from cryptography import x509

from deploy.console import note_line, say_line
from deploy.page.gate import Gate, read_logins
from deploy.page.sheet import Face
from deploy.page.web import OrderDesk, Web, WebSettings
from messages.ground.errors import ConfigError, RequestError

STOP_WITHIN = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen, as it was asked for. `port` 0: any free one."""

    listen: str = "127.0.0.1"
    port: int = 8470
    cert: Path | None = None
    key: Path | None = None
    logins: Path | None = None


def check_place(place: Place) -> bool:
    """Whether others reach the address; ConfigError where it is none, or lacks what protects it."""
    try:
        address = ipaddress.ip_address(place.listen)
    except ValueError:
        raise ConfigError(
            "is no IP address", where=f"--listen {place.listen}", advice="127.0.0.1 is this machine"
        ) from None
    if (place.cert is None) != (place.key is None):
        raise ConfigError("a certificate and its key come together", where="--cert, --key")
    if address.is_loopback:
        return False
    if place.cert is None or place.logins is None:
        raise ConfigError(
            "other machines could read this page, unencrypted or without a login",
            where=f"--listen {place.listen}",
            advice="Add --cert, --key and --logins, or leave --listen out",
        )
    return True


def name_hosts(place: Place, port: int) -> frozenset[str]:
    """What a request may name as its host: loopback's names, and those of the certificate."""
    names = {"127.0.0.1", "localhost", "[::1]"} if ipaddress.ip_address(place.listen).is_loopback else set()
    if not ipaddress.ip_address(place.listen).is_unspecified:
        names.add(f"[{place.listen}]" if ":" in place.listen else place.listen)
    if place.cert is not None:
        try:
            found = x509.load_pem_x509_certificate(place.cert.read_bytes())
            extension = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, x509.ExtensionNotFound):
            raise ConfigError(
                "is no certificate with names (subjectAltName)",
                where=str(place.cert),
                advice="`openssl x509 -text` shows it",
            ) from None
        names |= {one.lower() for one in extension.get_values_for_type(x509.DNSName)}
        names |= {f"[{one}]" if one.version == 6 else str(one) for one in extension.get_values_for_type(x509.IPAddress)}
    usual = 443 if place.cert is not None else 80
    return frozenset({f"{one}:{port}" for one in names} | (names if port == usual else set()))


def open_socket(place: Place) -> socket.socket:
    """A listening socket; RequestError where the port is taken, or the address not of this machine."""
    family = socket.AF_INET6 if ":" in place.listen else socket.AF_INET
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((place.listen, place.port))
        made.listen(64)
    except OSError as error:
        made.close()
        advice = "Choose another with --port; --port 0 takes any free one"
        raise RequestError(
            f"cannot be listened on ({error.strerror})", where=f"{place.listen}:{place.port}", advice=advice
        ) from None
    return made


def serve_face(
    start: Callable[[], Face],
    place: Place,
    make_desk: Callable[[Face], OrderDesk] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        start: begins to look, once it is known that the page can listen.
    """
    check_place(place)
    logins = None if place.logins is None else read_logins(place.logins)
    with open_socket(place) as listening:
        port = listening.getsockname()[1]
        scheme = "http" if place.cert is None else "https"
        settings = WebSettings(name_hosts(place, port), scheme, port)
        config_tls: dict[str, Any] = {}
        if place.cert is not None:
            config_tls = {"ssl_certfile": str(place.cert), "ssl_keyfile": str(place.key)}
        face = start()
        gate = Gate(_user(), logins, time.monotonic)
        web = Web(face, gate, settings, time.time, None if make_desk is None else make_desk(face))
        config = uvicorn.Config(
            web.app, log_level="critical", access_log=False, lifespan="off", server_header=False, date_header=False,
            ws="none", h11_max_incomplete_event_size=16 * 1024, timeout_graceful_shutdown=STOP_WITHIN,
            limit_concurrency=128, proxy_headers=False, **config_tls,
        )  # fmt: skip
        try:
            config.load()
        except (ssl.SSLError, OSError) as error:
            face.close()
            raise ConfigError(f"cannot be used ({error})", where=f"{place.cert}, {place.key}") from None
        server = _Server(config, web)
        shown = f"[{place.listen}]" if ":" in place.listen else place.listen
        if gate.link is not None:
            say_line(f"{scheme}://{shown}:{port}/open/{gate.link}")
            note_line("This link works once, in one browser. Ctrl-C ends the page.")
        else:
            say_line(f"{scheme}://{shown}:{port}/")
        try:
            server.run(sockets=[listening])
        finally:
            face.close()


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "link"


class _Server(uvicorn.Server):
    """Ends the streams first: a browser would hold them open for ever."""

    def __init__(self, config: Any, web: Web) -> None:
        super().__init__(config)
        self._web = web

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._web.ending = True
        super().handle_exit(signal.SIGTERM, frame)
