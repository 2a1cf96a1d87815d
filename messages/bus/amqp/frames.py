"""AMQP frames without copies: cutting a body into frames to be sent, and reading frames in place. No I/O.

A frame is type (1 byte), channel (2), size (4), payload, 0xCE (AMQP 0-9-1, section 4.2.3). A message is a method
frame, a content header with the body's size, and body frames (section 4.2.6).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from pika import exceptions, frame, spec

Buffer = bytes | memoryview

_HEAD = struct.Struct(">BHI")
_END = b"\xce"
_OVERHEAD = _HEAD.size + len(_END)
SMALL = 8192
"""A body up to this many bytes is copied into one buffer with its frames: cheaper than a list of pieces."""


def cut_frames(channel: int, head: bytes, pieces: Sequence[Buffer], most: int, *, whole: bool = False) -> list[Buffer]:
    """What goes onto the wire for one message, in order, as buffers that refer to `pieces`.

    Args:
        channel: channel number.
        head: method and content header, marshalled.
        pieces: the body; each C-contiguous, of format "B".
        most: bytes of body in one frame (frame_max - 8).
        whole: copy each frame into one buffer (TLS makes a record of each write, so slivers cost).
    """
    left = sum(len(piece) for piece in pieces)
    frames: list[list[Buffer]] = []
    room = 0
    for piece in pieces:
        view = memoryview(piece)
        while view:
            if not room:
                room = min(most, left)
                left -= room
                frames.append([_HEAD.pack(spec.FRAME_BODY, channel, room)])
            part, view = view[:room], view[room:]
            room -= len(part)
            frames[-1].append(part)
    if whole or sum(len(piece) for piece in pieces) <= SMALL:
        joined = [b"".join((*parts, _END)) for parts in frames]
        if joined:
            joined[0] = head + joined[0]
        return [memoryview(one) for one in joined or [head]]
    out: list[Buffer] = []
    before = head
    for opening, *parts in frames:
        out += [before + opening, *parts]
        before = _END
    out.append(before)
    return out


class FrameReader:
    """Parses frames where recv_into(2) put them, and joins the body frames of a message with a single copy.

    Use: receive into `receive_space()`, then take the frames of `read_frames(count)`. A message's body comes as one
    Body frame, whatever number of frames carried it; all other frames come as they are.

    Args:
        frame_max: the largest frame, as negotiated.
        size: bytes of the buffer; at least two frames.
    """

    def __init__(self, frame_max: int = 131072, size: int = 2 * 2**20) -> None:
        self._frame_max = frame_max
        # Anonymous memory takes no page before it is written to: a connection that carries events stays small.
        self._view = memoryview(mmap.mmap(-1, max(size, 2 * frame_max)))
        self._start = self._end = 0
        self._bodies: dict[int, _Body] = {}

    def receive_space(self, most: int) -> memoryview:
        """Where to receive to: between 1 and `most` bytes."""
        if self._start == self._end or len(self._view) - self._start < self._frame_max or self._end == len(self._view):
            self._rewind_buffer()
        return self._view[self._end : self._end + most]

    def read_frames(self, count: int) -> Iterator[Any]:
        """The frames that are complete now that `count` bytes were received.

        Raises:
            pika.exceptions.InvalidFrameError: not a frame, or larger than was negotiated.
            pika.exceptions.UnexpectedFrameError: a method or header where a body has to go on.
            pika.exceptions.BodyTooLongError: more body than announced.
        """
        self._end += count
        while self._end - self._start >= _HEAD.size:
            if bytes(self._view[self._start : self._start + 4]) == b"AMQP":
                # The broker's version, in answer to a protocol that it does not speak (section 4.2.2).
                if self._end - self._start < 8:
                    return
                self._start += 8
                yield frame.ProtocolHeader(*self._view[self._start - 3 : self._start])
                continue
            kind, channel, size = _HEAD.unpack_from(self._view, self._start)
            if size + _OVERHEAD > self._frame_max:
                raise exceptions.InvalidFrameError(f"a frame of {size} bytes")
            first = self._start + _HEAD.size
            last = first + size
            if last >= self._end:
                return
            if self._view[last] != spec.FRAME_END:
                raise exceptions.InvalidFrameError("Invalid FRAME_END marker")
            self._start = last + 1
            if kind == spec.FRAME_BODY:
                if (body := self._on_body(channel, first, last)) is not None:
                    yield frame.Body(channel, body)
            else:
                value = self._read_other_frame(kind, channel, first, last)
                if value is not None:
                    yield value

    def _read_other_frame(self, kind: int, channel: int, first: int, last: int) -> Any:
        if channel in self._bodies:
            # Also what a corrupted size ends in: better no connection than two messages in one.
            raise exceptions.UnexpectedFrameError(f"frame type {kind} on channel {channel} within a body")
        raw = bytes(self._view[first - _HEAD.size : last + 1])
        _consumed, value = frame.decode_frame(raw)
        if isinstance(value, frame.Header) and value.body_size:
            self._bodies[channel] = _Body(value.body_size)
        return value

    def _on_body(self, channel: int, first: int, last: int) -> bytes | None:
        body = self._bodies.get(channel)
        if body is None:
            raise exceptions.UnexpectedFrameError(f"a body on channel {channel} without a header")
        body.parts.append(self._view[first:last])
        body.left -= last - first
        if body.left < 0:
            raise exceptions.BodyTooLongError(body.size - body.left, body.size)
        if body.left:
            return None
        del self._bodies[channel]
        return b"".join(body.parts)

    def _rewind_buffer(self) -> None:
        """Back to the buffer's beginning; what refers to its bytes gets a copy first."""
        for body in self._bodies.values():
            body.copy_content()
        rest = bytes(self._view[self._start : self._end])
        self._view[: len(rest)] = rest
        self._start, self._end = 0, len(rest)


class _Body:
    """A body whose frames have begun to come; the parts refer to the buffer until `copy_content`."""

    __slots__ = ("left", "parts", "size")

    def __init__(self, size: int) -> None:
        self.size = self.left = size
        self.parts: list[Buffer] = []

    def copy_content(self) -> None:
        self.parts = [part if isinstance(part, bytes) else bytes(part) for part in self.parts]
