"""The lines of a story in the order in which they were told: grows at one end, at the same cost however long it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from deploy.story.parts import Moment


class Moments(Sequence[Moment]):
    """A sequence that never changes; `add_moment` makes a longer one.

    The longer one shares the shorter one's list, of which each knows its own length. Only where two grow out of the
    same one does the second copy it. A copied tuple would cost O(n) for each event, and an experiment O(n^2).
    """

    __slots__ = ("_kept", "_length")

    def __init__(self) -> None:
        self._kept: list[Moment] = []
        self._length = 0

    def add_moment(self, moment: Moment) -> Moments:
        """The same with one more at its end; amortised O(1)."""
        longer = Moments()
        longer._kept = self._kept if len(self._kept) == self._length else self._kept[: self._length]
        longer._kept.append(moment)
        longer._length = self._length + 1
        return longer

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, place: int) -> Moment: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Moment]: ...
    def __getitem__(self, place: int | slice) -> Moment | Sequence[Moment]:
        if isinstance(place, slice):
            return tuple(self._kept[one] for one in range(*place.indices(self._length)))
        return self._kept[range(self._length)[place]]

    def __iter__(self) -> Iterator[Moment]:
        return (self._kept[place] for place in range(self._length))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Moments) and len(self) == len(other) and all(map(Moment.__eq__, self, other))

    def __hash__(self) -> int:
        return hash(self._length)
