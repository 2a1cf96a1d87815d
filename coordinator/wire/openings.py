"""What the coordinator has said to open steps, by digest: what a site's answer names has to be among it.

Kept in the journal's file, for a step may be answered to a coordinator that has been started again since. The journal
has an entry of each, too: who verifies the log holds sites' answers against these.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator.record.journal import Journal, Written
from messages import codec
from messages.envelope import Event
from messages.kinds import Body, RoundStart
from messages.log.views import ALL, OPENING, ShownOpening
from messages.trust.signatures import ANSWERS, digest_payload

REMEMBERED = 64
"""Openings of an experiment: each start says the open one again, in other bytes."""
_KEY = "openings:"
Opening = tuple[int, str]
"""Round, and SHA-256 (hex) of the payload."""


class SaidOpenings:
    """Main loop's thread.

    Args:
        journal: keeps them.
        now: the coordinator's clock.
    """

    def __init__(self, journal: Journal, now: Callable[[], float]) -> None:
        self._journal, self._now = journal, now
        self._known: dict[str, list[Opening]] = {}

    def note_said(self, event: Event) -> None:
        """Journal and remember an event that opens a step, before it is said."""
        shown = ShownOpening(event.round, digest_payload(event.raw), _list_models(event.body))
        known = self._list_known(event.experiment)
        known.append((shown.round, shown.digest))
        del known[:-REMEMBERED]
        values = {_KEY + event.experiment: codec.pack([list(one) for one in known])}
        written = Written({}, {}, values=values)
        self._journal.append_entry(event.experiment, OPENING, shown.write_body(), time=self._now(), written=written)

    def find_stranger(self, answer: Event) -> str | None:
        """The digest that an event says it answers, where that is nothing that was said in its round.

        None as well where nothing is remembered of the round: a version before this one opened it.
        """
        named = answer.ext.get(ANSWERS)
        said = {digest for number, digest in self._list_known(answer.experiment) if number == answer.round}
        return None if named is None or not said or str(named) in said else str(named)[:64]

    def _list_known(self, experiment: str) -> list[Opening]:
        if experiment not in self._known:
            kept = self._journal.get_value(_KEY + experiment)
            self._known[experiment] = [] if kept is None else [(one[0], one[1]) for one in codec.unpack(kept)]
        return self._known[experiment]


def _list_models(body: Body) -> dict[str, str]:
    """What each site attests that begins with a model."""
    if not isinstance(body, RoundStart):
        return {}
    return {ALL: body.find_attested(ALL), **{site: body.find_attested(site) for site in body.own or ()}}
