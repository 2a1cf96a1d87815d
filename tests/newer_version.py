"""Events as a version later than this one may write them."""

from __future__ import annotations

from typing import Any

from messages import codec
from messages.abilities import VOCABULARY
from messages.envelope import event_id

NEWER = {"words": VOCABULARY + 1}


def written(
    kind: str,
    body: dict[str, Any],
    ext: dict[str, Any],
    *,
    sender: str,
    consortium: str,
    experiment: str = "exp-1",
    round_number: int = 0,
    seq: int = 1,
    term: int = 0,
) -> bytes:
    """An event with any body and `ext`."""
    payload = {
        "v": 1,
        "kind": kind,
        "id": event_id(experiment, round_number, kind, sender),
        "consortium": consortium,
        "experiment": experiment,
        "round": round_number,
        "sender": sender,
        "attempt": "1",
        "incarnation": 7,
        "seq": seq,
        "time": 1.0,
        "term": term,
        "body": body,
        "ext": ext,
    }
    return codec.pack([codec.pack(payload), b""])
