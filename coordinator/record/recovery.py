"""From the journal's entries back to states: nothing but `evolve` over the recorded decisions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.evolve import fold
from coordinator.core.state import ExperimentState
from coordinator.record.journal import STEP
from messages import codec
from messages.chain import MAX_ENTRY, Entry
from messages.ground.errors import LogBroken, MalformedMessage


def step_body(given: i.AnyInput, decided: Iterable[d.AnyDecision]) -> dict[str, Any]:
    """The body of a step's entry."""
    return {"input": i.to_plain(given), "decisions": [d.to_plain(one) for one in decided]}


def read_step(entry: Entry) -> tuple[i.AnyInput, tuple[d.AnyDecision, ...]]:
    """Input and decisions of a step's entry; LogBroken where it cannot be read."""
    try:
        body = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
        return i.from_plain(body["input"]), tuple(d.from_plain(one) for one in body["decisions"])
    except (MalformedMessage, KeyError, TypeError, ValueError):
        where = f"entry {entry.index} of {entry.experiment} (journal number {entry.number})"
        raise LogBroken(
            "the step cannot be read", where=where, advice="Use the Konsil version that wrote the journal"
        ) from None


def recover(entries: Iterable[Entry]) -> dict[str, ExperimentState]:
    """The state of every experiment after these entries."""
    states: dict[str, ExperimentState] = {}
    for entry in entries:
        if entry.type == STEP:
            decided = read_step(entry)[1]
            try:
                state = fold(states.get(entry.experiment), decided)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise LogBroken(
                    "what was decided there cannot be applied",
                    where=f"entry {entry.index} of {entry.experiment} (journal number {entry.number})",
                    advice="Use the Konsil version that wrote the journal",
                ) from None
            if state is not None:
                states[entry.experiment] = state
    return states
