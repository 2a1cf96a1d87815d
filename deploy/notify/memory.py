"""Which matters were told: each once until it is gone, over restarts. Pure, but for its one file."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from deploy.notify.notices import Notice, kind_of
from messages.ground.durable import replace_file
from messages.ground.errors import WorkFailed

FILE = "notified.json"


@dataclass
class ToldNotices:
    """By key: since when it lasts, and whether it was told.

    Attributes:
        new: nothing was ever told from here: what is past is then taken for told.
    """

    since: dict[str, float]
    told: set[str]
    new: bool = False

    def choose_due(self, notices: Iterable[Notice], now: float, hidden: Collection[str] = ()) -> list[Notice]:
        """Those to be told now; what is gone is forgotten.

        Args:
            hidden: kinds of matters (`Notice.kind`) that could not be looked at: what is known of them stays.
        """
        there = {one.key: one for one in notices}
        stays = {key for key in self.since if kind_of(key) in hidden}
        self.since = {key: self.since.get(key, now) for key in [*stays, *there]}
        self.told &= self.since.keys()
        if self.new:
            self.told |= {key for key, one in there.items() if one.past}
            self.new = bool(hidden)
        return [
            one for key, one in there.items() if key not in self.told and now - self.since[key] >= one.after
        ]  # fmt: skip

    def note_told(self, notice: Notice) -> None:
        """It was told."""
        self.told.add(notice.key)


def read_told(state: Path) -> ToldNotices:
    """What was told from a state folder. WorkFailed: the file cannot be read."""
    place = state / FILE
    try:
        plain = json.loads(place.read_text(encoding="utf-8"))
        since = {str(key): float(value) for key, value in plain["since"].items()}
        return ToldNotices(since, set(plain["told"]), new=bool(plain.get("new")))
    except FileNotFoundError:
        return ToldNotices({}, set(), new=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        advice = "Remove it: what lasts is then told once more"
        raise WorkFailed(f"cannot be read ({type(error).__name__})", where=str(place), advice=advice) from None


def write_told(state: Path, told: ToldNotices) -> None:
    """Keep it."""
    replace_file(state / FILE, json.dumps({"since": told.since, "told": sorted(told.told), "new": told.new}).encode())
