"""The window of unconfirmed bytes: over simulated lines of any rate and delay."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from messages.bus.amqp.window import FIRST, LEAST, Departure, Window

MIB = 2**20


def sail(window: Window, *, rate: float, delay: float, size: int, messages: int) -> tuple[float, int, float]:
    """A line that carries `rate` bytes/s and confirms `delay` s later; the sender always has more.

    Returns seconds until the last confirm, most bytes ever in flight, and the longest that one of the last messages
    waited for its confirm.
    """
    now = free_at = waited = 0.0
    flying: deque[tuple[float, Departure, int]] = deque()
    in_flight = widest = started = 0
    while started < messages or flying:
        if started < messages and window.allows_message(in_flight, size):
            in_flight += size
            widest = max(widest, in_flight)
            free_at = max(free_at, now) + size / rate
            flying.append((free_at + delay, window.note_departure(now, in_flight), size))
            started += 1
            continue
        arrives, departure, sent = flying.popleft()
        now = max(now, arrives)
        if len(flying) + messages - started < messages // 4:
            waited = max(waited, now - departure.at)
        in_flight -= sent
        window.note_confirm(sent, departure, now)
    return now, widest, waited


lines = st.tuples(st.floats(1e4, 1e9), st.floats(0.0, 0.5), st.integers(1000, 2 * MIB))


@settings(max_examples=30)
@given(lines, st.floats(0.5, 5.0), st.integers(LEAST, 64 * MIB))
def test_the_window_stays_within_its_bounds(line: tuple[float, float, int], seconds: float, most: int) -> None:
    rate, delay, size = line
    window = Window(most, seconds)
    _took, widest, _waited = sail(window, rate=rate, delay=delay, size=size, messages=60)
    assert widest <= max(most, size)
    assert LEAST <= window.limit <= most


@settings(max_examples=30)
@given(lines)
def test_no_message_waits_much_longer_than_the_seconds_or_than_it_takes_alone(line: tuple[float, float, int]) -> None:
    rate, delay, size = line
    enough = max(60, 8 * FIRST // size)
    _took, _widest, waited = sail(Window(64 * MIB, 2.0), rate=rate, delay=delay, size=size, messages=enough)
    alone = size / rate + delay
    assert waited <= 2.0 * 1.25 + 2 * alone + LEAST / rate


@settings(max_examples=30)
@given(lines)
def test_the_line_is_kept_busy_once_the_window_has_opened(line: tuple[float, float, int]) -> None:
    rate, delay, size = line
    window = Window(1024 * MIB, 2.0)
    sail(window, rate=rate, delay=delay, size=size, messages=400)
    took, _widest, _waited = sail(window, rate=rate, delay=delay, size=size, messages=400)
    alone = size / rate + delay
    bulk = 400 * size / rate
    # where not even two messages fit into the seconds, one flies at a time
    assert took <= (400 * alone * 1.01 if size > rate * 0.9 else 2.5 * bulk + 12 * alone)


def test_at_one_megabit_a_second_one_chunk_flies() -> None:
    _took, widest, _waited = sail(Window(16 * MIB, 2.0), rate=125_000, delay=0.05, size=MIB, messages=20)
    assert widest == MIB


def test_on_a_fast_line_it_opens_to_its_width() -> None:
    window = Window(16 * MIB, 2.0)
    sail(window, rate=300 * MIB, delay=0.01, size=MIB, messages=40)
    assert window.limit == 16 * MIB


def test_a_quiet_sender_does_not_narrow_it() -> None:
    window = Window(16 * MIB, 2.0)
    sail(window, rate=300 * MIB, delay=0.01, size=MIB, messages=40)
    for turn in range(20):
        window.note_confirm(100, window.note_departure(turn, 100), turn + 0.02)
    assert window.limit == 16 * MIB


def test_a_line_that_slows_down_narrows_it_and_a_new_connection_begins_small() -> None:
    window = Window(16 * MIB, 2.0)
    sail(window, rate=300 * MIB, delay=0.01, size=MIB, messages=40)
    sail(window, rate=1 * MIB, delay=0.01, size=MIB, messages=60)
    assert window.limit <= 2.5 * MIB
    window.restart_window()
    assert window.limit == FIRST


def test_what_was_sent_twice_says_nothing_of_the_line() -> None:
    window = Window(16 * MIB, 2.0)
    window.note_confirm(MIB, None, 1000.0)
    assert window.limit == FIRST
