"""What a researcher says to the coordinator."""

from __future__ import annotations

from typing import Any

from messages.kinds.base import Body, Code, EventId, RoundNumber, SiteName


class ExperimentStart(Body):
    experiment: dict[str, Any]


class ExperimentAbort(Body):
    pass


class ExperimentPause(Body):
    pass


class ExperimentResume(Body):
    pass


class ExperimentFinish(Body):
    """Ends an experiment with the model that there is."""


class ExperimentExclude(Body):
    """Takes a site out of the rest of an experiment."""

    site: SiteName
    reason: Code


class ModelWanted(Body):
    """Asks for a model that the coordinator keeps: the one that so many rounds made. Nothing is journaled."""

    round: RoundNumber


class ExperimentCheck(Body):
    """Asks which sites are online and would take part; nothing is journaled."""

    experiment: dict[str, Any]
    nonce: EventId
