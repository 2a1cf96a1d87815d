"""The programs of experiments/trainers: each framework learns the linear model in three rounds, and two agree on it."""

from __future__ import annotations

from pathlib import Path

import external_rig as rig
import pytest
from brokers import PATIENCE
from needs import find_framework
from places import ROOT

from messages import kinds
from messages.experiment import Experiment, read_experiment

PROGRAMS = ROOT / "experiments" / "trainers"
FRAMEWORKS = {
    "sklearn": "sklearn",
    "jax": "jax",
    "tensorflow": "tensorflow",
    "paddle": "paddle",
}
WITHIN = 4 * PATIENCE
"""Seconds: the import of a framework takes ten on a busy machine, and comes three times a round."""
CLOSE = 0.25
"""Mean absolute error of a model that has learnt it: the first one's is above 1."""


def registered(name: str, folder: Path) -> dict[str, dict[str, object]]:
    text = (PROGRAMS / f"linear_{name}.py").read_text(encoding="utf-8")
    return {"linear": rig.register(folder / name, text, python=find_framework(name, FRAMEWORKS[name]))}


def published(*sites: str) -> Experiment:
    plain = read_experiment(PROGRAMS / "linear.toml").as_plain()
    return Experiment.model_validate(plain | {"sites": [*sites]})


def learn(folder: Path, frameworks: dict[str, str]) -> dict[str, float]:
    """Three rounds; the losses fall at each site. The final model's mean absolute error on each site's test cases, as
    that site's own program predicts."""
    federation = rig.ProgramFederation(folder, {site: registered(one, folder) for site, one in frameworks.items()})
    try:
        federation.publish(published(*frameworks))
        federation.until("experiment-complete", WITHIN)
        for site in frameworks:
            ready = [one for one in federation.of("weights-ready") if one.sender == site]
            losses = [one.body.loss for one in sorted(ready, key=lambda one: one.round)]  # type: ignore[attr-defined]
            assert len(losses) == 3
            assert losses == sorted(losses, reverse=True), f"{site}: {losses}"
            assert losses[-1] < losses[0] / 2, f"{site}: {losses}"
        found = {}
        for event in federation.of("evaluated"):
            assert isinstance(event.body, kinds.Evaluated)
            error = event.body.scores["final"].splits["test"].metrics["absolute-error"]["outcome"]
            assert error.mean is not None
            found[event.sender] = error.mean
        return found
    finally:
        federation.close()


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_framework_learns_in_three_rounds(name: str, tmp_path: Path) -> None:
    errors = learn(tmp_path, {"site-a": name})
    assert errors["site-a"] < CLOSE


@pytest.mark.parametrize("other", [name for name in FRAMEWORKS if name != "sklearn"])
def test_two_sites_with_different_frameworks_agree_on_one_linear_model(other: str, tmp_path: Path) -> None:
    errors = learn(tmp_path, {"site-a": "sklearn", "site-b": other})
    assert errors.keys() == {"site-a", "site-b"}
    assert max(errors.values()) < CLOSE
