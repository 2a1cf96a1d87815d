"""Fair turns: who waits for the same thing takes turns by owner, so that one's thousand hold up no other's one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest


def choose_turn(owners: Sequence[str], served: Sequence[str]) -> int:
    """Whose turn it is: the owner that was served the longest ago, or never; of each owner who came first.

    Args:
        owners: of all that wait, the first to come first; not empty.
        served: owners in the order of their last turns, the latest last (`note_turn`).

    Returns:
        Its place in `owners`.
    """
    last = {owner: number for number, owner in enumerate(served)}
    return min(range(len(owners)), key=lambda place: last.get(owners[place], -1))


def order_turns(owners: Sequence[str], served: Sequence[str]) -> list[int]:
    """The places in `owners` (see `choose_turn`) in the order of their turns, if nobody else comes."""
    last = {owner: number for number, owner in enumerate(served)}
    places: dict[str, list[int]] = {}
    for place, owner in enumerate(owners):
        places.setdefault(owner, []).append(place)
    rounds = zip_longest(*(places[owner] for owner in sorted(places, key=lambda one: last.get(one, -1))))
    return [place for one in rounds for place in one if place is not None]


def note_turn(served: Sequence[str], owner: str) -> tuple[str, ...]:
    """`served` after one more turn."""
    return (*(one for one in served if one != owner), owner)
