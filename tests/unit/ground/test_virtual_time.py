"""Virtual time: threads take turns, time moves when none can go on, and the same run takes the same turns."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import pytest
from brokers import PATIENCE

from messages.ground.virtual.clock import UPTIME, VirtualClock

HOUR = 3600.0


def test_hours_pass_in_moments() -> None:
    clock, began = VirtualClock(), time.monotonic()
    clock.run(lambda: clock.sleep(1000 * HOUR))
    assert clock.monotonic() == UPTIME + 1000 * HOUR
    assert time.monotonic() - began < PATIENCE


def test_time_stands_still_while_a_thread_can_go_on() -> None:
    clock, seen = VirtualClock(), list[float]()

    def work(inbox: object) -> None:
        for _ in range(100):
            seen.append(clock.monotonic())
            put(None)
            inbox.get()  # type: ignore[attr-defined]

    def body() -> None:
        clock.make_thread(work, "worker", back).start()
        for _ in range(100):
            forth.get(timeout=1.0)
            back.put(None)

    forth, back = clock.make_queue(), clock.make_queue()
    put = forth.put
    clock.run(body)
    assert seen == [UPTIME] * 100


def test_who_waits_with_a_time_out_waits_no_longer_and_no_shorter() -> None:
    clock = VirtualClock()
    inbox, event, condition = clock.make_queue(), clock.make_event(), clock.make_condition()

    def took(wait: Callable[[], object]) -> float:
        began = clock.monotonic()
        wait()
        return clock.monotonic() - began

    def body() -> None:
        with pytest.raises(queue.Empty):
            inbox.get(timeout=5.0)
        assert clock.monotonic() == UPTIME + 5.0
        assert took(lambda: event.wait(7.0)) == 7.0
        with condition:
            assert took(lambda: condition.wait(3.0)) == 3.0
            assert took(lambda: condition.wait_for(lambda: False, 4.0)) == 4.0
        clock.make_thread(lambda: (clock.sleep(2.0), inbox.put(1), event.set()), "later").start()
        assert took(lambda: inbox.get(timeout=9.0)) == 2.0
        assert took(lambda: event.wait(9.0)) == 0.0

    clock.run(body)


def test_a_condition_frees_its_lock_however_often_it_was_taken() -> None:
    clock, lock, news = VirtualClock(), threading.RLock(), list[str]()
    changed = clock.make_condition(lock)

    def tell() -> None:
        with changed:
            news.append("told")
            changed.notify_all()

    def body() -> None:
        clock.make_thread(tell, "teller").start()
        with changed, changed:
            assert changed.wait_for(lambda: news, 60.0)
        assert clock.monotonic() == UPTIME

    clock.run(body)


def turns(seed: int | None) -> tuple[str, list[int]]:
    """Ten threads that wait alike: whose turn was when."""
    clock, done = VirtualClock(seed=seed), list[int]()

    def work(number: int) -> None:
        clock.sleep(1.0)
        gate.wait()
        done.append(number)

    def body() -> None:
        threads = [clock.make_thread(work, f"one-{number}", number) for number in range(10)]
        for one in threads:
            one.start()
        clock.sleep(2.0)
        gate.set()
        for one in threads:
            one.join()

    gate = clock.make_event()
    clock.run(body)
    return clock.trace, done


def test_the_same_run_takes_the_same_turns_and_a_seed_draws_others() -> None:
    assert turns(None) == turns(None)
    assert turns(None)[1] == list(range(10))
    assert turns(1) == turns(1)
    assert turns(1)[1] != list(range(10))
    assert turns(1)[0] != turns(2)[0]


def test_a_pool_does_its_jobs_in_turn_and_takes_no_more_once_shut() -> None:
    clock, done = VirtualClock(), list[int]()

    def body() -> None:
        pool = clock.make_pool(2, "work")
        for number in range(5):
            pool.submit(lambda number=number: (clock.sleep(1.0), done.append(number)))
        clock.sleep(1.5)
        pool.shutdown(cancel_futures=True)
        with pytest.raises(RuntimeError):
            pool.submit(lambda: None)

    clock.run(body)
    assert done == [0, 1, 2, 3], "two are done, two have begun, the last is dropped"


def test_whoever_waits_when_all_is_over_unwinds() -> None:
    clock, unwound = VirtualClock(), list[str]()

    def work() -> None:
        try:
            clock.make_queue().get()
        finally:
            unwound.append("finally")

    def body() -> threading.Thread:
        thread = clock.make_thread(work, "worker")
        thread.start()
        clock.sleep(1.0)
        return thread

    thread = clock.run(body)
    assert unwound == ["finally"]
    assert not thread.is_alive()


def test_time_is_moved_by_hand_only_where_no_thread_waits_for_it() -> None:
    clock = VirtualClock()
    clock.advance(HOUR)
    assert clock.monotonic() == UPTIME + HOUR

    def body() -> None:
        clock.make_thread(lambda: clock.sleep(HOUR), "sleeper").start()
        with pytest.raises(RuntimeError):
            clock.advance(1.0)

    clock.run(body)


def test_a_loop_that_waits_for_nothing_is_named() -> None:
    clock = VirtualClock()

    def spin() -> None:
        while True:
            clock.sleep(0.0)

    with pytest.raises(RuntimeError, match=r"stands still at 0\.0 s, in the turn of body"):
        clock.run(spin)


def test_a_thread_that_takes_no_turns_is_heard_and_answered() -> None:
    clock = VirtualClock()
    asked, answers = clock.make_queue(), clock.make_queue()
    heard = list[str]()

    def outsider() -> None:
        asked.put("question")
        heard.append(answers.get(timeout=PATIENCE))

    def body() -> None:
        thread = threading.Thread(target=outsider)
        thread.start()
        answers.put(f"answer to {asked.get()}")
        thread.join(PATIENCE)  # in real time: it is no participant

    clock.run(body)
    assert heard == ["answer to question"]
