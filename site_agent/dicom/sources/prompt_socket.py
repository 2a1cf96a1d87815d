"""Sockets of associations that keep no sender waiting: both ends of pynetdicom's go through here.

A PACS writes the parts of a message one by one, and by Nagle's algorithm (RFC 896) a small part leaves only once the
part before it is acknowledged. The kernel delays that by up to 40 ms, as it may (RFC 1122, 4.2.3.2), for each object
anew. So each receive is acknowledged at once (TCP_QUICKACK, which Linux takes back by itself: tcp(7)), and our own
parts leave at once (TCP_NODELAY). Where an option does not exist, the line is as slow as it was.

pynetdicom looks for what came once a millisecond and sleeps in between; here it waits for the line in that time, and
goes on as soon as something comes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from typing import Any

from pynetdicom import evt
from pynetdicom.transport import AssociationSocket

PIECE = 256 * 1024
"""Bytes asked for at a time: a whole PDU of ours; pynetdicom asks for 4096."""
WAIT = 0.001
"""Seconds that the line is waited for at a time: pynetdicom's thread has own messages to send, and timers."""
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class PromptSocket(AssociationSocket):  # type: ignore[misc]  # pynetdicom is skipped by mypy
    """An association's socket, promptly acknowledging."""

    @property
    def ready(self) -> bool:
        """Whether something came, or comes within `WAIT`."""
        line = self.socket
        if line is None or not self._is_connected:
            time.sleep(WAIT)  # whoever asks asks again at once
            return False
        if isinstance(line, ssl.SSLSocket) and line.pending():
            return True
        try:
            return bool(select.select([line], [], [], WAIT)[0])
        except (OSError, ValueError):  # closed meanwhile
            self.event_queue.put("Evt17")  # transport connection closed (PS3.8, 9.2)
            return False

    def recv(self, nr_bytes: int) -> bytearray:
        """So many bytes, fewer where the connection ends before.

        Raises:
            OSError: the connection broke.
        """
        came = bytearray()
        line = self.socket
        while line is not None and len(came) < nr_bytes:
            piece = line.recv(min(PIECE, nr_bytes - len(came)))
            if not piece:
                break
            acknowledge_at_once(line)
            came += piece
        return came


def acknowledge_at_once(line: socket.socket) -> None:
    """Have the kernel acknowledge now what came; to be said again after each receive."""
    if _QUICKACK is not None:
        with contextlib.suppress(OSError):  # a sandbox's TCP may not know it, and the line may be gone
            line.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def hasten_association(event: Any) -> None:
    """Make an association's socket prompt; pynetdicom's handler of EVT_CONN_OPEN, before anything was received."""
    made = event.assoc.dul.socket
    made.__class__ = PromptSocket  # pynetdicom makes it deep within, and asks nobody which
    event.assoc.dul._run_loop_delay = 0  # `ready` waits in its stead
    with contextlib.suppress(OSError):
        made.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    acknowledge_at_once(made.socket)


HASTEN = (evt.EVT_CONN_OPEN, hasten_association)
"""To be among the event handlers of each association."""
