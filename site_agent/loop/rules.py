"""What the operator's file says about an experiment today: the policy with its clock, data sets and hours applied."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import ValidationError

from messages.envelope import decode_stored
from messages.experiment import Experiment
from messages.ground.clock import Clock
from messages.ground.errors import MalformedMessage
from messages.kinds import ExperimentAccepted, ExperimentStart
from messages.reasons import Reason
from site_agent.config import SiteConfig
from site_agent.core import policy
from site_agent.core.policy import PolicyVerdict
from site_agent.data.described import concepts_of
from site_agent.data.forecast import foresee_trouble

log = structlog.get_logger()


class Rules:
    """Judges for one site."""

    def __init__(self, config: SiteConfig, clock: Clock) -> None:
        self.config, self._clock = config, clock
        self.floors = config.policy.floors

    def judge_accepted(self, body: ExperimentAccepted) -> PolicyVerdict:
        """Judge an announced experiment; the researcher's own event has to say the same as the coordinator."""
        verdict = self.judge_experiment(body.experiment, body.researcher)
        if verdict.reason in (Reason.NOT_INVITED, Reason.UNSUPPORTED):
            return verdict
        try:
            original = decode_stored(body.original)
            start = original.body
            if not isinstance(start, ExperimentStart) or original.sender != body.researcher:
                return PolicyVerdict(Reason.SENDER_MISMATCH)
            digests = {Experiment.model_validate(plain).digest() for plain in (start.experiment, body.experiment)}
        except (MalformedMessage, ValidationError):
            return PolicyVerdict(Reason.MALFORMED)
        return verdict if digests == {body.digest} else PolicyVerdict(Reason.WRONG_DIGEST)

    def judge_experiment(self, plain: dict[str, Any], researcher: str) -> PolicyVerdict:
        """Judge an experiment file for a researcher."""
        try:
            experiment = Experiment.model_validate(plain)
        except ValidationError:
            return PolicyVerdict(Reason.UNSUPPORTED)
        return policy.judge_experiment(
            self.config.policy,
            experiment,
            researcher,
            self.config.site.name,
            self._known_concepts(experiment.data.dataset),
            self._clock.local().date(),
            self.config.readable_by_trainers,
        )

    def foresee_trouble(self, plain: dict[str, Any]) -> tuple[bool, Reason | None]:
        """Whether an experiment that the policy allows could be trained here, as far as can be seen; any thread."""
        try:
            experiment = Experiment.model_validate(plain)
            config = self.config.datasets[experiment.data.dataset]
            return foresee_trouble(config, experiment, has_gpu=bool(self.config.limits.gpus))
        except Exception:
            log.critical("an experiment cannot be looked at: a defect", exc_info=True)
            return True, None

    def _known_concepts(self, name: str) -> dict[str, set[str]]:
        config = self.config.datasets.get(name)
        return {} if config is None else {name: concepts_of(config)}

    def opens_in(self) -> float:
        """Seconds until new work may begin, by the site's clock; 0 within the hours."""
        hours, now = self.config.limits.hours, self._clock.local()
        if hours is None or hours.include(now.time()):
            return 0.0
        begin = datetime.combine(now.date(), hours.begin)
        if begin < now:
            begin += timedelta(days=1)
        return (begin - now).total_seconds()

    def opens_at(self) -> datetime | None:
        """When the hours begin, to the minute; None within them."""
        wait = self.opens_in()
        return self._clock.local() + timedelta(seconds=wait) if wait else None
