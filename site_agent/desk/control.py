"""The agent's control socket: one JSON object a line in, one out, over a Unix socket in the state directory.

Whoever may enter the state directory (mode 700) may command the agent; nothing else authenticates here.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from messages.ground.errors import KonsilError, RequestError, Unreachable

NAME = "agent.sock"
MAX_LINE = 64 * 1024
WITHIN = 10.0

Handler = Callable[[dict[str, Any]], dict[str, Any]]


@contextlib.contextmanager
def _short_path(folder: Path) -> Any:
    """The socket's path by way of a descriptor: unix(7) allows 107 bytes only, and state directories are longer."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)


class ControlServer:
    """Answers one request a connection; `handler` runs on this server's threads."""

    def __init__(self, state: Path, handler: Handler) -> None:
        self._path = state / NAME
        self._handler = handler
        self._path.unlink(missing_ok=True)  # the lock on the directory says that nobody else listens
        self._socket = socket.socket(socket.AF_UNIX)
        with _short_path(state) as path:
            self._socket.bind(path)
        os.chmod(self._path, 0o600)
        self._socket.listen(8)
        threading.Thread(target=self._accept_connections, name="control", daemon=True).start()

    def _accept_connections(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_connection, args=(connection,), daemon=True).start()

    def _serve_connection(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(WITHIN)
            try:
                request = json.loads(_read_line(connection))
                if not isinstance(request, dict):
                    raise RequestError("a request is one JSON object")
                answer = {"ok": True, **self._handler(request)}
            except KonsilError as error:
                answer = {"ok": False, "error": str(error), "exit_status": error.exit_status}
            except ValueError:
                answer = {"ok": False, "error": "a request is one line of JSON", "exit_status": 2}
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def close(self) -> None:
        """Stop listening. Idempotent."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._path.unlink(missing_ok=True)


def ask_agent(state: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request to the agent that works on this state directory; returns its answer.

    Raises:
        Unreachable: no agent runs there.
        RequestError: the agent refuses the request, or this user may not ask it.
    """
    connection = socket.socket(socket.AF_UNIX)
    with connection:
        connection.settimeout(WITHIN)
        try:
            with _short_path(state) as path:
                connection.connect(path)
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_read_line(connection))
        except PermissionError:
            raise RequestError(
                "no permission to ask the agent", where=str(state), advice="Run this as root or as the agent's user"
            ) from None
        except (OSError, ValueError):
            raise Unreachable(
                "no agent answers",
                where=str(state),
                advice="Start it with `konsil site run`, and use the same site.toml",
            ) from None
    if not answer.get("ok"):
        raise RequestError(str(answer.get("error", "refused")))
    return {key: value for key, value in answer.items() if key != "ok"}


def _read_line(connection: socket.socket) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n") and len(data) < MAX_LINE * 16:
        part = connection.recv(MAX_LINE)
        if not part:
            break
        data += part
    return bytes(data)
