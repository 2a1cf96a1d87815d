"""pika's connection with fewer copies between the socket and a message's body.

Measured with `benchmarks.broker_ceiling` (1 MiB messages, CPU seconds per GiB in the client, see benchmarks/README.md):

- pika 1.4 sends a body as slices, each joined with its frame's header into a new bytes object, one send(2) each; over
  TLS, where a send takes one record of 16 KiB, it copies the rest of the frame for every record. Here the frames'
  headers and views of the body go out with one sendmsg(2); over TLS (ssl sockets have no sendmsg) a frame is
  joined once and cut as a view.
- pika reads into new bytes objects, appends them to one that grows, cuts each frame out of it, cuts it off its
  front, and joins the frames' payloads: about five copies. Here recv_into(2) fills one buffer, frames are parsed in
  place, and a body is copied once, into the bytes object that is delivered.

Tried: a buffer of 4 MiB filled 1 MiB at a time instead of 2 MiB and 256 KiB: the same time and ten times the page
faults. Over TLS, taking several records (16 KiB each) in one call: no gain, some 1.9 s per GiB stay OpenSSL's and the
kernel's. Not tried: recvmsg(2) straight into the body's place, which saves the last copy (some 0.1 s per GiB), needs a
system call per frame, and hands out a bytearray where everybody expects bytes.

It leans on internals of pika 1.3 and 1.4 (`REQUIRED`). Where one of them is missing, the connection is plain pika:
slower, and right.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import pika
from pika import frame, spec

from messages.bus.amqp.frames import Buffer, FrameReader, cut_frames

READ_SIZE = 256 * 2**10
"""Bytes per recv(2). pika's 4096 would take 256 calls for a 1 MiB chunk."""
BUFFERS = 64
"""Buffers per sendmsg(2); Linux takes up to 1024 (IOV_MAX)."""
REQUIRED = {
    "connection": ("_process_frame", "_send_message", "_on_data_available", "_adapter_emit_data", "_body_max_length"),
    "transport": ("_sigint_safe_recv", "_produce", "_tx_buffers", "_tx_buffered_byte_count", "_MAX_CONSUME_BYTES"),
}
"""What of pika's internals is used here."""


class WireConnection(pika.SelectConnection):  # type: ignore[misc]  # pika has no types: its classes are Any
    """A `SelectConnection` whose message bodies may be given as a tuple of buffers."""

    _reader: FrameReader | None = None
    _encrypted = False

    @property
    def direct(self) -> bool:
        """Whether the short way is in use."""
        return self._reader is not None

    def _proto_connection_made(self, transport: Any) -> None:
        if _has_all(self, REQUIRED["connection"]) and _has_all(transport, REQUIRED["transport"]):
            self._reader = reader = FrameReader()
            self._encrypted = not hasattr(transport._sock, "sendmsg") or hasattr(transport._sock, "cipher")
            transport._MAX_CONSUME_BYTES = 4 * READ_SIZE
            transport._sigint_safe_recv = lambda sock, _most: _receive_into(sock, reader)
            if not self._encrypted:
                transport._produce = lambda: _send_waiting(transport)
        elif hasattr(transport, "_MAX_RECV_BYTES"):
            transport._MAX_RECV_BYTES = READ_SIZE
        super()._proto_connection_made(transport)

    def _on_data_available(self, data: Any) -> None:
        if self._reader is None:
            super()._on_data_available(data)
            return
        # Counted as it comes, not by whole frames: on a slow line the heartbeat's watch must see every byte.
        self.bytes_received += len(data)
        for value in self._reader.read_frames(len(data)):
            self._process_frame(value)

    def publish(self, channel: Any, exchange: str, key: str, pieces: Sequence[Buffer], properties: Any) -> None:
        """`basic_publish` (mandatory) of a body in pieces, which must not change until the broker's confirm.

        Raises:
            pika.exceptions.ChannelWrongStateError: the channel is not open.
        """
        if self._reader is None or not hasattr(channel, "_send_method") or not channel.is_open:
            channel.basic_publish(exchange, key, b"".join(pieces), properties, mandatory=True)
            return
        # basic_publish itself takes nothing but bytes and str
        method = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=True)
        channel._send_method(method, (properties, tuple(pieces)))

    def _send_message(self, channel_number: int, method_frame: Any, content: Any) -> None:
        properties, body = content
        pieces = body if isinstance(body, tuple) else (body,)
        if self._reader is None:
            super()._send_message(channel_number, method_frame, (properties, b"".join(pieces)))
            return
        length = sum(len(piece) for piece in pieces)
        head = frame.Method(channel_number, method_frame).marshal()
        head += frame.Header(channel_number, length, properties).marshal()
        for buffer in cut_frames(channel_number, head, pieces, self._body_max_length, whole=self._encrypted):
            self.bytes_sent += len(buffer)
            self._adapter_emit_data(buffer)
        self.frames_sent += 2 + -(-length // self._body_max_length)


def _has_all(thing: Any, names: tuple[str, ...]) -> bool:
    return all(hasattr(thing, name) for name in names)


def _receive_into(sock: Any, reader: FrameReader) -> memoryview:
    """In place of the transport's recv: what came, as a view; empty at the end of the stream."""
    space = reader.receive_space(READ_SIZE)
    return space[: sock.recv_into(space)]


def _send_waiting(transport: Any) -> None:
    """In place of the plain transport's: send what waits until the socket takes no more.

    Raises:
        OSError: as send(2) has it; BlockingIOError included, which pika expects.
    """
    waiting = transport._tx_buffers
    while waiting:
        offered = list(islice(waiting, BUFFERS))
        sent = transport._sock.sendmsg(offered)
        transport._tx_buffered_byte_count -= sent
        for buffer in offered:
            if sent < len(buffer):
                waiting[0] = memoryview(buffer)[sent:]
                return  # the socket is full: pika asks again when it is not
            sent -= len(buffer)
            waiting.popleft()
