"""The fault-injecting proxy does what the tests that use it rely on."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from brokers import PATIENCE, eventually
from places import TESTS
from proxy import FaultyProxy


class Echo:
    """A server that sends back what it gets, and ends a connection when its peer does."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.got = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.listener.getsockname()[1])

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                self.got += len(data)
                connection.sendall(data)


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[FaultyProxy]:
    with FaultyProxy(("127.0.0.1", echo.port)) as running:
        yield running


@pytest.fixture
def client(proxy: FaultyProxy) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as connected:
        yield connected


def exchange(client: socket.socket, data: bytes) -> bytes:
    """Send, and read as many bytes back, or what came before the end."""
    sender = threading.Thread(target=lambda: _send(client, data))
    sender.start()
    got = b""
    with contextlib.suppress(ConnectionResetError):  # what a close with unread bytes ends in
        while len(got) < len(data) and (part := client.recv(65536)):
            got += part
    sender.join(PATIENCE)
    return got


def _send(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sendall(data)


def test_without_a_fault_everything_passes(proxy: FaultyProxy, client: socket.socket) -> None:
    data = bytes(range(256)) * 2000
    assert exchange(client, data) == data
    # what is on its way is counted once it is sent: the reader may be first
    eventually(lambda: (proxy.counts.up, proxy.counts.down) == (len(data), len(data)), what="every byte to be counted")
    assert proxy.counts.connections == 1


def test_a_cut_is_a_reset(proxy: FaultyProxy, client: socket.socket) -> None:
    exchange(client, b"x")
    proxy.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    eventually(lambda: proxy.open_connections == 0)


def test_a_cut_in_order_is_an_end_of_file(proxy: FaultyProxy, client: socket.socket) -> None:
    exchange(client, b"x")
    proxy.cut(fin=True)
    assert client.recv(1) == b""


@pytest.mark.parametrize("way", ["up", "down"])
def test_it_cuts_after_exactly_so_many_bytes(proxy: FaultyProxy, client: socket.socket, way: str) -> None:
    exchange(client, bytes(100))
    proxy.cut_after(100_001, "up" if way == "up" else "down", fin=True)
    exchange(client, bytes(300_000))
    assert (proxy.counts.up if way == "up" else proxy.counts.down) == 100_101
    assert proxy.counts.cut == 1


def test_a_half_open_connection_says_nothing_and_stays_silent(proxy: FaultyProxy, client: socket.socket) -> None:
    exchange(client, b"x")
    proxy.half_open()
    client.sendall(b"anybody there?")
    client.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.recv(1)
    proxy.heal()
    with pytest.raises(TimeoutError):
        client.recv(1)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as another:
        assert exchange(another, b"yes") == b"yes"


def test_a_corrupted_byte_is_the_one_that_was_named(proxy: FaultyProxy, client: socket.socket) -> None:
    proxy.corrupt(70_000, "up")
    data = bytes(100_000)
    got = exchange(client, data)
    assert [index for index, byte in enumerate(got) if byte] == [70_000]


def test_a_throttled_line_takes_its_time_and_a_delay_as_well(
    proxy: FaultyProxy, client: socket.socket, echo: Echo
) -> None:
    proxy.throttle(1_000)
    client.sendall(bytes(512))
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):  # 125 bytes a second, 512 at a time, there and back
        client.recv(1)
    proxy.heal()
    eventually(lambda: proxy.counts.down == 512)
    proxy.delay(1.0)
    client.sendall(b"x")

    def there() -> bool:
        down, up = proxy.counts.down, proxy.counts.up  # in this order: time may pass between the two
        assert down == 512 or up == 513
        return up == 513

    eventually(there)
    eventually(lambda: proxy.counts.down == 513)
    assert echo.got == 513


def test_a_line_that_is_down_refuses_until_it_is_healed(proxy: FaultyProxy, client: socket.socket) -> None:
    exchange(client, b"x")
    proxy.refuse()
    with pytest.raises(OSError, match="reset"):
        client.recv(1)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as refused, contextlib.suppress(OSError):
        assert refused.recv(1) == b""
    assert proxy.counts.connections == 1
    proxy.heal()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as again:
        assert exchange(again, b"y") == b"y"


def test_as_a_process_it_obeys_lines(echo: Echo) -> None:
    script = TESTS / "proxy.py"
    with subprocess.Popen(
        [sys.executable, str(script), "127.0.0.1", str(echo.port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        port = json.loads(process.stdout.readline())["port"]
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            assert exchange(client, b"abc") == b"abc"
            process.stdin.write("cut\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["up"] == 3
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
