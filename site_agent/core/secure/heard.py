"""What the coordinator says in a secure round, and our own parts of it: (agenda, job, input) → decisions. Pure.

The order of a try's steps is the order of `_FOLLOWS`. What a step asks for is judged where the secrets are
(`site_agent.secure`), which says `SecureAnswered` or `SecureRefused`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from messages import kinds
from messages.envelope import Event
from messages.reasons import Reason
from site_agent.core.answers import Decisions, handles
from site_agent.core.decisions import Drop, GiveUp, Hold, Ignore, Keep, PassBy
from site_agent.core.inputs import Heard, SecureAnswered, SecureRefused, UpdateMasked
from site_agent.core.jobs import Agenda, Job, Phase, Trained, event_of, experiment_of
from site_agent.core.secure.decisions import (
    KeepInside,
    LeaveSecure,
    TakeMail,
    TakeStep,
    TellSecure,
    TryAgain,
)
from site_agent.core.secure.state import SecurePart, TrainedInside
from site_agent.core.steps import opening_of, order_of

ROSTER, MASKING, CLOSING, UNMASKING = "secure-roster", "secure-masking", "secure-closing", "secure-unmasking"
STEPS = (ROSTER, MASKING, CLOSING, UNMASKING)
"""Kinds that open a step of a secure round behind its first."""
_FOLLOWS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        ROSTER: ("secure-keys",),
        MASKING: ("secure-shares",),
        CLOSING: ("weights-ready", "secure-figures"),
        UNMASKING: ("weights-ready", "secure-figures"),
    }
)
"""Kind → what the site has said before in this try: one of them; else it has no part in that step."""
NEVER_ALONE = (Phase.FETCHING, Phase.TRAINING, Phase.MASKING, Phase.EVALUATING)
"""Where a new try finds the site at work for the round still."""


def start_of(event: Event) -> kinds.SecureStart | None:
    """What an event says that opens a step, if that is of a secure round."""
    body = event.body
    return body.secure if isinstance(body, kinds.RoundStart | kinds.EvaluationStart) else None


def judge_start(job: Job, event: Event) -> Reason | None:
    """Why a round's or an evaluation's opening is not taken on; None where it may be.

    Under a file that asks for secure rounds nothing is done for another one, whoever says so. After a disk went back in
    time, and once a masked update is out, no secure step is taken in that round.
    """
    if not isinstance(event.body, kinds.RoundStart | kinds.EvaluationStart):
        return None
    start, privacy = start_of(event), experiment_of(job).privacy
    if start is None:
        return Reason.PRIVACY_BELOW_FLOOR if privacy.secure_aggregation else None
    if privacy.secure_aggregation != "masks":
        return Reason.WRONG_STATE
    if event.round <= job.barred:
        return Reason.SECRETS_LOST
    return Reason.BAD_ROSTER if start.threshold != (privacy.threshold or "two-thirds") else None


def hear_again(agenda: Agenda, job: Job, event: Event, sites: tuple[str, ...]) -> Decisions | None:
    """A round's opening that is a new try of the secure round which the site works for; None: it is something else.

    Records `TryAgain`; `Drop` and `PassBy` where it goes on without this site. Nothing once masking has begun.
    """
    part, start = job.secure, start_of(event)
    if part is None or start is None or event.round != job.round or event.kind != event_of(part.start).kind:
        return None
    opening = opening_of(event)
    if part.masking is not None or start.tried <= part.tried:
        return (Ignore(job.experiment, Reason.WRONG_STATE),)
    if agenda.site not in sites:
        return (Drop(job.experiment), PassBy(job.experiment, event.round, opening))
    if not _names_same_models(event, event_of(part.start)) or judge_start(job, event) is not None:
        return (GiveUp(job.experiment, event.round, opening, Reason.BAD_ROSTER),)
    return (TryAgain(job.experiment, opening, event.raw),)


def _names_same_models(one: Event, other: Event) -> bool:
    """Whether two openings are of the same models, under the same seals."""
    if isinstance(one.body, kinds.RoundStart) and isinstance(other.body, kinds.RoundStart):
        return (one.body.transfer, one.body.model_digest) == (other.body.transfer, other.body.model_digest)
    if isinstance(one.body, kinds.EvaluationStart) and isinstance(other.body, kinds.EvaluationStart):
        return (one.body.models, one.body.combined) == (other.body.models, other.body.combined)
    return False


@handles(Heard)
def hear_step(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """secure-roster, -masking, -closing or -unmasking. Records `TakeStep`; `Drop` and `PassBy` where masking goes on
    without this site. Nothing where the site has no part in the step."""
    event, part = heard.event, job.secure
    if part is None or event.round != job.round or order_of(event) <= (job.round, job.opening):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if _tried(event) != part.tried:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if (event.kind == ROSTER and part.roster) or (event.kind == MASKING and part.masking):
        return (Ignore(job.experiment, Reason.DUPLICATE),)  # a try has one roster, and is masked under one context
    unseen = event.kind == UNMASKING and part.closing is None  # its consent may be late, and is not waited for
    if unseen or not set(_FOLLOWS[event.kind]) & set(part.answered):
        goes_on = event.kind in (ROSTER, MASKING)  # without what it has not said, it is in neither
        left: Decisions = (Drop(job.experiment), PassBy(job.experiment, event.round, opening_of(event)))
        return left if goes_on else (Ignore(job.experiment, Reason.WRONG_STATE),)
    if event.kind == MASKING and agenda.site not in getattr(event.body, "weights", {}):
        return (Drop(job.experiment), PassBy(job.experiment, event.round, opening_of(event)))
    return (TakeStep(job.experiment, opening_of(event), event.raw),)


@handles(Heard)
def hear_mail(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """secure-mail: what the others sealed for this site. Records `TakeMail`, once a try."""
    event, part = heard.event, job.secure
    if part is None or event.round != job.round or _tried(event) != part.tried or part.mail is not None:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (TakeMail(job.experiment, event.raw),)


def _tried(event: Event) -> int:
    return int(getattr(event.body, "tried", 0))


@handles(Heard)
def hear_over(agenda: Agenda, job: Job, heard: Heard) -> Decisions:
    """round-complete or round-void of a round that the site has nothing more to train for. Records `LeaveSecure`, and
    `Hold` of nothing: that round needs it no more."""
    left: Decisions = ()
    if job.secure is not None and heard.event.round >= job.round:
        left = (LeaveSecure(job.experiment),)
    if job.pending is not None and event_of(job.pending).round <= heard.event.round:
        left = (*left, Hold(job.experiment, None))
    return left or (Ignore(job.experiment, Reason.WRONG_ROUND),)


# what our own parts say


def _is_of(job: Job, said: SecureAnswered | SecureRefused) -> bool:
    return job.secure is not None and (said.round, said.opening) == (job.round, job.opening)


@handles(SecureAnswered)
def take_answered(agenda: Agenda, job: Job, said: SecureAnswered) -> Decisions:
    """A step can be answered. Records `TellSecure`, which keeps what was done in the same transaction."""
    part = job.secure
    if part is None or not _is_of(job, said) or said.kind in part.answered:
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    return (TellSecure(job.experiment, said.kind, said.body, said.kept),)


@handles(SecureRefused)
def take_refused(agenda: Agenda, job: Job, said: SecureRefused) -> Decisions:
    """A step is not answered. Records `GiveUp`; where it goes on without this site `Drop` and `PassBy`; `LeaveSecure`
    once the update is out, which nothing takes back: nothing more is said of the round then."""
    part = job.secure
    if part is None or not _is_of(job, said):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if "weights-ready" in part.answered or "secure-figures" in part.answered:
        return (LeaveSecure(job.experiment),)
    if said.reason is Reason.ABSENT:
        return (Drop(job.experiment), PassBy(job.experiment, said.round, said.opening))
    return (GiveUp(job.experiment, said.round, said.opening, said.reason),)


@handles(TrainedInside)
def take_trained(agenda: Agenda, job: Job, said: TrainedInside) -> Decisions:
    """The trainer has written what it trained. Records `KeepInside`, or `GiveUp` where no case was used."""
    if job.secure is None or agenda.running != job.experiment or (said.round, said.attempt) != (job.round, job.attempt):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    if said.cases < 1:
        return (GiveUp(job.experiment, job.round, job.opening, Reason.TOO_FEW_CASES),)
    return (KeepInside(job.experiment, said),)


@handles(UpdateMasked)
def take_masked(agenda: Agenda, job: Job, said: UpdateMasked) -> Decisions:
    """The masked update is complete. Records `Keep`: it may leave."""
    inside = job.trained
    if job.secure is None or inside is None or (said.round, said.attempt) != (job.round, job.attempt):
        return (Ignore(job.experiment, Reason.WRONG_ROUND),)
    told = Trained(
        experiment=job.experiment,
        round=said.round,
        attempt=said.attempt,
        transfer=said.transfer,
        cases=inside.cases,
        epochs=inside.epochs,
        steps=inside.steps,
        loss=None,
        seconds=inside.seconds,
        epsilon=inside.epsilon,
    )
    return (Keep(job.experiment, told),)


def make_part(event: Event) -> SecurePart | None:
    """A site's part in the try that an event opens; None: it opens none."""
    start = start_of(event)
    return None if start is None else SecurePart(tried=start.tried, start=event.raw, asked=event.raw)
