"""The service manager's side of a service: readiness, status and watchdog over `$NOTIFY_SOCKET` (sd_notify(3))."""

from __future__ import annotations

import os
import socket


def notify_manager(state: str) -> bool:
    """Tell the service manager, for instance "READY=1", "STATUS=round 3", "WATCHDOG=1", "STOPPING=1".

    Returns whether somebody was told; without a service manager, or with one that does not listen, nothing happens:
    no service may fail because its supervisor does not hear it.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address or address[0] not in "/@":
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.settimeout(1.0)
            channel.connect(address)
            channel.sendall(state.encode())
    except OSError:
        return False
    return True


def watchdog_interval() -> float | None:
    """Seconds after which to say WATCHDOG=1 (half of what the manager waits); None where it does not wait for us."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 2e6 or None
