"""What the site has seen of the coordinator's log, as the spool keeps it (`messages.log.witness`)."""

from __future__ import annotations

from pathlib import Path

from messages import codec
from messages.ground.errors import MalformedMessage, RequestError
from messages.log.witness import Opening, Seen
from site_agent.disk.spool import Spool, read_kept

KEY = "log-seen"
MOST = 2**26


def load_seen(spool: Spool) -> Seen:
    """As it was kept; nothing where nothing was."""
    data = spool.get_kept(KEY)
    return Seen() if data is None else _decode(data)


def read_seen(state: Path) -> Seen:
    """The same, out of a state folder whose agent may be running.

    Raises:
        RequestError: there is no spool, or it cannot be read.
    """
    data = read_kept(state, KEY)
    try:
        return Seen() if data is None else _decode(data)
    except (MalformedMessage, KeyError, TypeError, ValueError):
        raise RequestError("what was seen of the log cannot be read", where=str(state)) from None


def store_seen(spool: Spool, seen: Seen) -> None:
    """Keep it; inside the transaction of what led to it."""
    plain = {
        "heads": [[size, note] for size, note in sorted(seen.heads.items())],
        "term": seen.term,
        "openings": [
            [name, one.round, one.opening, one.size, one.before, list(one.witnesses)]
            for name, one in seen.openings.items()
        ],
        "proof": list(seen.proof),
        "forks": list(seen.forks),
        "gap": seen.gap,
    }
    spool.put_kept(KEY, codec.pack(plain))


def _decode(data: bytes) -> Seen:
    plain = codec.unpack(data, max_bytes=MOST)
    openings = {
        name: Opening(round_, opening, size, before, tuple(witnesses))
        for name, round_, opening, size, before, witnesses in plain["openings"]
    }
    return Seen(
        dict(plain["heads"]), plain["term"], openings, tuple(plain["proof"]), tuple(plain["forks"]), plain["gap"]
    )
