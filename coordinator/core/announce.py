"""The events that tell an experiment's state: built from the state alone, to be said again at any time."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.core.state import ExperimentState, Phase, Step
from messages import kinds
from messages.kinds import Body


@dataclass(frozen=True, slots=True)
class Announcement:
    """One event of the coordinator on `downlink`; the same fields always give the same event id."""

    kind: str
    experiment: str
    body: Body
    round: int = 0
    attempt: int | str = 1


def accepted(state: ExperimentState) -> Announcement:
    body = kinds.ExperimentAccepted(
        experiment=dict(state.file),
        digest=state.digest,
        researcher=state.researcher,
        original=state.original,
        enrol_within=state.experiment.rounds.enrol_within,
    )
    return Announcement("experiment-accepted", state.id, body)


def transfer(state: ExperimentState, number: int, *, exact: bool = False) -> kinds.Transfer:
    """The transfer of the model that round `number` received.

    Args:
        exact: its own bytes, as they are evaluated and published. Where the round sent it in another codec that is a
            second attempt of the transfer: the same model, other bytes.
    """
    if state.manifest is None:
        raise ValueError("no model yet")
    model = state.models[number]
    if model.wire is None:
        return kinds.Transfer(round=number, attempt=1, seal=model.seal, manifest=state.manifest)
    if exact:
        return kinds.Transfer(round=number, attempt=2, seal=model.seal, manifest=state.manifest)
    sent = state.manifest.in_codec(state.codec.model)
    return kinds.Transfer(round=number, attempt=1, seal=model.wire, manifest=sent)


def candidate(state: ExperimentState, label: str, rounds: int) -> kinds.Candidate:
    """The model that `rounds` rounds made: the one that the round after them received."""
    return kinds.Candidate.model_validate(
        {
            "label": label,
            "transfer": transfer(state, rounds + 1, exact=True),
            "model_digest": state.models[rounds + 1].digest,
        }
    )


def candidates(state: ExperimentState) -> list[kinds.Candidate]:
    """What the final evaluation scores: the final model, and the best-scored one where that is another."""
    models = [candidate(state, "final", state.completed)]
    if state.selected is not None and state.selected != state.completed:
        models.append(candidate(state, "selected", state.selected))
    return models


def round_opened(state: ExperimentState) -> Announcement:
    """round-start or evaluation-start of the open round."""
    if state.round is None:
        raise ValueError("no round is open")
    sites, number, within = (
        sorted(state.round.parts),
        state.round.number,
        state.experiment.rounds.train_within,
    )
    body: Body
    if state.round.step is Step.SCORES:
        body = kinds.EvaluationStart(models=candidates(state), sites=sites, evaluate_within=within)
        return Announcement("evaluation-start", state.id, body, number)
    body = kinds.RoundStart(
        transfer=transfer(state, number),
        model_digest=state.models[number].digest,
        sites=sites,
        evaluate=state.round.evaluate,
        train_within=within,
    )
    return Announcement("round-start", state.id, body, number)


def complete_body(state: ExperimentState) -> kinds.ExperimentComplete:
    if state.outcome is None:
        raise ValueError("not complete")
    return kinds.ExperimentComplete(
        model=candidate(state, state.outcome.label, state.outcome.rounds),
        model_round=state.outcome.rounds,
        final_digest=state.models[state.completed + 1].digest,
        test=state.outcome.test,
        rounds=state.completed,
    )


def ended(state: ExperimentState) -> Announcement:
    if state.phase is Phase.COMPLETE:
        return Announcement("experiment-complete", state.id, complete_body(state), state.completed)
    if state.phase is Phase.FAILED and state.reason is not None:
        return Announcement("experiment-failed", state.id, kinds.ExperimentFailed(reason=state.reason))
    return Announcement("experiment-aborted", state.id, kinds.ExperimentAborted())


def paused(state: ExperimentState) -> Announcement:
    body = kinds.ExperimentPaused(reason=state.paused_because)
    return Announcement("experiment-paused", state.id, body, attempt=state.pauses)


def resumed(state: ExperimentState) -> Announcement:
    return Announcement("experiment-resumed", state.id, kinds.ExperimentResumed(), attempt=state.resumes)


Mark = tuple[Phase, int, int | None]


def mark(state: ExperimentState) -> Mark:
    """What `current` follows from, cheap to compare: as long as it is the same, so are the events."""
    open_round = state.round.number if state.round is not None and state.round.closed_at is None else None
    return state.phase, state.pauses, open_round


def current(state: ExperimentState) -> tuple[Announcement, ...]:
    """What a site that returns has to know (protocol rule 1)."""
    if state.ended is not None:
        return (ended(state),)
    told = [accepted(state)]
    if state.round is not None and state.round.closed_at is None:
        told.append(round_opened(state))
    if state.phase is Phase.PAUSED:
        told.append(paused(state))
    return tuple(told)
