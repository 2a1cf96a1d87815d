"""A connection reads on only as what it has handed over is acknowledged."""

import threading
import time

from messages.bus.amqp.backlog import PAUSE, Backlog


class Waits(threading.Condition):
    """Notes how long each wait was to be: how long a call took tells nothing on a machine that stands still."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.noted.append(timeout)
        return super().wait(timeout)


def waited(backlog: Backlog) -> bool:
    """Whether `pause` had to wait."""
    waits = backlog._changed = Waits()
    backlog.pause_while_full()
    return bool(waits.noted)


def test_it_does_not_wait_while_little_is_handed_over() -> None:
    backlog = Backlog(most=10)
    backlog.add_message("a", 10)
    assert not waited(backlog)


def test_it_waits_its_pause_where_too_much_is_handed_over_and_goes_on() -> None:
    backlog = Backlog(most=10)
    backlog.add_message("a", 6)
    backlog.add_message("b", 6)
    began = time.monotonic()
    assert waited(backlog)
    assert time.monotonic() - began >= PAUSE
    assert backlog.total == 12


def test_an_acknowledgement_from_another_thread_ends_the_wait() -> None:
    backlog = Backlog(most=10)
    backlog.add_message("a", 11)
    thread = threading.Timer(0.0, lambda: backlog.remove_message("a", 11))
    thread.start()
    while backlog.total:  # each wait may end before the thread has begun
        backlog.pause_while_full()
    thread.join()
    assert not waited(backlog)


def test_what_an_attachment_held_is_forgotten_with_it_and_a_late_acknowledgement_counts_nothing() -> None:
    backlog = Backlog(most=10)
    backlog.add_message(("consumer", 1), 30)
    backlog.remove_message(("consumer", 1))
    assert backlog.total == 0
    backlog.add_message(("consumer", 2), 5)
    backlog.remove_message(("consumer", 1), 30)
    assert backlog.total == 5
    backlog.remove_message(("consumer", 2), 5)
    assert backlog.total == 0
