"""Judging an experiment-start from what was found in its file: may this researcher, with these sites, today?

Pure, and without a look at the experiment's model or the registry of nets: both change with the versions. What they say
is an input (`inputs.FileCheck`), so that the decision can be made again by any later version.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

from coordinator.core import decisions as d
from coordinator.core.inputs import Received
from messages.reasons import Reason

MOST_WORDS = 4000
"""Characters of the mistakes that a researcher is told."""


def judge_start(given: Received) -> d.Accepted | d.StartRefused:
    """Accept a first experiment-start, or say why not.

    Raises:
        ValueError: nothing was found out about its file.
    """
    event, found = given.event, given.file_check

    def refuse(reason: Reason, mistakes: str = "") -> d.StartRefused:
        return d.StartRefused(
            experiment=event.experiment, event=event.id, reason=reason, mistakes=mistakes[:MOST_WORDS]
        )

    if not given.known:
        return refuse(Reason.RESEARCHER_NOT_ALLOWED)
    if found is None:
        raise ValueError("an experiment-start without what was found in its file")
    if found.reason is not None:
        return refuse(found.reason, found.mistakes)
    if strangers := sorted(set(found.sites) - set(given.admitted)):
        return refuse(Reason.UNKNOWN_SITE, f"sites: {', '.join(strangers)} are not admitted to the consortium")
    if given.full:
        return refuse(Reason.TOO_MANY_EXPERIMENTS)
    if found.expires and date.fromisoformat(found.expires) < datetime.fromtimestamp(given.time, UTC).date():
        return refuse(Reason.EXPERIMENT_EXPIRED, f"expires = {found.expires}: that day is over")
    return d.Accepted(
        experiment=found.file,
        digest=found.digest,
        researcher=event.sender,
        original=event.raw,
        time=given.time,
        enrol_due=given.time + found.enrol_within,
        keep_updates=_kept_rounds(found.keep_updates, given.keep_cap),
        bounds=given.bounds,
        origin=found.origin,
    )


def _kept_rounds(wanted: int | None, cap: int | None) -> int | None:
    """Rounds whose updates are kept, None for all; the operator's cap wins."""
    if cap is None:
        return wanted
    return cap if wanted is None else min(wanted, cap)
