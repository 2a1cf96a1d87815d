"""How decisions of secure rounds change a job, and what they ask for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from site_agent.core.jobs import Job, Phase, event_of
from site_agent.core.secure.decisions import (
    AwaitMasking,
    KeepInside,
    LeaveSecure,
    MaskAgain,
    TakeMail,
    TakeStep,
    TellSecure,
    TryAgain,
)
from site_agent.core.secure.heard import CLOSING, MASKING, ROSTER, UNMASKING, make_part
from site_agent.core.secure.state import SecurePart

Changes = dict[str, Any]
Work = Literal["secure-keys", "secure-shares", "masking", "secure-consent", "secure-reveal"]
"""What is to be made for a secure round; "masking": the masked update, or the masked figures."""
_ANSWERS: Mapping[str, Work] = MappingProxyType(
    {
        "round-start": "secure-keys",
        "evaluation-start": "secure-keys",
        ROSTER: "secure-shares",
        CLOSING: "secure-consent",
        UNMASKING: "secure-reveal",
    }
)


def find_work(job: Job) -> Work | None:
    """What is to be made now for the job's secure round; None: nothing."""
    part = job.secure
    if part is None:
        return None
    if part.asked is not None:
        return _ANSWERS[event_of(part.asked).kind]
    return "masking" if job.phase is Phase.MASKING and part.can_mask else None


def _of_part(job: Job, **changes: Any) -> Changes:
    part = job.secure
    assert part is not None  # noqa: S101 (for mypy: what is decided of a secure round has one)
    return {"secure": part.model_copy(update=changes)}


def _try_again(job: Job, x: TryAgain) -> Changes:
    return {"opening": x.opening, "start": x.raw, "secure": make_part(event_of(x.raw))}


def _take_step(job: Job, x: TakeStep) -> Changes:
    kind = event_of(x.raw).kind
    field = {ROSTER: "roster", MASKING: "masking", CLOSING: "closing"}.get(kind)
    asked = {} if kind == MASKING else {"asked": x.raw}
    kept = {} if field is None else {field: x.raw}
    return {"opening": x.opening, **_of_part(job, **asked, **kept)}


def _tell(job: Job, x: TellSecure) -> Changes:
    part = job.secure
    assert part is not None  # noqa: S101 (as above)
    said = _of_part(job, asked=None, answered=(*part.answered, x.kind))
    return {**said, "phase": Phase.REPORTED, "start": None} if x.kind == "secure-figures" else said


def leave_round(job: Job) -> Changes:
    """What is left of a secure round once the site is out of it: which one it was, where masking had begun in it."""
    part: SecurePart | None = job.secure
    if part is None:
        return {}
    begun = part.masking is not None
    return {"secure": None, "trained": None, "barred": max(job.barred, job.round) if begun else job.barred}


def note_announced(job: Job) -> Changes:
    """The masked update is announced."""
    part = job.secure
    return {} if part is None else _of_part(job, answered=(*part.answered, "weights-ready"))


CHANGES: Mapping[type, Callable[[Job, Any], Changes]] = MappingProxyType(
    {
        TryAgain: _try_again,
        TakeStep: _take_step,
        TakeMail: lambda job, x: _of_part(job, mail=x.raw),
        TellSecure: _tell,
        KeepInside: lambda job, x: {"phase": Phase.MASKING, "trained": x.trained},
        AwaitMasking: lambda job, x: {"phase": Phase.MASKING},
        MaskAgain: lambda job, x: {"phase": Phase.MASKING, "update": None, "sealed": False},
        LeaveSecure: lambda job, x: leave_round(job),
    }
)
"""What each decision changes in its job."""
