"""Ports that servers take some seconds after they were chosen."""

from __future__ import annotations

import socket

import pytest

from deploy.local import ports
from messages.ground.errors import Unreachable

HANDED_OUT = 32768
"""The first that Linux hands out unless it is told otherwise (ip(7), ip_local_port_range)."""


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_port_is_held_until_it_is_closed_and_is_none_that_the_kernel_hands_out(host: str) -> None:
    with ports.hold_free_port(host) as sock:
        port = sock.getsockname()[1]
        assert port < HANDED_OUT
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


def test_where_all_are_taken_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with ports.hold_free_port("127.0.0.1") as sock:
        monkeypatch.setattr(ports, "RANGE", [sock.getsockname()[1]] * 200)
        with pytest.raises(Unreachable, match="no port is free"):
            ports.hold_free_port("127.0.0.1")
