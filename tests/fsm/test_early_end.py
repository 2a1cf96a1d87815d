"""`rounds.patience`: training ends once federated scores no longer rise, as a decision that replays."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import SITES, scores
from log_kit import problems, written
from machine_run import Run

from coordinator.core import decisions as d
from coordinator.core.machine import decide
from coordinator.core.plans.table import plan_of
from coordinator.core.state import SCORES, Phase

ROUNDS = {"count": 12, "enrol_within": 100.0, "train_within": 1000.0, "grace": 50.0}


def trained(means: list[float], **changes: Any) -> Run:
    """An experiment whose rounds from the second on score the model that they receive so."""
    run = Run(**{"rounds": {**ROUNDS, "patience": 2}, **changes})
    run.join()
    run.initial()
    for number in range(1, len(means) + 2):
        assert run.state is not None
        if run.state.round is None or run.state.round.step == SCORES:
            break
        for site in SITES:
            score = scores(means[number - 2]) if number > 1 else None
            run.report(site, number, validation=score)
        run.aggregated(number)
    return run


@pytest.mark.parametrize(
    ("means", "rounds", "best"),
    [
        ([0.7, 0.4, 0.3, 0.9], 4, 1),  # two in a row below the first
        ([0.6, 0.6, 0.6, 0.9], 4, 1),  # as good is no better
        ([0.5, 0.4, 0.6, 0.5, 0.6, 0.9], 6, 3),
    ],
)
def test_training_ends_once_scores_no_longer_rise_and_the_best_model_is_scored_too(
    means: list[float], rounds: int, best: int
) -> None:
    run = trained(means)
    state = run.state
    assert state is not None
    assert (state.phase, state.completed, state.selected) == (Phase.EVALUATING, rounds, best)
    for site in SITES:
        run.evaluated(site)
    assert run.state is not None
    assert run.state.phase is Phase.COMPLETE
    assert run.state.outcome is not None
    assert run.state.outcome.rounds == best
    assert problems(written(run)) == []


def test_while_scores_rise_every_round_is_trained_and_without_patience_too() -> None:
    rising = trained([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    falling = trained([0.6, 0.5, 0.4, 0.3, 0.2, 0.1], rounds=ROUNDS)
    for run in (rising, falling):
        assert run.state is not None
        assert (run.state.phase, run.state.completed) == (Phase.RUNNING, 7)


def test_rounds_without_a_score_do_not_count() -> None:
    run = trained([0.5, 0.4, 0.3, 0.2], evaluation={"every": 2})
    assert run.state is not None
    assert run.state.phase is Phase.RUNNING


def test_under_an_earlier_logic_the_next_round_opens() -> None:
    run = trained([0.5, 0.4, 0.3])
    given, decided = run.steps[-1]
    assert any(isinstance(one, d.RoundStarted) and one.step == SCORES for one in decided)
    before = trained([0.5, 0.4])
    state = before.state
    assert state is not None
    for site in SITES:
        before.report(site, 4, validation=scores(0.3))
    assert before.state is not None
    earlier = decide(before.state, given, logic=4)
    opened = [one for one in earlier if isinstance(one, d.RoundStarted)]
    assert [one.step for one in opened] == [plan_of(state).steps[0]]
