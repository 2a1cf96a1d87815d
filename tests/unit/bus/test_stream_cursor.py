"""The cursor never trusts a stored offset, and never skips a message (messages.bus.cursor)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from messages.bus import cursor as cursors
from messages.bus.base import Position, Start, digest_of

BODIES = st.lists(st.binary(min_size=1, max_size=3), max_size=12)


def read(stream: list[bytes], stored: Position | None, first: int = 0) -> tuple[list[bytes], bool]:
    """What a consumer delivers of a stream whose kept messages begin at offset `first`; and whether it rewound."""
    cursor, rewound = cursors.attach(stored, Start.FIRST), False
    while True:
        start = cursor.offset if isinstance(cursor.offset, int) else first
        delivered: list[bytes] = []
        for offset in range(max(start, first), first + len(stream)):
            cursor, verdict = cursors.on_message(cursor, offset, stream[offset - first])
            if verdict is cursors.CursorVerdict.REWIND:
                break
            if verdict is cursors.CursorVerdict.DELIVER:
                delivered.append(stream[offset - first])
        else:
            cursor, verdict = cursors.on_silence(cursor)
            if verdict is not cursors.CursorVerdict.REWIND:
                return delivered, rewound
        assert not rewound, "rewinds once"
        rewound = True


def test_without_a_position_it_starts_where_told() -> None:
    assert cursors.attach(None, Start.FIRST).offset == "first"
    assert cursors.attach(None, Start.NEXT).offset == "next"


def test_silence_means_nothing_once_the_position_is_verified() -> None:
    cursor = cursors.attach(Position(3, digest_of(b"x")), Start.FIRST)
    cursor, verdict = cursors.on_message(cursor, 3, b"x")
    assert verdict is cursors.CursorVerdict.DROP
    assert cursors.on_silence(cursor) == (cursor, cursors.CursorVerdict.DELIVER)


def test_silence_at_a_stored_offset_rewinds() -> None:
    cursor = cursors.attach(Position(3, digest_of(b"x")), Start.FIRST)
    assert cursors.on_silence(cursor) == (cursors.rewound(), cursors.CursorVerdict.REWIND)


@given(BODIES, st.data())
def test_an_intact_stream_goes_on_exactly_after_the_stored_message(stream: list[bytes], data: st.DataObject) -> None:
    if not stream:
        assert read(stream, None) == ([], False)
        return
    at = data.draw(st.integers(0, len(stream) - 1))
    assert read(stream, Position(at, digest_of(stream[at]))) == (stream[at + 1 :], False)


@given(BODIES, st.integers(0, 20), st.integers(0, 40), st.binary(max_size=3))
def test_whatever_became_of_the_stream_nothing_new_is_skipped(
    stream: list[bytes], first: int, at: int, body: bytes
) -> None:
    delivered, rewound = read(stream, Position(at, digest_of(body)), first)
    index = at - first
    intact = 0 <= index < len(stream) and stream[index] == body
    assert rewound is not intact
    assert delivered == (stream[index + 1 :] if intact else stream)


def test_a_long_message_is_known_by_its_first_bytes_and_its_length() -> None:
    body = bytes(range(256)) * 4096
    assert digest_of(body) == digest_of(bytes(body))
    assert len({digest_of(body), digest_of(body[:-1]), digest_of(b"\1" + body[1:]), digest_of(body[:4096])}) == 4
