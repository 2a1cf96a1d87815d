"""The decider's logic numbers: how decisions outlive the code that made them.

Replay asks today's decider about yesterday's inputs, so each change of a rule would make old logs disagree. There are
three kinds of change, each with its own means (after temporalio's flags in history and eventsourcing's upcasting):

1. *A record reads differently* (a new field): it is optional and its default means what was before. Where no default
   can mean that, the reader brings old records up to date (`coordinator.record.upcasting`). Rules know one shape only.
2. *A rule decides differently*: `LOGIC` rises by one, and the rule asks `state.logic` (as temporalio's `patched`):
   `if state.logic >= 2: new else: old`. Every entry tells the number it was decided under; `decide` takes it. A number
   that is not known fails, never a guess. The old branch stays as long as `KNOWN` names its number.
3. *A decision is applied differently*: never. Recovery applies what was recorded, without number. What is to mean
   something else is another decision, or another field.

The number holds for an entry, not for an experiment: after an upgrade an experiment goes on under the new rules.
"""

from __future__ import annotations

from typing import Any

LOGIC = 6
"""Under which new decisions are made."""

KNOWN: dict[int, str] = {
    0: "Konsil 0.1: nothing states the number",
    1: "what was found in an experiment file is an input of the decision (`inputs.FileCheck`)",
    2: "what could not be handled is followed by an input that says so (`inputs.HandlingFailed`), and ends as a code",
    3: "what a site says again, and changes nothing, is no decision; figures of sites are held against what they joined"
    " with and against each other (`core.checks`); a site may be excluded; a start says whether its researcher has as"
    " many open experiments as they may (`inputs.Received.full`); a pause that is said while the disk is full outlasts"
    " that",
    4: "a site whose key the operator revoked is taken out (`inputs.Barred`)",
    5: "an experiment may begin with statistics, and a net that follows from them (`core.planning`); training ends"
    " early where scores no longer rise (`rounds.patience`)",
    6: "rounds may be secure: keys, shares, masked updates, consents, reveals; one without a sum is void; no site's"
    " statistics outweigh those of all others, and one that breaks what is pooled is left out; who declines while a"
    " buffer is averaged has its update settled; an experiment ends once its researcher's key is revoked",
}
"""Number → what is decided otherwise from it on. A number that is taken out can be replayed by older versions only."""


def read_number(body: Any) -> int:
    """The logic number in the body of a `term` or `step` entry; 0 where none is stated.

    Raises:
        ValueError: what is stated is no number.
    """
    number = body.get("logic", 0) if isinstance(body, dict) else 0
    if type(number) is not int or number < 0:
        raise ValueError(f"logic = {number!r}")
    return number


def explain_unknown(number: int) -> str | None:
    """Why entries of this number cannot be decided anew here, in words; None where they can."""
    if number in KNOWN:
        return None
    return f"written by decision logic {number}; this version knows {min(KNOWN)} to {max(KNOWN)}"
