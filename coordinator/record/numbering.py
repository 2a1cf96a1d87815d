"""Under which logic number an entry was written, and what a number that this version does not know means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coordinator.core.logic import explain_unknown, read_number
from messages import codec
from messages.chain import MAX_ENTRY, Entry
from messages.ground.errors import LogBroken, MalformedMessage, RequestError


def read_logic(entry: Entry) -> int:
    """The logic number of a `step` or `term` entry; LogBroken where it cannot be read."""
    try:
        return read_number(codec.unpack(entry.body, max_bytes=MAX_ENTRY))
    except (MalformedMessage, ValueError):
        raise unreadable_error(entry) from None


def unreadable_error(entry: Entry) -> LogBroken:
    """What an entry means whose content this version cannot read, although the chain holds."""
    where = f"entry {entry.index} of {entry.experiment} (journal number {entry.number})"
    advice = "Use the Konsil version that wrote the journal"
    return LogBroken(f"the {entry.type} cannot be read", where=where, advice=advice)


def read_term(entry: Entry) -> int | None:
    """The term of a `term` entry; None where it says none."""
    body: Any = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
    term = body.get("term") if isinstance(body, dict) else None
    return term if type(term) is int else None


def check_term(entry: Entry, path: Path) -> None:
    """Look at a `term` entry before a coordinator goes on with its journal.

    Raises:
        RequestError: a newer version has decided since; it is named.
        LogBroken: the entry cannot be read.
    """
    unknown = explain_unknown(read_logic(entry))
    if unknown is None:
        return
    body: Any = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
    writer = body.get("konsil")
    raise RequestError(
        f"a newer Konsil has gone on with this journal (entry {entry.number}: {unknown})",
        where=str(path),
        advice=f"Use {f'Konsil {writer}' if isinstance(writer, str) else 'the version that wrote it'}, or a newer one",
    )
