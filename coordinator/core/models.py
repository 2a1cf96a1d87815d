"""Which global models travel, and how each is named on the wire: transfers and candidates. Built from the state."""

from __future__ import annotations

from coordinator.core.state import ExperimentState
from messages import kinds


def transfer_of(state: ExperimentState, number: int, *, exact: bool = False) -> kinds.Transfer:
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


def candidate_of(state: ExperimentState, label: kinds.Label, rounds: int) -> kinds.Candidate:
    """The model that `rounds` rounds made: the one that the round after them received."""
    sent, digest = transfer_of(state, rounds + 1, exact=True), state.models[rounds + 1].digest
    return kinds.Candidate(label=label, transfer=sent, model_digest=digest)


def list_candidates(state: ExperimentState) -> list[kinds.Candidate]:
    """What the final evaluation scores: the final model, and the best-scored one where that is another."""
    models = [candidate_of(state, "final", state.completed)]
    if state.selected is not None and state.selected != state.completed:
        models.append(candidate_of(state, "selected", state.selected))
    return models
