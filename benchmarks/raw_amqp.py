"""The least that speaks AMQP 0-9-1: a blocking socket that publishes and reads bodies and does nothing else with them.

It shows what the broker can carry, not what a client costs: no threads, no reconnecting, no properties, no checks.
pika only marshals the few methods of the handshake.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any

import pika
from pika import frame, spec

from messages import names

FRAME = 131072
"""Negotiated frame size (frame_max)."""
CHANNELS = 16
"""Fewer than a consortium's broker allows."""
_HEADER = struct.Struct(">BHI")
_READ = 2**20


class RawClient:
    """One connection with one channel.

    Args:
        vhost, user: without a password it is "pw-USER", as in the benchmark's definitions.
    """

    def __init__(self, host: str, port: int, vhost: str, user: str, password: str | None = None) -> None:
        self._user = user
        self._socket = socket.create_connection((host, port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(4 * _READ)
        self._start = self._end = 0
        self._socket.sendall(b"AMQP\x00\x00\x09\x01")
        self._expect(spec.Connection.Start)
        self._send(0, spec.Connection.StartOk({}, "PLAIN", f"\0{user}\0{password or f'pw-{user}'}".encode(), "en_US"))
        self._expect(spec.Connection.Tune)
        self._send(0, spec.Connection.TuneOk(CHANNELS, FRAME, 0))
        self._rpc(0, spec.Connection.Open(vhost), spec.Connection.OpenOk)
        self._rpc(1, spec.Channel.Open(), spec.Channel.OpenOk)

    def publish(self, key: str, body: bytes, count: int, window: int = 16) -> None:
        """Publish the same body `count` times, at most `window` unconfirmed; returns with the last confirm."""
        self._rpc(1, spec.Confirm.Select(), spec.Confirm.SelectOk)
        properties = pika.BasicProperties(delivery_mode=2, user_id=self._user)
        method = frame.Method(1, spec.Basic.Publish(0, names.exchange_of(self._user), key)).marshal()
        pieces: list[Any] = [method + frame.Header(1, len(body), properties).marshal()]
        view = memoryview(body)
        for start in range(0, len(body), FRAME - 8):
            part = view[start : start + FRAME - 8]
            pieces += [_HEADER.pack(3, 1, len(part)), part, b"\xce"]
        confirmed = 0
        for number in range(count):
            while number - confirmed >= window:
                confirmed = self._next_confirm()
            self._send_all(pieces)
        while confirmed < count:
            confirmed = self._next_confirm()

    def pour(self, key: str, bodies: Sequence[bytes]) -> None:
        """Publish without waiting for anything but the socket."""
        properties = pika.BasicProperties(delivery_mode=2, user_id=self._user)
        method = frame.Method(1, spec.Basic.Publish(0, names.exchange_of(self._user), key)).marshal()
        pieces: list[bytes] = []
        for body in bodies:
            pieces.append(method + frame.Header(1, len(body), properties).marshal())
            for start in range(0, len(body), FRAME - 8):
                part = body[start : start + FRAME - 8]
                pieces.append(_HEADER.pack(3, 1, len(part)) + part + b"\xce")
        self._socket.sendall(b"".join(pieces))

    def subscribe(self, queues: Sequence[str], start: str, credit: int = 64) -> None:
        """Begin to read streams from their "first" message or from the "next" one."""
        self._rpc(1, spec.Basic.Qos(0, credit, False), spec.Basic.QosOk)
        for queue in queues:
            arguments = {"x-stream-offset": start}
            self._rpc(1, spec.Basic.Consume(0, queue, queue, arguments=arguments), spec.Basic.ConsumeOk)

    def consume(self, wanted: int) -> int:
        """Take `wanted` bytes of bodies; returns how many bytes came."""
        got = whole = delivered = 0
        while got < wanted:
            kind, payload = self._frame()
            if kind == spec.FRAME_METHOD:
                delivered = _delivery_tag(payload)
                whole = 0
            elif kind == spec.FRAME_HEADER:
                whole = struct.unpack_from(">Q", payload, 4)[0]
            else:
                got += len(payload)
                whole -= len(payload)
                if not whole and delivered % 16 == 0:
                    self._send(1, spec.Basic.Ack(delivered, True))
        return got

    def close(self) -> None:
        """Cut the connection."""
        self._socket.close()

    def _send(self, channel: int, method: Any) -> None:
        self._socket.sendall(frame.Method(channel, method).marshal())

    def _send_all(self, pieces: Sequence[Any]) -> None:
        rest = list(pieces)
        while rest:
            sent = self._socket.sendmsg(rest)
            while rest and sent >= len(rest[0]):
                sent -= len(rest.pop(0))
            if sent:
                rest[0] = memoryview(rest[0])[sent:]

    def _rpc(self, channel: int, method: Any, reply: Any) -> None:
        self._send(channel, method)
        self._expect(reply)

    def _expect(self, method: Any) -> None:
        kind, payload = self._frame()
        if kind != spec.FRAME_METHOD or struct.unpack_from(">I", payload)[0] != method.INDEX:
            raise RuntimeError(f"the broker did not answer with {method.NAME}: {bytes(payload[:200])!r}")

    def _next_confirm(self) -> int:
        kind, payload = self._frame()
        if kind != spec.FRAME_METHOD or struct.unpack_from(">I", payload)[0] != spec.Basic.Ack.INDEX:
            raise RuntimeError(f"no confirm but {bytes(payload[:200])!r}")
        return int(struct.unpack_from(">Q", payload, 4)[0])

    def _frame(self) -> tuple[int, memoryview]:
        """The next frame's type and payload; the payload is valid until the next call."""
        self._need(7)
        kind, _channel, size = _HEADER.unpack_from(self._buffer, self._start)
        self._need(7 + size + 1)
        payload = memoryview(self._buffer)[self._start + 7 : self._start + 7 + size]
        self._start += 7 + size + 1
        return kind, payload

    def _need(self, size: int) -> None:
        if self._end - self._start >= size:
            return
        if self._start + size > len(self._buffer) or self._start == self._end:
            held = self._buffer[self._start : self._end]
            self._buffer[: len(held)] = held
            self._start, self._end = 0, len(held)
        while self._end - self._start < size:
            count = self._socket.recv_into(memoryview(self._buffer)[self._end : self._end + _READ])
            if not count:
                raise RuntimeError("the broker closed the connection")
            self._end += count


def _delivery_tag(payload: memoryview) -> int:
    """The tag of a Basic.Deliver: class, method, consumer tag (short string), tag."""
    return int(struct.unpack_from(">Q", payload, 5 + payload[4])[0])
