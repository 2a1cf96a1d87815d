"""From pika's and the socket's exceptions to ours: one clear sentence each."""

from __future__ import annotations

import re
import socket
from typing import Any

from pika import exceptions

from messages.bus.amqp import tls
from messages.ground.errors import BrokerUnreachable, KonsilError, LoginRefused, RequestError

ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED = 403, 404, 406
"""Reply codes (AMQP 0-9-1, section 1.2)."""


def explain_failure(error: Any, parameters: Any) -> KonsilError:
    """Why a connection could not be made, or broke."""
    if isinstance(error, KonsilError):
        return error
    where = f"{parameters.host}:{parameters.port}/{parameters.virtual_host}"
    text = _error_text(error)
    if re.search(r"NOT_ALLOWED.*limit \(\d+\) is reached", text):  # of the user, or of the vhost
        return BrokerUnreachable(
            f"the broker has as many connections of {parameters.credentials.username!r} as it allows",
            where=where,
            advice="Those of a line that was cut last a minute. Else see who else uses this login",
        )
    if "NOT_ALLOWED" in text and "vhost" in text:
        what = f"the broker does not let {parameters.credentials.username!r} into {parameters.virtual_host!r}"
        return LoginRefused(what, where=where, advice="Check the consortium's name (vhost) and the user's permissions")
    if "ACCESS_REFUSED" in text or isinstance(error, exceptions.AuthenticationError):
        by_certificate = isinstance(parameters.credentials, tls.CertificateLogin)
        return LoginRefused(
            f"the broker refuses the login {parameters.credentials.username!r}",
            where=where,
            advice="It goes by the name in our certificate. Ask the consortium's operator whether it was revoked"
            if by_certificate
            else 'Check user and password in the configuration, or whether it wants login = "certificate"',
        )
    if failed := tls.explain_tls_failure(_list_causes(error), _name_in_certificate(parameters), where):
        return failed
    if isinstance(error, exceptions.IncompatibleProtocolError):
        return _no_amqp(parameters, where)
    if isinstance(error, exceptions.AMQPHeartbeatTimeout):
        return BrokerUnreachable("the broker has not been heard of for some heartbeats", where=where)
    return BrokerUnreachable(
        f"the broker is not reachable ({_closing_reason(error)})",
        where=where,
        advice="Check that it runs and that host and port are right",
    )


def _no_amqp(parameters: Any, where: str) -> BrokerUnreachable:
    """The connection was made and ended before the broker said a word of AMQP."""
    if parameters.ssl_options is None:
        return BrokerUnreachable(
            "what answers on this port does not speak plain AMQP",
            where=where,
            advice="If it is the broker's TLS port, add ca under [broker]; otherwise check host and port",
        )
    return BrokerUnreachable(
        "the broker hung up right after the TLS handshake",
        where=where,
        advice="If it asks for a certificate of ours, name it with cert and key under [broker]",
    )


def channel_error(reply_code: int, reply_text: str, where: str) -> KonsilError:
    """Why the broker closed a channel (AMQP 0-9-1, channel.close)."""
    if reply_code == ACCESS_REFUSED:
        return LoginRefused(
            f"the broker refuses this ({_strip_reply(reply_text)})",
            where=where,
            advice="Ask the consortium's operator for the permission",
        )
    if reply_code == NOT_FOUND:
        return RequestError(
            f"the broker does not know this ({_strip_reply(reply_text)})",
            where=where,
            advice="Topology comes from the broker's definitions: render and load them again",
        )
    return RequestError(f"the broker closed the channel ({_strip_reply(reply_text)})", where=where)


def refused_topic(reply_text: str) -> str | None:
    """The routing key that a 403 names, if it names one."""
    found = re.search(r"access to topic '([^']+)'", reply_text)
    return found.group(1) if found else None


def read_oversize(reply_text: str) -> int | None:
    """The size of the message that a 406 finds too large, if that is its reason."""
    found = re.search(r"message size (\d+)", reply_text)
    return int(found.group(1)) if found else None


def in_exclusive_use(reply_code: int, reply_text: str) -> bool:
    """Whether a consumer was refused because another one holds the queue for itself."""
    return reply_code == ACCESS_REFUSED and "exclusive use" in reply_text


def still_recovering(reply_code: int, reply_text: str) -> bool:
    """Whether a queue exists and only is not ready: streams come up some seconds after a broken-down broker."""
    return reply_code == NOT_FOUND and "down or inaccessible" in reply_text


def _strip_reply(reply_text: str) -> str:
    return reply_text.partition(" - ")[2] or reply_text


def _name_in_certificate(parameters: Any) -> str:
    options = parameters.ssl_options
    return str(parameters.host if options is None else options.server_hostname)


def _list_causes(error: Any) -> list[Any]:
    """The error and those that pika wrapped in it."""
    found, todo = [], [error]
    while todo:
        one = todo.pop()
        if one is None or one in found:
            continue
        found.append(one)
        todo += [getattr(one, "exception", None), getattr(one, "__cause__", None)]
        todo += list(getattr(one, "exceptions", []) or [])
        todo += [arg for arg in getattr(one, "args", ()) if isinstance(arg, BaseException)]
    return found


def _error_text(error: Any) -> str:
    return " ".join(repr(one) for one in _list_causes(error))


def _closing_reason(error: Any) -> str:
    for one in reversed(_list_causes(error)):
        if isinstance(one, socket.gaierror):
            return "its name does not resolve"
        if isinstance(one, OSError):
            return one.strerror or type(one).__name__
    return type(error).__name__
