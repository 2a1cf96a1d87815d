"""What the coordinator has said to open steps, by digest: what a site's answer names has to be among it.

Kept in the journal's file, for a step may be answered to a coordinator that has been started again since.
"""

from __future__ import annotations

from collections.abc import Callable

from messages import codec
from messages.envelope import Event
from messages.trust.signatures import ANSWERS, digest_payload

REMEMBERED = 64
"""Openings of an experiment: each start says the open one again, in other bytes."""
_KEY = "openings:"
Opening = tuple[int, str]
"""Round, and SHA-256 (hex) of the payload."""


class SaidOpenings:
    """Main loop's thread.

    Args:
        recall, keep: values that the journal keeps.
    """

    def __init__(self, recall: Callable[[str], bytes | None], keep: Callable[[str, bytes], None]) -> None:
        self._recall, self._keep = recall, keep
        self._known: dict[str, list[Opening]] = {}

    def note_said(self, event: Event) -> None:
        """Remember an event that opens a step, before it is said."""
        known = self._list_known(event.experiment)
        known.append((event.round, digest_payload(event.raw)))
        del known[:-REMEMBERED]
        self._keep(_KEY + event.experiment, codec.pack([list(one) for one in known]))

    def find_stranger(self, answer: Event) -> str | None:
        """The digest that an event says it answers, where that is nothing that was said in its round.

        None as well where nothing is remembered of the round: a version before this one opened it.
        """
        named = answer.ext.get(ANSWERS)
        said = {digest for number, digest in self._list_known(answer.experiment) if number == answer.round}
        return None if named is None or not said or str(named) in said else str(named)[:64]

    def _list_known(self, experiment: str) -> list[Opening]:
        if experiment not in self._known:
            kept = self._recall(_KEY + experiment)
            self._known[experiment] = [] if kept is None else [(one[0], one[1]) for one in codec.unpack(kept)]
        return self._known[experiment]
