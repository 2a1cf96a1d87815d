"""From a schedule that fails to a short one that fails in the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from simulation_plan import Schedule, draw_schedule
from simulation_run import SimulationOutcome, run_schedule


def cut_schedule(seed: int, strikes: tuple[int, ...] | None, rounds: int | None) -> Schedule:
    """The schedule of a seed with some of its faults and rounds alone, as a command line names them."""
    schedule = draw_schedule(seed)
    if rounds is not None:
        schedule = replace(schedule, rounds=rounds)
    return schedule if strikes is None else schedule.keep_strikes(strikes)


def shrink_schedule(seed: int, most: int = 60) -> tuple[tuple[int, ...], int, SimulationOutcome]:
    """Leave out what does not matter.

    Args:
        most: runs at most.

    Returns:
        The numbers of the faults that are left, the rounds, and the outcome with its story.
    """
    whole = draw_schedule(seed)
    strikes, rounds = tuple(range(len(whole.strikes))), whole.rounds
    kind = _kind_of(run_schedule(whole))
    runs = 0

    def fails(tried: tuple[int, ...], count: int) -> bool:
        nonlocal runs
        runs += 1
        return runs <= most and _kind_of(run_schedule(cut_schedule(seed, tried, count))) == kind

    again = kind != ""
    while again:
        again = False
        for fewer in _list_shorter(strikes):
            if fails(fewer, rounds):
                strikes, again = fewer, True
                break
    while rounds > 1 and kind and fails(strikes, rounds - 1):
        rounds -= 1
    return strikes, rounds, run_schedule(cut_schedule(seed, strikes, rounds), tell=True)


def _list_shorter(strikes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Halves first, then all but one."""
    half = len(strikes) // 2
    if half > 1:
        yield strikes[:half]
        yield strikes[half:]
    for left_out in strikes:
        yield tuple(one for one in strikes if one != left_out)


def _kind_of(outcome: SimulationOutcome) -> str:
    """What tells one failure from another: the words of the first violation, less its numbers and names."""
    if not outcome.violations:
        return ""
    words = outcome.violations[0].split()
    return " ".join(word for word in words if word.isalpha())[:60]
