"""The experiments that a site's agent knows, read beside it: whether it runs or not."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import msgpack

from messages.ground.errors import WorkFailed
from site_agent.core.jobs import Job


def read_jobs(state: Path) -> list[Job]:
    """Every experiment that the agent keeps, in the order of their names; none where it never ran.

    Raises:
        WorkFailed: the agent's record cannot be read.
    """
    place = state / "spool.sqlite"
    if not place.exists():
        return []
    try:
        with contextlib.closing(sqlite3.connect(f"{place.absolute().as_uri()}?mode=ro", uri=True)) as spool:
            rows = spool.execute("SELECT state FROM jobs ORDER BY experiment").fetchall()
    except sqlite3.Error as error:
        raise WorkFailed(f"the agent's record cannot be read ({error})", where=str(place)) from None
    return [Job.model_validate(msgpack.unpackb(row[0])) for row in rows]
