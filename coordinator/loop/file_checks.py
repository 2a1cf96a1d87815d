"""What an experiment file that comes is, by the model and the registry of nets of this version: found once, recorded.

The decider gets the findings as an input (`inputs.FileCheck`); it never looks at the file itself.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator.core.admission import MOST_WORDS
from coordinator.core.inputs import FileCheck
from coordinator.core.records import ModelOrigin
from messages import codec
from messages.envelope import Event
from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.ground.settings import parse_settings
from messages.kinds import ExperimentStart
from messages.reasons import Reason
from nets import registry

MOST_FILE_BYTES = 256 * 2**10
"""Of an experiment file, packed. Events that repeat it, and what is told to a site that returns, fit into an event of
4 MiB, whatever the file describes; and an entry with it fits into its sender's hour."""
Find = Callable[[Experiment, str], ModelOrigin | None]
"""(experiment, researcher) → the model that its file names to begin with, or a ConfigError."""


def find_nothing(experiment: Experiment, researcher: str) -> ModelOrigin | None:
    """Of a coordinator that has no model: a file that names one is refused."""
    if experiment.net.origin is not None:
        raise ConfigError(f"from = {experiment.net.origin!r}: there is no model here", where="net")
    return None


def check_file(event: Event, find: Find = find_nothing) -> FileCheck | None:
    """What is found in the file of an experiment-start; None for an event of another kind."""
    if not isinstance(event.body, ExperimentStart):
        return None
    if (size := len(codec.pack(event.body.experiment))) > MOST_FILE_BYTES:
        return _bad_file(Reason.INVALID_EXPERIMENT, f"the file takes {size} bytes, and at most {MOST_FILE_BYTES}")
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
        origin = find(experiment, event.sender)
    except ConfigError as error:
        return _bad_file(Reason.INVALID_EXPERIMENT, str(error), experiment.digest())
    return FileCheck(
        file=experiment.as_plain(),
        digest=experiment.digest(),
        sites=experiment.sites,
        expires=experiment.expires.isoformat() if experiment.expires is not None else None,
        enrol_within=experiment.rounds.enrol_within,
        keep_updates=_rounds_kept(experiment.keep_updates),
        origin=origin,
    )


def _bad_file(reason: Reason, mistakes: str, digest: str = "") -> FileCheck:
    return FileCheck(reason=reason, mistakes=mistakes[:MOST_WORDS], digest=digest)


def _rounds_kept(wish: str | int) -> int | None:
    return wish if isinstance(wish, int) else {"all": None, "none": 0}[wish]
