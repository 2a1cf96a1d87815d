"""Whether two events of one id say different things: then who signed both has said one thing to some and another to us.

Only what an experiment stands on is compared. A coordinator that says an event again after a restart may date it anew,
leave out who was excluded meanwhile, or give a reason in other words. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from messages.envelope import Event
from messages.kinds import (
    Body,
    EvaluationStart,
    ExperimentAccepted,
    ExperimentComplete,
    RoundComplete,
    RoundStart,
    StatisticsPooled,
)

COMPARED: tuple[type[Body], ...] = (
    RoundStart,
    EvaluationStart,
    RoundComplete,
    ExperimentAccepted,
    ExperimentComplete,
    StatisticsPooled,
)
"""Bodies that are kept to be compared."""


def is_contradiction(first: Event, second: Event, site: str) -> bool:
    """Whether two events of one id cannot both be true, as a site reads them."""
    before, after = _read_facts(first.body, site), _read_facts(second.body, site)
    return any(before[name] != after[name] for name in before.keys() & after.keys())


def _read_facts(body: Body, site: str) -> Mapping[str, object]:
    """Name → what the body says; what only one of two says is no contradiction."""
    if isinstance(body, RoundStart):
        own = None if body.own is None else body.own.get(site)
        facts: dict[str, object] = {"model": (body.transfer, body.model_digest), "evaluate": body.evaluate}
        return facts if own is None else {**facts, "own": own}
    if isinstance(body, EvaluationStart):
        return {f"model {label}": digest for label, digest in body.digests().items()}
    if isinstance(body, RoundComplete):
        return {"model": body.model_digest, "contributors": body.contributors}
    if isinstance(body, ExperimentAccepted):
        return {"file": (body.digest, body.researcher, body.original)}
    if isinstance(body, StatisticsPooled):
        return {"statistics": body.statistics, "configuration": body.configuration}
    if isinstance(body, ExperimentComplete):
        return {"model": body.model.model_digest, "rounds": body.rounds}
    return {}
