"""How a connection to the broker begins: straight or through a hospital's HTTP proxy, with certificates as they are.

Everything is read anew for each connection: a certificate that was renewed on disk is used at the next one.
python-socks speaks HTTP CONNECT (RFC 9110, section 9.3.6). pika knows no proxies, and takes no socket that is already
connected: through a proxy its own wiring is done here (`_StreamingProtocolShim`, pika 1.3 and 1.4).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pika
from cryptography import x509
from pika import tcp_socket_opts
from pika.adapters import base_connection
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.sync import Proxy

from messages.bus.amqp import tls
from messages.bus.amqp.errors import explain_failure
from messages.bus.amqp.wire import WireConnection
from messages.ground.errors import BrokerUnreachable, KonsilError, TlsFailed
from messages.ground.settings import BrokerAddress

CONNECT_WITHIN, HANDSHAKE_WITHIN = 10.0, 20.0
"""Seconds for the TCP connection (and the proxy's answer), and for all until the broker's welcome."""
LOOK_WITHIN = 5.0
"""Seconds for a second look at a certificate that is not trusted."""


class Dialer:
    """Connects one party to its broker.

    Raises:
        ConfigError: a certificate, key or password cannot be read.
    """

    def __init__(self, address: BrokerAddress, user: str, blocked_timeout: float) -> None:
        self._address, self._user, self._blocked_timeout = address, user, blocked_timeout
        self._parameters = self._make_parameters()

    @property
    def where(self) -> str:
        """host:port/vhost, for messages."""
        return f"{self._address.host}:{self._address.port}/{self._address.vhost}"

    def connect(
        self, ioloop: Any, on_open: Callable[[Any], None], on_error: Callable[[Any, Any], None]
    ) -> WireConnection:
        """Begin a connection on an I/O loop; call on that loop's thread. A proxy's answer is waited for here.

        Args:
            on_error: told of a connection that could not be opened, and of an open one that ended.

        Raises:
            ConfigError: as for the constructor: files may have changed.
            BrokerUnreachable: the proxy does not let us through.
        """
        self._parameters = parameters = self._make_parameters()
        callbacks = {
            "on_open_callback": on_open,
            "on_open_error_callback": on_error,
            "on_close_callback": on_error,
            "custom_ioloop": ioloop,
        }
        if self._address.proxy is None:
            return WireConnection(parameters, **callbacks)
        line = self._open_tunnel()
        tcp_socket_opts.set_sock_opts(parameters.tcp_options, line)
        line.setblocking(False)
        connection = WireConnection(parameters, internal_connection_workflow=False, **callbacks)

        def done(result: Any) -> None:
            if isinstance(result, BaseException):
                on_error(connection, result)

        secured = parameters.ssl_options
        SelectorIOServicesAdapter(ioloop).create_streaming_connection(
            protocol_factory=lambda: base_connection._StreamingProtocolShim(connection),
            sock=line,
            on_done=done,
            ssl_context=None if secured is None else secured.context,
            server_hostname=None if secured is None else secured.server_hostname,
        )

        def check_progress() -> None:
            if not (connection.is_open or connection.is_closed or connection.is_closing):
                on_error(connection, TimeoutError("no welcome in time"))

        ioloop.call_later(HANDSHAKE_WITHIN, check_progress)
        return connection

    def explain(self, error: Any) -> KonsilError:
        """Why a connection could not be made, or broke; a certificate that is not trusted is looked at once more."""
        found = explain_failure(error, self._parameters)
        if isinstance(found, TlsFailed) and found.what == tls.UNKNOWN and (issuer := self._find_issuer()):
            return TlsFailed(
                f"{found.what}, but by {issuer!r}",
                where=found.where,
                advice="If that is a firewall which opens TLS, have IT let this address pass unopened; "
                "else check that ca is the file that the consortium's operator gave out",
            )
        return found

    def _open_tunnel(self) -> socket.socket:
        address = self._address
        way_out = urlsplit(address.proxy or "")
        proxy = Proxy(
            ProxyType.HTTP,
            way_out.hostname or "",
            way_out.port or 0,
            address.proxy_user or None,
            address.resolved_proxy_password() or None,
        )
        by = f"the proxy {way_out.netloc}"
        advice = "Check proxy under [broker], and with IT that it lets us CONNECT to this address"
        try:
            line: socket.socket = proxy.connect(address.host, address.port, timeout=CONNECT_WITHIN)
        except ProxyError as error:
            if error.error_code == 407:
                words = "wants a login" if not address.proxy_user else f"refuses the login {address.proxy_user!r}"
                raise BrokerUnreachable(
                    f"{by} {words}", where=self.where, advice="Set proxy_user and proxy_password under [broker]"
                ) from None
            code = f" ({error.error_code})" if error.error_code else ""
            raise BrokerUnreachable(f"{by} does not let us through{code}", where=self.where, advice=advice) from None
        except ProxyTimeoutError:
            raise BrokerUnreachable(f"{by} did not answer in time", where=self.where, advice=advice) from None
        except (ProxyConnectionError, OSError) as error:
            why = getattr(error, "strerror", None) or "not reachable"
            raise BrokerUnreachable(f"{by} cannot be reached ({why})", where=self.where, advice=advice) from None
        return line

    def _find_issuer(self) -> str | None:
        """Who signed the certificate that answers at the broker's address; None where that is not to be had."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is said on this connection
        with contextlib.suppress(OSError, ValueError, KonsilError):
            line = (
                socket.create_connection((self._address.host, self._address.port), LOOK_WITHIN)
                if self._address.proxy is None
                else self._open_tunnel()
            )
            line.settimeout(LOOK_WITHIN)
            with line, context.wrap_socket(line, server_hostname=self._address.name_in_certificate) as seen:
                certificate = x509.load_der_x509_certificate(seen.getpeercert(binary_form=True) or b"")
            return "".join(char if char.isprintable() else "?" for char in certificate.issuer.rfc4514_string())[:200]
        return None

    def _make_parameters(self) -> Any:
        address = self._address
        credentials: Any = tls.CertificateLogin(self._user)
        if address.login == "password":
            credentials = pika.PlainCredentials(self._user, address.resolved_password())
        return pika.ConnectionParameters(
            host=address.host,
            port=address.port,
            virtual_host=address.vhost,
            credentials=credentials,
            heartbeat=address.heartbeat_seconds,
            frame_max=131072,
            connection_attempts=1,
            socket_timeout=CONNECT_WITHIN,
            stack_timeout=HANDSHAKE_WITHIN,
            blocked_connection_timeout=self._blocked_timeout,
            ssl_options=tls.make_options(address),
            tcp_options={"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3},
            client_properties={"connection_name": f"konsil {self._user}"},
        )
