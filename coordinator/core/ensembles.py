"""The sites' own models as one: what each scores over all sites, how much each counts, and how that is named. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from coordinator.core.models import candidate_of
from coordinator.core.state import ExperimentState, Part
from coordinator.core.steps.base import pool_parts
from messages import kinds

ENSEMBLE: kinds.Label = "ensemble"
LEAST_ERROR = 1e-12
"""A score that is better lower counts as this at least: a perfect model weighs most, and not nothing."""


def mean_own(state: ExperimentState, parts: Mapping[str, Part]) -> dict[str, float | None]:
    """By label, the mean validation score of each site's own model over the sites that scored it."""
    reader, found = state.experiment.task.reader, dict[str, float | None]()
    for site in state.own_models:
        label = state.experiment.label_of(site)
        pooled = pool_parts(state, parts, label, "validation")
        found[label] = None if pooled is None else reader.headline_score(pooled)
    return found


def weigh_parts(state: ExperimentState, parts: Mapping[str, Part]) -> dict[str, float]:
    """How much each site's model counts in the ensemble, by label; together 1.

    Args:
        parts: what has been reported of each model.
    """
    scored = mean_own(state, parts)
    raw = dict.fromkeys(scored, 1.0)
    higher = state.experiment.task.reader.higher_is_better
    known = {label: mean for label, mean in scored.items() if mean is not None and (mean > 0 or not higher)}
    if state.experiment.plan.combine == "validation" and known:
        raw |= {label: 0.0 for label in scored if label not in known}
        raw |= {label: mean if higher else 1 / max(mean, LEAST_ERROR) for label, mean in known.items()}
    total = sum(raw.values())
    return {label: weight / total for label, weight in raw.items()}


def combine_own(state: ExperimentState, weights: Mapping[str, float]) -> kinds.Combined | None:
    """The sites' models as one ensemble, with these weights by label; None where there are none."""
    if not weights or state.manifest is None:
        return None
    found = {label: candidate_of(state, label, state.completed) for label in weights}
    parts = {
        label: kinds.OwnModel(
            round=one.transfer.round,
            attempt=one.transfer.attempt,
            seal=one.transfer.seal,
            model_digest=one.model_digest,
        )
        for label, one in found.items()
    }
    rule: Literal["mean", "majority"] = "majority" if state.experiment.plan.combine == "majority" else "mean"
    digest = kinds.name_ensemble(rule, {label: (one.model_digest, weights[label]) for label, one in found.items()})
    return kinds.Combined(
        label=ENSEMBLE, rule=rule, weights=dict(weights), parts=parts, manifest=state.manifest, model_digest=digest
    )
