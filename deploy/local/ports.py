"""Free ports for servers that take them some seconds after they were chosen, or again after a pause."""

from __future__ import annotations

import random
import socket

from messages.ground.errors import Unreachable

RANGE = range(20_000, 32_000)
"""Below those that Linux hands out to whoever binds to port 0 or connects (ip(7), ip_local_port_range: 32768 and on).
One of those may be another process's by the time a server has started, or while it is stopped."""


def hold_free_port(host: str) -> socket.socket:
    """A socket bound to a free port, which nobody else can take until it is closed.

    Args:
        host: the address to bind to; "" is every interface.

    Raises:
        Unreachable: none of those that were tried is free.
    """
    for port in random.sample(RANGE, 200):
        sock = socket.socket()
        try:
            sock.bind((host, port))
        except OSError:
            sock.close()
            continue
        return sock
    raise Unreachable(
        "no port is free on this machine",
        where=f"{host or '*'}:{RANGE[0]}-{RANGE[-1]}",
        advice="End what listens there",
    )
