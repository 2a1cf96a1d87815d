"""What each list of the withdrawn named and matched before: a list that shrinks loses people whom nobody took off it.

An empty list, a list that was cut off, or names of the data that changed: nothing is wrong with what is there, and
somebody is trained on. So the numbers of the last time that they were others are kept, and fewer ones are told. Counts
alone lie on disk: STATE/lists.json.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from messages.ground.durable import replace_file
from site_agent.datasets.consent import Consent

_FILE = "lists.json"


def recall_before(state: Path, name: str, consent: Consent | None, *, keeps: bool = True) -> Consent | None:
    """What became of a list, with what it named and matched before, where that was more.

    Args:
        name: of the data set. keeps: whether these numbers are kept for the next time.
    """
    if consent is None:
        return None
    kept = _read_kept(state)
    now = [consent.entries, consent.matched]
    last, before = kept.get(name, [now, now])
    if last != now:
        last, before = now, last
    if keeps and kept.get(name) != [last, before]:
        with contextlib.suppress(OSError):  # a reminder is not worth a data set
            replace_file(state / _FILE, json.dumps(kept | {name: [last, before]}).encode(), mode=0o600)
    nouns = ("names", "matches")
    fewer = tuple(
        f"FEWER THAN BEFORE: it {noun} {after}, and did {earlier}"
        for noun, after, earlier in zip(nouns, now, before, strict=True)
        if after < earlier
    )
    return replace(consent, fewer=fewer)


def _read_kept(state: Path) -> dict[str, Any]:
    try:
        kept = json.loads((state / _FILE).read_bytes())
        return {
            name: [[int(one) for one in numbers] for numbers in both]
            for name, both in kept.items()
            if [len(numbers) for numbers in both] == [2, 2]
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
