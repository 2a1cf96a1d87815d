"""Inputs of older logic brought up to date, so that the decider knows one shape only.

Logic 0 (Konsil 0.1) judged an experiment file while it decided, by the model and the nets of its day. Later versions
have the findings as an input. For entries of 0.1 they are taken from what was decided then: that is what was found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.state import ExperimentState
from messages import forms
from messages.kinds import ExperimentStart
from messages.reasons import Reason

OF_THE_FILE = frozenset({Reason.INVALID_EXPERIMENT, Reason.UNKNOWN_NET})
"""Refusals that say what was found in a file; the others follow from other inputs."""


def upcast_input(
    logic: int, given: i.AnyInput, recorded: Iterable[d.AnyDecision], before: ExperimentState | None
) -> i.AnyInput:
    """The input as this version writes it.

    Args:
        logic: the number that the entry was written under.
        recorded: what was decided on it.
        before: the experiment's state then.
    """
    if logic > 0 or not isinstance(given, i.Received) or not given.known or given.file_check is not None:
        return given
    body = given.event.body
    if not isinstance(body, ExperimentStart):
        return given
    return given.model_copy(update={"file_check": _find_check(body.experiment, tuple(recorded), before)})


def _find_check(
    said: dict[str, Any], recorded: tuple[d.AnyDecision, ...], before: ExperimentState | None
) -> i.FileCheck:
    accepted = next((one for one in recorded if isinstance(one, d.Accepted)), None)
    refused = next((one for one in recorded if isinstance(one, d.StartRefused)), None)
    if accepted is not None:
        return _of_form_0(accepted.experiment)
    if before is not None:
        return i.FileCheck(digest=before.digest if refused is None else "")
    if refused is not None and refused.reason in OF_THE_FILE:
        return i.FileCheck(reason=refused.reason, mistakes=refused.mistakes)
    return i.FileCheck(sites=tuple(said.get("sites", ())), expires=said.get("expires"))


def _of_form_0(file: dict[str, Any]) -> i.FileCheck:
    """The digest is taken anew: it has to be that of the file which stands in the record."""
    keep = file["keep_updates"]
    return i.FileCheck(
        file=file,
        digest=forms.digest_of(0, file),
        sites=tuple(file["sites"]),
        expires=file["expires"],
        enrol_within=file["rounds"]["enrol_within"],
        keep_updates=keep if isinstance(keep, int) else {"all": None, "none": 0}[keep],
    )
