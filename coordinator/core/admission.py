"""Judging an experiment-start: is the file valid, are net, sites and researcher known, is it still allowed?"""

from __future__ import annotations

from datetime import UTC, datetime

from coordinator.core import decisions as d
from coordinator.core.inputs import Received
from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.ground.settings import parse
from messages.kinds import ExperimentStart
from messages.reasons import Reason
from nets import registry


def judge(given: Received) -> d.Accepted | d.StartRefused:
    """Accept a first experiment-start, or say why not."""
    event = given.event
    assert isinstance(event.body, ExperimentStart)  # noqa: S101  (the kind's model is checked at decoding)

    def refuse(reason: Reason, mistakes: str = "") -> d.StartRefused:
        return d.StartRefused(experiment=event.experiment, event=event.id, reason=reason, mistakes=mistakes[:4000])

    if not given.known:
        return refuse(Reason.RESEARCHER_NOT_ALLOWED)
    try:
        experiment = parse(event.body.experiment, Experiment, "experiment")
        if experiment.id != event.experiment:
            raise ConfigError(f"id = {experiment.id!r}: the event was sent for {event.experiment!r}")
    except ConfigError as error:
        return refuse(Reason.INVALID_EXPERIMENT, error.what)
    try:
        registry.read({"name": experiment.net.name, **experiment.net.parameters})
    except ConfigError as error:
        return refuse(Reason.UNKNOWN_NET, str(error))
    try:
        registry.check(experiment)
    except ConfigError as error:
        return refuse(Reason.INVALID_EXPERIMENT, str(error))
    if strangers := sorted(set(experiment.sites) - set(given.admitted)):
        return refuse(Reason.UNKNOWN_SITE, f"sites: {', '.join(strangers)} are not admitted to the consortium")
    if experiment.expires is not None and experiment.expires < datetime.fromtimestamp(given.time, UTC).date():
        return refuse(Reason.EXPERIMENT_EXPIRED, f"expires = {experiment.expires}: that day is over")
    return d.Accepted(
        experiment=experiment.plain(),
        digest=experiment.digest(),
        researcher=event.sender,
        original=event.raw,
        time=given.time,
        enrol_due=given.time + experiment.rounds.enrol_within,
        keep_updates=_kept(experiment, given.keep_cap),
    )


def _kept(experiment: Experiment, cap: int | None) -> int | None:
    """Rounds whose updates are kept, None for all; the operator's cap wins."""
    wish = {"all": None, "none": 0}.get(str(experiment.keep_updates), experiment.keep_updates)
    wanted = wish if isinstance(wish, int) else None
    if cap is None:
        return wanted
    return cap if wanted is None else min(wanted, cap)
