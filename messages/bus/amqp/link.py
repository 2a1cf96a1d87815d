"""One AMQP connection on an I/O thread of its own, which comes back by itself until it is closed.

pika's connections belong to one thread (pika FAQ); everything that others want done on it goes through
`Link.call_soon`, coalesced so that one wake-up of the loop carries any number of calls.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from pika.adapters.select_connection import IOLoop

from messages.bus.amqp.backlog import Backlog
from messages.bus.amqp.dialing import Dialer
from messages.bus.base import BusState, Notice
from messages.ground.errors import BrokerUnreachable, KonsilError, LoginRefused, TlsFailed

CLOSE_WITHIN = 5.0


@dataclass(frozen=True)
class Backoff:
    """Exponential back-off with jitter: between half and the whole of `first`·2^n, at most `most`; seconds."""

    first: float = 1.0
    most: float = 30.0
    random: random.Random = field(default_factory=random.SystemRandom)

    def delay_after(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row (1, 2, …)."""
        whole = min(self.most, self.first * 2.0 ** min(failures - 1, 16))
        return float(whole * self.random.uniform(0.5, 1.0))


class LinkUser(Protocol):
    """What lives on a link; both methods are called on its I/O thread."""

    def on_up(self, connection: Any) -> None:
        """The connection is open: make channels."""

    def on_down(self) -> None:
        """The connection is gone, with its channels."""


class Link:
    """A connection that is kept up.

    Args:
        name: for the thread and for notices.
        dialer: makes each connection.
        on_notice: called on the I/O thread with changes of state.
    """

    def __init__(
        self,
        name: str,
        dialer: Dialer,
        backoff: Backoff,
        on_notice: Callable[[Link, Notice], None],
    ) -> None:
        self.name = name
        self.users: list[LinkUser] = []
        self.backlog = Backlog()
        self._dialer = dialer
        self._backoff = backoff
        self._on_notice = on_notice
        self._changed = threading.Condition()
        self._calls: list[Callable[[], None]] = []
        self._woken = False
        self._ioloop: Any = None
        self._connection: Any = None
        self._opened = False
        self._cpu = 0.0
        self._closing = False
        self._error: KonsilError | None = None
        self._thread = threading.Thread(target=self._run_connection, name=f"bus-{name}", daemon=True)

    @property
    def address(self) -> str:
        """host:port/vhost, for messages."""
        return self._dialer.where

    @property
    def connection(self) -> Any:
        """The open connection or None; I/O thread only."""
        return self._connection if self._opened else None

    @property
    def on_own_thread(self) -> bool:
        """Whether the caller is this link's I/O thread."""
        return threading.current_thread() is self._thread

    def cpu_seconds(self) -> float:
        """CPU time of the I/O thread since it was last asked for; call from that thread only."""
        before, self._cpu = self._cpu, time.thread_time()
        return self._cpu - before

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def wait_up(self, timeout: float) -> None:
        """Wait for the first connection.

        Raises:
            LoginRefused: as soon as the broker refuses the login.
            TlsFailed: as soon as a TLS handshake fails for a reason that will not go away.
            BrokerUnreachable: nothing answered within `timeout` seconds (refused connections are tried again).
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._opened or self._closing or isinstance(self._error, (LoginRefused, TlsFailed)), timeout
            )
            if self._opened:
                return
            raise self._error or BrokerUnreachable(
                f"the broker did not answer within {timeout:.0f} s",
                where=self.address,
                advice="Check that it runs and that host and port are right",
            )

    def call_soon(self, function: Callable[[], None]) -> None:
        """Run `function` on the I/O thread soon; dropped where the connection is down or breaks before."""
        with self._changed:
            if not self._opened:
                return
            self._calls.append(function)
            if not self._woken:
                self._woken = True
                self._ioloop.add_callback_threadsafe(self._run_calls)

    def call_later(self, delay: float, function: Callable[[], None]) -> None:
        """Run `function` on the I/O thread after `delay` seconds; call from that thread only."""
        if self._ioloop is not None:
            self._ioloop.call_later(delay, function)

    def add_user(self, user: LinkUser) -> None:
        """Put something on this link; it is told at once if the connection is open."""
        with self._changed:
            self.users.append(user)
            self.call_soon(lambda: user.on_up(self._connection))

    def remove_user(self, user: LinkUser) -> None:
        """Take it off."""
        with self._changed:
            if user in self.users:
                self.users.remove(user)

    def close(self) -> None:
        """Close the connection and end the thread; idempotent."""
        with self._changed:
            self._closing = True
            if self._ioloop is not None:
                self._ioloop.add_callback_threadsafe(self._shut_connection)
            self._changed.notify_all()
        if self.on_own_thread or not self._thread.is_alive():
            return
        self._thread.join(CLOSE_WITHIN)
        with self._changed:
            if self._ioloop is not None:
                self._ioloop.add_callback_threadsafe(self._ioloop.stop)
        self._thread.join(CLOSE_WITHIN)

    def _run_connection(self) -> None:
        failures = 0
        while True:
            was_open = self._one_connection()
            if self._closing:
                break
            failures = 1 if was_open else failures + 1
            delay = self._backoff.delay_after(failures)
            state = BusState.REFUSED if isinstance(self._error, LoginRefused) else BusState.LOST
            self._on_notice(self, Notice(state, f"{self.name}: {self._error}", delay))
            with self._changed:
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closing, delay)
        with self._changed:
            self._changed.notify_all()

    def _one_connection(self) -> bool:
        """Connect and serve until the connection ends; returns whether it was ever open."""
        with self._changed:
            if self._closing:
                return False
            ioloop: Any = IOLoop()
            self._ioloop, self._woken = ioloop, False
            self._calls.clear()
        try:
            self._connection = self._dialer.connect(ioloop, self._opened_now, self._note_end)
            ioloop.start()
        except Exception as error:  # noqa: BLE001 - the thread must live: whatever broke, the connection is done for
            self._error = self._dialer.explain(error)
        with self._changed:
            was_open, self._opened = self._opened, False
            self._ioloop = None
            self._calls.clear()
            users = list(self.users)
        if was_open:
            for user in users:
                user.on_down()
        ioloop.close()
        self._connection = None
        return was_open

    def _opened_now(self, connection: Any) -> None:
        connection.add_on_connection_blocked_callback(
            lambda _c, _m: self._on_notice(self, Notice(BusState.BLOCKED, self.name))
        )
        connection.add_on_connection_unblocked_callback(
            lambda _c, _m: self._on_notice(self, Notice(BusState.UNBLOCKED, self.name))
        )
        with self._changed:
            self._opened, self._error = True, None
            users = list(self.users)
            self._changed.notify_all()
        self._on_notice(self, Notice(BusState.CONNECTED, self.name))
        for user in users:
            user.on_up(connection)

    def _note_end(self, connection: Any, error: Any) -> None:
        self._error = self._dialer.explain(error)
        connection.ioloop.stop()

    def _run_calls(self) -> None:
        with self._changed:
            calls, self._calls = self._calls, []
            self._woken = False
        for function in calls:
            function()

    def _shut_connection(self) -> None:
        connection = self._connection
        if connection is not None and not connection.is_closing and not connection.is_closed:
            connection.close()  # also while it opens; `_note_end` stops the loop
