"""Which global models travel, and how each is named on the wire: transfers and candidates. Built from the state.

The model of a round has the transfers 1 and 2 of that round; the n-th site's own model, where sites have their own, has
2n + 1 and 2n + 2. The first sends it as rounds do, the second, where that differs, exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from coordinator.core.records import MadeModel
from coordinator.core.state import ExperimentState, Model
from messages import kinds

_NAMING = b"konsil-models-v1\0"


def name_models(own: Mapping[str, MadeModel]) -> str:
    """SHA-256 (hex) that names the models of a round by site: over each site's name and its model's digest, by name."""
    return sha256(_NAMING + b"".join(f"{site}|{own[site].digest}\n".encode() for site in sorted(own))).hexdigest()


def transfer_of(state: ExperimentState, number: int, *, exact: bool = False) -> kinds.Transfer:
    """The transfer of the model that round `number` received.

    Args:
        exact: its own bytes, as they are evaluated and published. Where the round sent it in another codec that is a
            second attempt of the transfer: the same model, other bytes.
    """
    return _name_transfer(state, state.models[number], number, 1, exact)


def own_transfer(state: ExperimentState, number: int, site: str, *, exact: bool = False) -> kinds.Transfer:
    """The same of the model of its own that a site received in round `number`."""
    attempt = 2 * state.experiment.number_of(site) + 1
    return _name_transfer(state, state.own[number][site], number, attempt, exact)


def _name_transfer(state: ExperimentState, model: Model, number: int, attempt: int, exact: bool) -> kinds.Transfer:
    if state.manifest is None:
        raise ValueError("no model yet")
    if model.wire is None:
        return kinds.Transfer(round=number, attempt=attempt, seal=model.seal, manifest=state.manifest)
    if exact:
        return kinds.Transfer(round=number, attempt=attempt + 1, seal=model.seal, manifest=state.manifest)
    sent = state.manifest.in_codec(state.codec.model)
    return kinds.Transfer(round=number, attempt=attempt, seal=model.wire, manifest=sent)


def find_transfer(state: ExperimentState, wanted: kinds.ChunksWanted) -> kinds.Transfer | None:
    """The transfer that is asked for; None where there is none. Two sites may have the same model, with one seal."""
    number, seal = wanted.round, wanted.seal
    for site, own in state.own.get(number, {}).items():
        sent = own_transfer(state, number, site, exact=seal == own.seal)
        if (sent.attempt, sent.seal) == (wanted.attempt, seal):
            return sent
    model = state.models.get(number)
    known = model is not None and seal in (model.seal, model.wire)
    return transfer_of(state, number, exact=seal == state.models[number].seal) if known else None


def candidate_of(state: ExperimentState, label: kinds.Label, rounds: int) -> kinds.Candidate:
    """The model that `rounds` rounds made: the one that the round after them received.

    Args:
        label: where each site has a model of its own it says whose (`Experiment.label_of`).
    """
    site = state.experiment.site_of(label)
    if site is not None and site in state.own.get(rounds + 1, {}):
        sent, digest = own_transfer(state, rounds + 1, site, exact=True), state.own[rounds + 1][site].digest
    else:
        sent, digest = transfer_of(state, rounds + 1, exact=True), state.models[rounds + 1].digest
    return kinds.Candidate(label=label, transfer=sent, model_digest=digest)


def final_rounds(state: ExperimentState) -> int:
    """Rounds that made the final model; 0, the initial one, where each site has its own."""
    return state.completed if state.completed + 1 in state.models else 0


def yielded_model(state: ExperimentState) -> tuple[int, Model] | None:
    """What an experiment that is over has yielded, and in how many rounds: the model that it chose, or the last one;
    None where it made none, or each site has its own and none was chosen."""
    if state.outcome is None:
        rounds, made = state.completed, state.models.get(state.completed + 1) if state.completed else None
    else:
        rounds, site = state.outcome.rounds, state.experiment.site_of(state.outcome.label)
        made = state.models.get(rounds + 1) if site is None else state.own.get(rounds + 1, {}).get(site)
    return None if made is None else (rounds, made)


def models_after(state: ExperimentState, rounds: int) -> tuple[Model, ...]:
    """Every model that there was after so many rounds: one, or one of each site."""
    shared = state.models.get(rounds + 1)
    return (*(() if shared is None else (shared,)), *state.own.get(rounds + 1, {}).values())


def list_candidates(state: ExperimentState) -> list[kinds.Candidate]:
    """What the final evaluation scores: the final model, and the best-scored one where that is another; or the model of
    each site, where each has its own."""
    if own := state.own.get(state.completed + 1):
        return [candidate_of(state, state.experiment.label_of(site), state.completed) for site in sorted(own)]
    models = [candidate_of(state, "final", final_rounds(state))]
    if state.selected is not None and state.selected != state.completed:
        models.append(candidate_of(state, "selected", state.selected))
    return models
