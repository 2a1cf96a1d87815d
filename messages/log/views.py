"""Whether what sites say that they were shown is what the journal says that it showed them: a split view. Pure.

The journal has an entry for each opening of a step: its digest, and the model that each site was to begin with. A site
signs which opening it answers, and which model came (`messages.trust.signatures`).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from messages.trust.signatures import ANSWERS, MODEL

OPENING = "opening"
"""Type of an entry: what opens a step, as it was said."""
ALL = ""
"""In an opening's models: the one of each site that is not named."""


class ShownOpening(NamedTuple):
    """An opening in the journal. `models`: by site, what it attests."""

    round: int
    digest: str
    models: Mapping[str, str]

    def write_body(self) -> dict[str, object]:
        """The body of its entry."""
        return {"round": self.round, "sha256": self.digest, "models": dict(self.models)}


class SaidView(NamedTuple):
    """What a party's signed event says of what it was shown; `joined`: it is a site that takes part with this event."""

    party: str
    round: object
    answers: object
    model: object
    joined: bool


@dataclass(frozen=True, slots=True)
class SplitView:
    """A site was shown something else than the journal has, or says so. `entry`: journal number of the site's event.

    `what`: it answers an opening that the journal lacks, or began with a model that the opening does not name.
    """

    entry: int
    site: str
    round: int
    what: Literal["opening", "model"]


def read_view(type_: str, body: Mapping[str, Any], payload: Mapping[str, Any] | None) -> ShownOpening | SaidView | None:
    """What an entry says of views; None: nothing.

    Args:
        payload: of the signed event in it; None: there is none.
    """
    try:
        if type_ == OPENING:
            digest, models = body["sha256"], body["models"]
            return ShownOpening(body["round"], digest, {**models}) if isinstance(digest, str) else None
        if payload is None:
            return None
        ext = payload["ext"]
        said = (payload["round"], ext.get(ANSWERS), ext.get(MODEL))
        return SaidView(payload["sender"], *said, payload["kind"] == "joined")
    except (LookupError, TypeError, AttributeError):
        return None


class ViewCheck:
    """Holds sites' words against the openings before them. Rounds without an opening are of older versions."""

    def __init__(self) -> None:
        self._openings: dict[object, dict[object, Mapping[str, str]]] = {}

    def note_opening(self, experiment: str, shown: ShownOpening) -> None:
        """The journal has an opening."""
        if isinstance(shown.round, int):
            self._openings.setdefault((experiment, shown.round), {})[shown.digest] = shown.models

    def judge_word(self, experiment: str, entry: int, said: SaidView) -> SplitView | None:
        """What an event says of its author's view, where that is not the journal's."""
        if not isinstance(said.round, int) or not isinstance(said.answers, Hashable) or said.answers is None:
            return None
        known = self._openings.get((experiment, said.round))
        if known is None:
            return None
        models = known.get(said.answers)
        if models is None:
            return SplitView(entry, said.party, said.round, "opening")
        named = models.get(said.party, models.get(ALL))
        differs = named is not None and said.model is not None and said.model != named
        return SplitView(entry, said.party, said.round, "model") if differs else None
