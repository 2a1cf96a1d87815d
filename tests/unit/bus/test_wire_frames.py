"""AMQP frames in place: the same as pika's own, whatever way the bytes come in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties, exceptions, frame, spec

from messages.bus.amqp.frames import FrameReader, cut_frames

FRAME_MAX = 4096


def message(channel: int, body: bytes, most: int = FRAME_MAX - 8) -> bytes:
    """One delivery as pika's own classes marshal it."""
    method = frame.Method(channel, spec.Basic.Deliver("c", 1, False, "x", "key"))
    parts = [method.marshal(), frame.Header(channel, len(body), BasicProperties(delivery_mode=2)).marshal()]
    parts += [frame.Body(channel, body[start : start + most]).marshal() for start in range(0, len(body), most)]
    return b"".join(parts)


def read(reader: FrameReader, data: bytes, pieces: list[int] | None = None) -> list[Any]:
    """Feed the reader in pieces of the given sizes (in turn), and collect the frames."""
    found: list[Any] = []
    sizes = pieces or [len(data) or 1]
    turn = 0
    while data:
        space = reader.receive_space(sizes[turn % len(sizes)])
        part, data = data[: len(space)], data[len(space) :]
        space[: len(part)] = part
        found += reader.read_frames(len(part))
        turn += 1
    return found


bodies = st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=3 * FRAME_MAX)), max_size=6)


@given(bodies, st.lists(st.integers(1, 9000), min_size=1, max_size=8))
def test_bodies_are_whole_however_the_bytes_come_in(messages: list[tuple[int, bytes]], pieces: list[int]) -> None:
    wire = b"".join(message(channel, body) + frame.Heartbeat().marshal() for channel, body in messages)
    found = read(FrameReader(FRAME_MAX, size=3 * FRAME_MAX), wire, pieces)
    got = [(one.channel_number, one.fragment) for one in found if isinstance(one, frame.Body)]
    assert got == [(channel, body) for channel, body in messages if body]
    assert sum(isinstance(one, frame.Heartbeat) for one in found) == len(messages)
    assert [one.body_size for one in found if isinstance(one, frame.Header)] == [len(body) for _, body in messages]


@given(st.lists(st.binary(max_size=9000), max_size=5), st.booleans(), st.integers(1, FRAME_MAX))
def test_cut_frames_are_the_bytes_that_pika_sends(pieces: list[bytes], whole: bool, most: int) -> None:
    body = b"".join(pieces)
    head = b"HEAD"
    expected = head + b"".join(
        frame.Body(7, body[start : start + most]).marshal() for start in range(0, len(body), most)
    )
    assert b"".join(cut_frames(7, head, [memoryview(one) for one in pieces], most, whole=whole)) == expected


def test_a_large_body_is_not_copied_on_its_way_out() -> None:
    body = bytearray(100_000)
    buffers = cut_frames(1, b"HEAD", (b"header", memoryview(body)), FRAME_MAX)
    body[50_000] = 0xAA
    assert 0xAA in b"".join(buffers)


def test_frames_of_two_channels_may_take_turns() -> None:
    one, two = message(1, b"a" * 5000), message(2, b"b" * 5000)
    middle = one.index(b"a") + FRAME_MAX - 8 + 1
    found = read(FrameReader(FRAME_MAX), one[:middle] + two + one[middle:])
    assert [one.fragment for one in found if isinstance(one, frame.Body)] == [b"b" * 5000, b"a" * 5000]


@pytest.mark.parametrize(
    ("wire", "error"),
    [
        (frame.Heartbeat().marshal()[:-1] + b"\x00", exceptions.InvalidFrameError),
        (b"\x03\x00\x01\xff\xff\xff\xff" + bytes(20), exceptions.InvalidFrameError),
        (frame.Body(1, b"x").marshal(), exceptions.UnexpectedFrameError),
        (message(1, b"x" * 5000)[:1000] * 2, exceptions.InvalidFrameError),
        (message(1, b"x")[:-9] + frame.Body(1, b"xyz").marshal(), exceptions.BodyTooLongError),
        (message(1, b"x")[:-9] + message(1, b"x"), exceptions.UnexpectedFrameError),
    ],
)
def test_what_is_no_sequence_of_frames_is_an_error(wire: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        read(FrameReader(FRAME_MAX), wire + bytes(5000))


def test_another_protocols_answer_is_seen() -> None:
    found = read(FrameReader(FRAME_MAX), b"AMQP\x00\x01\x00\x00", [3])
    assert [type(one) for one in found] == [frame.ProtocolHeader]
