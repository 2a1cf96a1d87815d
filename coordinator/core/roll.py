"""Records by site, with sums over all of them that are kept and never counted anew.

A round of n sites must cost O(n) in all. So one site's record is replaced in O(log n) on a hash array mapped trie
(Bagwell 2001, "Ideal Hash Trees"; `immutables.Map`), where a copied dict would cost O(n), and what is asked after
every message (how many have reported?) is read from sums that each replacement moves by its difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from immutables import Map

Record = TypeVar("Record")
Measure = Callable[[str, Record], int]


class Roll(Mapping[str, Record]):
    """Immutable; iterates in the order of the names, which costs a sort.

    Args:
        records: name → record.
        measures: each a whole number of (name, record); `sums` holds their totals in the same order.
    """

    __slots__ = ("_measures", "_records", "sums")

    def __init__(self, records: Mapping[str, Record], *measures: Measure[Record]) -> None:
        self._records: Map[str, Record] = Map(records)
        self._measures = measures
        self.sums = tuple(sum(measure(*one) for one in records.items()) for measure in measures)

    def with_replaced(self, name: str, record: Record) -> Roll[Record]:
        """The same with another record under a name that is there; KeyError where it is not."""
        old = self._records[name]
        changed: Roll[Record] = Roll.__new__(Roll)
        changed._records = self._records.set(name, record)
        changed._measures = self._measures
        changed.sums = tuple(
            total + measure(name, record) - measure(name, old)
            for total, measure in zip(self.sums, self._measures, strict=True)
        )
        return changed

    def without(self, name: str) -> Roll[Record]:
        """The same without a name; KeyError where it is not there."""
        old = self._records[name]
        changed: Roll[Record] = Roll.__new__(Roll)
        changed._records = self._records.delete(name)
        changed._measures = self._measures
        changed.sums = tuple(
            total - measure(name, old) for total, measure in zip(self.sums, self._measures, strict=True)
        )
        return changed

    def __getitem__(self, name: str) -> Record:
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        # The trie's own order follows Python's salted hashes: nothing may ever depend on that.
        return iter(sorted(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def __repr__(self) -> str:
        return f"Roll({dict(self.items())!r})"
