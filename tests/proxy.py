"""A TCP proxy that does to connections what hospital networks do. (Test modules import this as `proxy`.)

In a test::

    with FaultyProxy(("127.0.0.1", node.port)) as proxy:
        connect to proxy.port …
        proxy.cut()

As a process of its own (it takes commands as lines on stdin, and answers each with a JSON line)::

    python tests/proxy.py HOST PORT
    throttle 1000000 | delay 0.2 | half-open | cut [fin] | cut-after 500000 up [fin] | corrupt 1000 down | heal | stats

`up` is from the client to the server, `down` the other way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal

Way = Literal["up", "down"]
PIECE = 64 * 2**10


@dataclass
class Counts:
    """What crossed: bytes each way, connections taken, connections cut by a fault."""

    up: int = 0
    down: int = 0
    connections: int = 0
    cut: int = 0

    def add(self, way: Way, size: int) -> None:
        if way == "up":
            self.up += size
        else:
            self.down += size


@dataclass
class Faults:
    """What is done to bytes now. Changed on the proxy's own thread only."""

    delay: float = 0.0
    bits_per_second: float | None = None
    half_open: bool = False
    refuse: bool = False
    cut_after: dict[Way, int] = field(default_factory=dict)
    reset: bool = True
    corrupt_at: dict[Way, int] = field(default_factory=dict)


class FaultyProxy:
    """Forwards TCP connections to `target`, and breaks them as it is told; every method is thread-safe.

    Args:
        target: host and port of the server.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.counts = Counts()
        self._faults = Faults()
        self._pairs: set[_Pair] = set()
        self._free_at: dict[Way, float] = {"up": 0.0, "down": 0.0}
        self._loop: asyncio.AbstractEventLoop
        self._ready = threading.Event()
        self._port = 0
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def port(self) -> int:
        """Where to connect to, on 127.0.0.1."""
        return self._port

    @property
    def open_connections(self) -> int:
        """How many connections are forwarded now."""
        return len(self._pairs)

    @property
    def idle(self) -> bool:
        """Whether nothing waits for its byte to come by, to be cut after it or corrupted."""
        return not self._faults.cut_after and not self._faults.corrupt_at

    def start(self) -> FaultyProxy:
        """Listen."""
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        self._ready.wait(10.0)
        return self

    def close(self) -> None:
        """Cut everything and end. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10.0)

    def __enter__(self) -> FaultyProxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self, *, fin: bool = False) -> None:
        """Break every connection: with RST, or in order (FIN)."""
        self._do(lambda: self._cut_all(reset=not fin))

    def cut_after(self, size: int, way: Way, *, fin: bool = False) -> None:
        """Break the connection in which the next `size` bytes (counted from now, over all) have crossed one way."""

        def arm() -> None:
            self._faults.cut_after[way] = size
            self._faults.reset = not fin

        self._do(arm)

    def corrupt(self, after: int, way: Way) -> None:
        """Flip the bits of the byte that comes after `after` more bytes one way."""
        self._do(lambda: self._faults.corrupt_at.__setitem__(way, after))

    def half_open(self) -> None:
        """Forward nothing more, and keep the sockets open: a firewall that forgot the connection."""
        self._do(lambda: setattr(self._faults, "half_open", True))

    def refuse(self) -> None:
        """Break every connection, and every new one at once: the line is down."""

        def down() -> None:
            self._faults.refuse = True
            self._cut_all(reset=True)

        self._do(down)

    def delay(self, seconds: float) -> None:
        """Hold each piece (at most 64 KiB, one after the other) back so long, each way: half a round trip."""
        self._do(lambda: setattr(self._faults, "delay", seconds))

    def throttle(self, bits_per_second: float | None) -> None:
        """Forward no faster, each way, all connections of one way together; None: as fast as it goes."""
        self._do(lambda: setattr(self._faults, "bits_per_second", bits_per_second))

    def heal(self) -> None:
        """No fault from now on; what is half open stays silent, as it would."""

        def fresh() -> None:
            for pair in self._pairs:
                pair.dead = pair.dead or self._faults.half_open
            self._faults = Faults()

        self._do(fresh)

    def forget(self) -> None:
        """Close the half-open connections that their client has given up, as a firewall would in time."""

        def given_up() -> None:
            for pair in list(self._pairs):
                if pair.dead and pair.given_up:
                    pair.end(reset=True)

        self._do(given_up)

    def _do(self, action: Callable[[], None]) -> None:
        """Run on the proxy's thread, and return when it is done."""

        async def act() -> None:
            action()

        asyncio.run_coroutine_threadsafe(act(), self._loop).result(10.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(self._listen())
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._cut_all(reset=True)
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._taken, "127.0.0.1", 0, limit=PIECE)
        self._port = server.sockets[0].getsockname()[1]
        return server

    async def _taken(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._faults.refuse:
            writer.transport.abort()
            return
        try:
            upstream = await asyncio.open_connection(*self.target, limit=PIECE)
        except OSError:
            writer.transport.abort()
            return
        self.counts.connections += 1
        pair = _Pair(writer, upstream[1])
        self._pairs.add(pair)
        with contextlib.suppress(asyncio.CancelledError):  # the proxy ends: nobody is to be told
            await self._both_ways(pair, reader, writer, upstream)

    async def _both_ways(
        self,
        pair: _Pair,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        try:
            await asyncio.gather(
                self._forward(pair, "up", reader, upstream[1]), self._forward(pair, "down", upstream[0], writer)
            )
        finally:
            self._pairs.discard(pair)
            pair.end(reset=False)

    async def _forward(self, pair: _Pair, way: Way, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await source.read(self._piece()):
                if (seconds := self._seconds(way, len(data))) > 0:
                    await asyncio.sleep(seconds)
                if pair.dead or self._faults.half_open:
                    pair.dead = True
                    await pair.over.wait()  # for ever: until the proxy ends or cuts
                    return
                data, over = self._spoil(way, data)
                sink.write(data)
                self.counts.add(way, len(data))
                if over:
                    with contextlib.suppress(OSError):
                        await sink.drain()
                    self.counts.cut += 1
                    pair.end(reset=self._faults.reset)
                    return
                await sink.drain()
        with contextlib.suppress(OSError):
            if sink.can_write_eof():
                sink.write_eof()

    def _piece(self) -> int:
        rate = self._faults.bits_per_second
        return PIECE if rate is None else max(512, min(PIECE, int(rate / 8 / 20)))

    def _seconds(self, way: Way, size: int) -> float:
        """How long to hold a piece back; one line for all connections, so a rate is shared."""
        rate, now = self._faults.bits_per_second, self._loop.time()
        if rate is None:
            return self._faults.delay
        self._free_at[way] = max(self._free_at[way], now) + size * 8 / rate
        return self._faults.delay + self._free_at[way] - now

    def _spoil(self, way: Way, data: bytes) -> tuple[bytes, bool]:
        """The bytes as they leave, and whether the connection ends after them."""
        faults = self._faults
        if (at := faults.corrupt_at.get(way)) is not None:
            if at < len(data):
                del faults.corrupt_at[way]
                data = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
            else:
                faults.corrupt_at[way] = at - len(data)
        if (left := faults.cut_after.get(way)) is not None:
            if left <= len(data):
                del faults.cut_after[way]
                return data[:left], True
            faults.cut_after[way] = left - len(data)
        return data, False

    def _cut_all(self, *, reset: bool) -> None:
        for pair in list(self._pairs):
            self.counts.cut += 1
            pair.end(reset=reset)


class _Pair:
    """One forwarded connection."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.dead = False
        self.over = asyncio.Event()
        self._writers = (client, server)

    @property
    def given_up(self) -> bool:
        """Whether the client has closed its end (tcp(7), TCP_INFO; the first byte is the state, 1 is established)."""
        sock = self._writers[0].get_extra_info("socket")
        with contextlib.suppress(OSError):
            return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 1)
        return True

    def end(self, *, reset: bool) -> None:
        """Close both sockets; with RST where `reset` (SO_LINGER of 0 seconds, socket(7))."""
        self.over.set()
        for writer in self._writers:
            if reset:
                sock = writer.get_extra_info("socket")
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()


def obey(proxy: FaultyProxy, words: list[str]) -> None:
    """One command of the module's docstring; KeyError for another."""
    fin = "fin" in words
    commands: dict[str, Callable[[], None]] = {
        "cut": lambda: proxy.cut(fin=fin),
        "cut-after": lambda: proxy.cut_after(int(words[1]), _way(words[2]), fin=fin),
        "corrupt": lambda: proxy.corrupt(int(words[1]), _way(words[2])),
        "half-open": proxy.half_open,
        "refuse": proxy.refuse,
        "delay": lambda: proxy.delay(float(words[1])),
        "throttle": lambda: proxy.throttle(float(words[1]) or None),
        "heal": proxy.heal,
        "stats": lambda: None,
    }
    commands[words[0]]()


def _way(word: str) -> Way:
    return "up" if word == "up" else "down"


def main(arguments: list[str]) -> None:
    """Serve until stdin ends."""
    with FaultyProxy((arguments[0], int(arguments[1]))) as proxy:
        print(json.dumps({"port": proxy.port}), flush=True)  # noqa: T201 - the protocol of this process
        for line in sys.stdin:
            obey(proxy, line.split())
            print(json.dumps(asdict(proxy.counts) | {"open": proxy.open_connections}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
