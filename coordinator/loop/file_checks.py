"""What an experiment file that comes is, by the model and the registry of nets of this version: found once, recorded.

The decider gets the findings as an input (`inputs.FileCheck`); it never looks at the file itself.
"""

from __future__ import annotations

from coordinator.core.admission import MOST_WORDS
from coordinator.core.inputs import FileCheck
from messages.envelope import Event
from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.ground.settings import parse_settings
from messages.kinds import ExperimentStart
from messages.reasons import Reason
from nets import registry


def check_file(event: Event) -> FileCheck | None:
    """What is found in the file of an experiment-start; None for an event of another kind."""
    if not isinstance(event.body, ExperimentStart):
        return None
    try:
        experiment = parse_settings(event.body.experiment, Experiment, "experiment")
        if experiment.id != event.experiment:
            raise ConfigError(f"id = {experiment.id!r}: the event was sent for {event.experiment!r}")
    except ConfigError as error:
        return _bad_file(Reason.INVALID_EXPERIMENT, error.what)
    try:
        registry.spec_of(experiment)
    except ConfigError as error:
        return _bad_file(Reason.UNKNOWN_NET, str(error), experiment.digest())
    try:
        registry.check_net(experiment)
    except ConfigError as error:
        return _bad_file(Reason.INVALID_EXPERIMENT, str(error), experiment.digest())
    return FileCheck(
        file=experiment.as_plain(),
        digest=experiment.digest(),
        sites=experiment.sites,
        expires=experiment.expires.isoformat() if experiment.expires is not None else None,
        enrol_within=experiment.rounds.enrol_within,
        keep_updates=_rounds_kept(experiment.keep_updates),
    )


def _bad_file(reason: Reason, mistakes: str, digest: str = "") -> FileCheck:
    return FileCheck(reason=reason, mistakes=mistakes[:MOST_WORDS], digest=digest)


def _rounds_kept(wish: str | int) -> int | None:
    return wish if isinstance(wish, int) else {"all": None, "none": 0}[wish]
