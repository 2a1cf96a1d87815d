"""The trainers' own words on disk, bounded: a net that warns at every step must not fill a hospital's disk."""

from __future__ import annotations

import os
from pathlib import Path

LARGEST = 4 * 2**20
"""Bytes of one log; the log before it is kept beside it."""


def log_of(folder: Path, experiment: str) -> Path:
    """Where an experiment's trainer writes to."""
    return folder / f"{experiment}.trainer.log"


def bound_size(log: Path, largest: int | None = None) -> None:
    """Where a log is larger than that, its end becomes `<log>.1` and the log is emptied in place.

    In place, since the process goes on writing: it holds the file open for appending, and continues at the new end.
    What it writes between the copy and the emptying is lost.
    """
    limit = LARGEST if largest is None else largest
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return
    if size <= limit:
        return
    beside = _older_log(log).with_suffix(".part")
    try:
        with log.open("rb") as source, beside.open("wb") as target:
            source.seek(size - limit)
            target.write(source.read(limit))  # and no more, however fast the process writes on
        beside.replace(_older_log(log))
    except OSError:  # a full disk: its room is worth more than the words
        beside.unlink(missing_ok=True)
    os.truncate(log, 0)


def remove_log(log: Path) -> None:
    """Forget what an experiment's trainers said."""
    log.unlink(missing_ok=True)
    _older_log(log).unlink(missing_ok=True)


def _older_log(log: Path) -> Path:
    return log.with_name(log.name + ".1")
