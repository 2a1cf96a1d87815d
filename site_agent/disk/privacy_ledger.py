"""The privacy ledger in the spool: what each experiment has reserved and spent, in the transactions of the agenda.

Nothing here takes a charge back, and a row stays for good: `retention` does not reach it.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from threading import RLock

import msgpack

from messages.ground.errors import RequestError, WorkFailed
from site_agent.core.budget import Account, DataBudget, Holding, Price, name_ledger

SCHEMA = """
CREATE TABLE IF NOT EXISTS privacy_held (
    experiment TEXT PRIMARY KEY, dataset TEXT NOT NULL, ledger TEXT NOT NULL, planned INTEGER NOT NULL,
    is_open INTEGER NOT NULL, epsilon REAL NOT NULL, delta REAL NOT NULL, divergences BLOB NOT NULL, time REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS privacy_spent (
    experiment TEXT NOT NULL, round INTEGER NOT NULL, content TEXT NOT NULL, steps INTEGER NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (experiment, round, content)
) STRICT;
CREATE TABLE IF NOT EXISTS privacy_closed (ledger TEXT PRIMARY KEY, time REAL NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS privacy_members (
    dataset TEXT NOT NULL, ledger TEXT NOT NULL, PRIMARY KEY (dataset, ledger)
) STRICT;
"""
RESTORED = "restored"
"""Content of a charge for what may have left before the disk went back in time."""
_HOLDINGS = """
SELECT experiment, dataset, ledger, planned, coalesce((SELECT sum(steps) FROM privacy_spent AS spent
WHERE spent.experiment = held.experiment), 0), is_open, epsilon, delta, divergences FROM privacy_held AS held
ORDER BY time, experiment
"""


class PrivacyLedger:
    """Writes inside the spool's transactions.

    Args:
        db: the spool's. guard: held while it is used.
    """

    def __init__(self, db: sqlite3.Connection, guard: RLock) -> None:
        self._db, self._guard = db, guard

    def reserve(self, experiment: str, dataset: str, ledger: str, price: Price, now: float) -> None:
        """Hold what an experiment that joins is to spend; one that joins again keeps what it has spent."""
        with self._guard:
            self._db.execute(
                "INSERT INTO privacy_held VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?) ON CONFLICT (experiment) DO UPDATE SET "
                "planned = excluded.planned, is_open = 1, epsilon = excluded.epsilon, delta = excluded.delta",
                (
                    experiment, dataset, ledger, price.steps, price.epsilon, price.delta,
                    msgpack.packb(price.divergences), now,
                ),
            )  # fmt: skip

    def charge(self, experiment: str, round_number: int, content: str, steps: int, now: float) -> None:
        """Charge what leaves the site, once for each content of a round."""
        with self._guard:
            self._db.execute(
                "INSERT OR IGNORE INTO privacy_spent VALUES (?, ?, ?, ?, ?)",
                (experiment, round_number, content, steps, now),
            )

    def has_charged(self, experiment: str, round_number: int, content: str | None = None) -> bool:
        """Whether this content of a round has been charged: the same bytes once more tell nothing new. None: any."""
        with self._guard:
            found = self._db.execute(
                "SELECT 1 FROM privacy_spent WHERE experiment = ? AND round = ? AND content = ifnull(?, content)",
                (experiment, round_number, content),
            ).fetchone()
        return found is not None

    def free_rest(self, experiment: str) -> None:
        """The experiment trains no more here: what it has reserved and not spent is free again."""
        with self._guard:
            self._db.execute("UPDATE privacy_held SET is_open = 0 WHERE experiment = ?", (experiment,))

    def charge_restored(self, now: float) -> list[str]:
        """Charge all that open experiments have reserved, since it may have left; their names.

        What was charged so once stands for what left before that. So a second time all is charged anew.
        """
        found = [one for one in self.list_holdings() if one.is_open]
        known = {one.experiment: 0 if self.has_charged(one.experiment, 0) else one.charged for one in found}
        owed = {one.experiment: one.planned - known[one.experiment] for one in found}
        charged = [one for one in found if owed[one.experiment] > 0]
        for one in charged:
            self.charge(one.experiment, 0, f"{RESTORED}-{one.charged}", owed[one.experiment], now)
        return [one.experiment for one in charged]

    def note_members(self, ledgers: Mapping[str, str]) -> None:
        """Remember for good which data set has had which ledger."""
        with self._guard:
            self._db.executemany("INSERT OR IGNORE INTO privacy_members VALUES (?, ?)", ledgers.items())

    def close(self, ledgers: Iterable[str], now: float) -> None:
        """Spend nothing more of these: what was spent of them is not known."""
        with self._guard:
            self._db.executemany("INSERT OR IGNORE INTO privacy_closed VALUES (?, ?)", [(one, now) for one in ledgers])

    def list_holdings(self) -> list[Holding]:
        """Every experiment's part, the first to join first."""
        with self._guard:
            return _read_holdings(self._db)

    def open_account(self, dataset: str, budgets: Mapping[str, DataBudget]) -> Account:
        """The account of a data set's ledger, by site.toml as it is now."""
        with self._guard:
            return _make_account(self._db, dataset, budgets)


def _make_account(db: sqlite3.Connection, dataset: str, budgets: Mapping[str, DataBudget]) -> Account:
    """Data sets that have ever shared a ledger have the same patients: what each has spent counts for all of them,
    whatever their ledgers are called now."""
    ledger, held = name_ledger(dataset, budgets), _read_holdings(db)
    pairs = {(dataset, ledger), *((name, name_ledger(name, budgets)) for name in budgets)}
    pairs |= {(one.dataset, one.ledger) for one in held}
    pairs |= {(name, kept) for name, kept in db.execute("SELECT dataset, ledger FROM privacy_members")}
    ledgers = _list_kin(dataset, pairs)
    closed = db.execute("SELECT 1 FROM privacy_closed WHERE ledger = ?", (ledger,)).fetchone() is not None
    own = tuple(one for one in held if one.ledger in ledgers)
    return Account(ledger, budgets.get(dataset, DataBudget()), own, closed)


def _list_kin(dataset: str, pairs: Collection[tuple[str, str]]) -> set[str]:
    """The ledgers that a data set shares with others, directly or through others."""
    members, ledgers = {dataset}, set[str]()
    while more := {ledger for name, ledger in pairs if name in members} - ledgers:
        ledgers |= more
        members |= {name for name, ledger in pairs if ledger in ledgers}
    return ledgers


def _read_holdings(db: sqlite3.Connection) -> list[Holding]:
    return [
        Holding(
            experiment=row[0], dataset=row[1], ledger=row[2], planned=row[3], charged=row[4], is_open=bool(row[5]),
            epsilon=row[6], delta=row[7], divergences=tuple(msgpack.unpackb(row[8])),
        )
        for row in db.execute(_HOLDINGS).fetchall()
    ]  # fmt: skip


def read_accounts(state: Path, datasets: Collection[str], budgets: Mapping[str, DataBudget]) -> list[Account]:
    """The accounts of all ledgers that these data sets or anything on record have; the agent need not run.

    Raises:
        RequestError: no agent has worked here, or this user may not read it.
        WorkFailed: the spool is damaged.
    """
    place = state / "spool.sqlite"
    try:
        if not place.exists():
            raise RequestError(
                "no agent has worked here", where=str(state), advice="Look at site.state; `konsil site run` starts one"
            )
        with contextlib.closing(sqlite3.connect(f"{place.absolute().as_uri()}?mode=ro", uri=True)) as db:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'privacy_held'").fetchone() is None:
                return [Account(name, budgets.get(name, DataBudget())) for name in datasets]
            names = dict.fromkeys((*datasets, *(one.dataset for one in _read_holdings(db))))
            accounts = [_make_account(db, name, budgets) for name in names]
    except (OSError, sqlite3.OperationalError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RequestError(
            f"the privacy ledger cannot be read ({why})",
            where=str(place),
            advice="Run this as root or as the agent's user",
        ) from None
    except sqlite3.DatabaseError as error:
        raise WorkFailed(f"the privacy ledger is damaged ({error})", where=str(place)) from None
    return list({one.ledger: one for one in accounts}.values())
