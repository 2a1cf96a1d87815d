"""From the journal's entries back to states: nothing but `evolve` over the recorded decisions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.evolve import fold_decisions
from coordinator.core.logic import LOGIC
from coordinator.core.state import ExperimentState
from coordinator.record.journal import STEP
from coordinator.record.numbering import unreadable_error
from messages import codec
from messages.chain import MAX_ENTRY, Entry
from messages.ground.errors import LogBroken, MalformedMessage

BESIDE = ("file_check",)
"""Fields of an input that stand beside it in the body: a reader of 0.1 refuses them in it, and reads over them here."""


def step_body(given: i.AnyInput, decided: Iterable[d.AnyDecision], logic: int = LOGIC) -> dict[str, Any]:
    """The body of a step's entry. It names its logic number, since an export has no `term` entries."""
    plain = i.to_plain(given)
    beside = {name: plain.pop(name) for name in BESIDE if name in plain}
    return {"input": plain, "decisions": [d.to_plain(one) for one in decided], **beside, "logic": logic}


def read_body(body: Mapping[str, Any]) -> tuple[i.AnyInput, tuple[d.AnyDecision, ...]]:
    """Input and decisions of what `step_body` made; KeyError, TypeError or ValueError where it did not."""
    plain = body["input"] | {name: body[name] for name in BESIDE if name in body}
    return i.from_plain(plain), tuple(d.from_plain(one) for one in body["decisions"])


def read_step(entry: Entry) -> tuple[i.AnyInput, tuple[d.AnyDecision, ...]]:
    """Input and decisions of a step's entry; LogBroken where it cannot be read."""
    try:
        return _read_again(entry.body)
    except (MalformedMessage, KeyError, TypeError, ValueError):
        raise unreadable_error(entry) from None


@lru_cache(maxsize=8)
def _read_again(body: bytes) -> tuple[i.AnyInput, tuple[d.AnyDecision, ...]]:
    """What several readers ask of one entry, one after the other: its story, its times, what is decided anew."""
    return read_body(codec.unpack(body, max_bytes=MAX_ENTRY))


def recover_states(entries: Iterable[Entry]) -> dict[str, ExperimentState]:
    """The state of every experiment after these entries."""
    states: dict[str, ExperimentState] = {}
    for entry in entries:
        if entry.type == STEP:
            decided = read_step(entry)[1]
            try:
                state = fold_decisions(states.get(entry.experiment), decided)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise LogBroken(
                    "what was decided there cannot be applied",
                    where=f"entry {entry.index} of {entry.experiment} (journal number {entry.number})",
                    advice="Use the Konsil version that wrote the journal",
                ) from None
            if state is not None:
                states[entry.experiment] = state
    return states
