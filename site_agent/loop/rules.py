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
from messages.names import UPLINK
from messages.reasons import Reason
from messages.trust.verifier import Verifier
from site_agent.config import SiteConfig
from site_agent.core import policy
from site_agent.core.policy import PolicyVerdict
from site_agent.data.described import concepts_of
from site_agent.data.forecast import foresee_trouble

START_HOLDS = 366 * 86400.0
"""Seconds for which a researcher's signed start of an experiment may be announced: never again years later."""
log = structlog.get_logger()
_REFUSED = {one.value: one for one in (Reason.SIGNATURE_MISSING, Reason.NO_GOOD_KEY, Reason.BAD_SIGNATURE)}
"""What is said of an experiment that its researcher did not sign; anything else is malformed, as in 0.1."""


class Rules:
    """Judges for one site."""

    def __init__(self, config: SiteConfig, clock: Clock, verifier: Verifier | None = None) -> None:
        self.config, self._clock = config, clock
        self._verifier = verifier or Verifier(config.site.consortium)
        self.floors = config.policy.floors

    def judge_accepted(self, body: ExperimentAccepted) -> PolicyVerdict:
        """Judge an announced experiment; the researcher's own event has to say the same as the coordinator."""
        early = self.judge_experiment(body.experiment, body.researcher)
        if early.reason in (Reason.NOT_INVITED, Reason.UNSUPPORTED):
            return early
        try:
            original = decode_stored(body.original)
            start = original.body
            if not isinstance(start, ExperimentStart) or original.sender != body.researcher:
                return PolicyVerdict(Reason.SENDER_MISMATCH)
            self._verifier.check_enclosed(original, UPLINK, self._clock.wall(), "researcher")
            if self._verifier.register is not None and original.time < self._clock.wall() - START_HOLDS:
                return PolicyVerdict(Reason.EXPERIMENT_EXPIRED)
            digests = {Experiment.model_validate(plain).digest() for plain in (start.experiment, body.experiment)}
        except ValidationError:
            return PolicyVerdict(Reason.MALFORMED)
        except MalformedMessage as error:
            return PolicyVerdict(_REFUSED.get(error.reason, Reason.MALFORMED))
        if digests != {body.digest}:
            return PolicyVerdict(Reason.WRONG_DIGEST)
        return self.judge_experiment(body.experiment, body.researcher, self._verifier.find_signer(original))

    def judge_experiment(self, plain: dict[str, Any], researcher: str, signer: str | None = None) -> PolicyVerdict:
        """Judge an experiment file for a researcher, whose event a key of this fingerprint has signed."""
        try:
            experiment = Experiment.model_validate(plain)
        except ValidationError:
            return PolicyVerdict(Reason.UNSUPPORTED)
        verdict = policy.judge_experiment(
            self.config.policy,
            experiment,
            researcher,
            self.config.site.name,
            self._known_concepts(experiment.data.dataset),
            self._clock.local().date(),
            signer,
            self.config.readable_by_trainers,
            self.config.budgeted,
        )
        if verdict.allowed and experiment.privacy.secure_aggregation and self.config.trust is None:
            # Without keys nobody knows whose masks these are: the coordinator could invent every other site.
            return PolicyVerdict(Reason.NO_GOOD_KEY, verdict.by_hand, signer=signer)
        return verdict

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
