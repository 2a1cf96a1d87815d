"""The record of what left the site, as its operator or data protection officer reads it; the agent need not run."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from messages.ground.errors import RequestError, WorkFailed

_ROWS = """
SELECT time, kind, experiment, round, bytes, 1, id, {digest} FROM ledger
UNION ALL SELECT time, kind, experiment, round, length(raw), 0, id, raw FROM outbox
ORDER BY time
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that left, or is about to.

    Attributes:
        time: Unix time of its receipt; where there is none, of its writing.
        kind: of the event; "update": a model update's chunks, in all `bytes` (more where some went again).
        settled: False: an event that still waits for the coordinator's receipt.
        id: of the event; of an update: its transfer ("experiment.round.site.attempt").
        digest: SHA-256 (hex) of the event as it was on the wire; of an update: its seal. Empty where the agent of that
            time kept none, and while an update is not whole.
    """

    time: float
    kind: str
    experiment: str
    round: int
    bytes: int
    settled: bool
    id: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class OrderGiven:
    """Something that a person ordered at this site; `experiment`: empty where it was about none."""

    time: float
    what: str
    experiment: str
    login: str


def read_orders(state: Path) -> list[OrderGiven]:
    """What was ordered here, oldest first; none where the agent of that time kept none. Raises as `read_ledger`."""
    place = state / "spool.sqlite"
    if not place.exists():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"{place.absolute().as_uri()}?mode=ro", uri=True)) as spool:
            if not spool.execute("SELECT 1 FROM sqlite_master WHERE name = 'orders'").fetchone():
                return []
            rows = spool.execute("SELECT time, what, experiment, login FROM orders ORDER BY number").fetchall()
    except sqlite3.Error as error:
        raise WorkFailed(f"the record cannot be read ({error})", where=str(place)) from None
    return [OrderGiven(*row) for row in rows]


def read_ledger(state: Path, experiment: str | None = None, since: float = 0.0) -> list[Entry]:
    """What left, oldest first.

    Args:
        state: the site's state directory.
        experiment: of this one only; None: of all, and of none.
        since: Unix time.

    Raises:
        RequestError: no agent has worked on this directory, or it cannot be read by this user.
        WorkFailed: the record is damaged.
    """
    place = state / "spool.sqlite"
    try:
        if not place.exists():
            raise RequestError(
                "no agent has worked here", where=str(state), advice="Look at site.state; `konsil site run` starts one"
            )
        with contextlib.closing(sqlite3.connect(f"{place.absolute().as_uri()}?mode=ro", uri=True)) as spool:
            columns = {row[1] for row in spool.execute("PRAGMA table_info(ledger)")}
            rows = spool.execute(_ROWS.format(digest="digest" if "digest" in columns else "''")).fetchall()
            found = [
                Entry(time, kind, name, round_number, size, bool(settled), identity, _hexadecimal(digest))
                for time, kind, name, round_number, size, settled, identity, digest in rows
            ]
    except (OSError, sqlite3.OperationalError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RequestError(
            f"the record cannot be read ({why})", where=str(place), advice="Run this as root or as the agent's user"
        ) from None
    except sqlite3.DatabaseError as error:
        raise WorkFailed(f"the record is damaged ({error})", where=str(place)) from None
    return [one for one in found if one.time >= since and experiment in (None, one.experiment)]


def _hexadecimal(kept: str | bytes) -> str:
    """A digest as it is kept, or that of an event that is still to go."""
    return sha256(kept).hexdigest() if isinstance(kept, bytes) else kept
