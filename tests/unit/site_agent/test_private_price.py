"""What is told as spent so far: of each round, and asked for in blocks."""

from __future__ import annotations

from typing import Any

import pytest

from messages.ground.errors import WorkFailed
from messages.kinds import PrivacyPlan
from site_agent.privacy import accountant, price

PLAN = PrivacyPlan(
    patients=40, sample_rate=0.2, noise_multiplier=1.5, clip_norm=1.0, steps=100, epsilon=8.0, delta=1e-5
)


def test_the_rounds_of_a_block_are_asked_for_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Any]] = []

    def answer(questions: list[Any], within: float) -> list[float]:
        asked.append(questions)
        return [one[3] / 100 for one in questions]  # the steps

    monkeypatch.setattr(accountant, "_ask_child", answer)
    monkeypatch.setattr(accountant, "_kept", {})
    assert [price.price_steps(PLAN, 5 * number, 5) for number in range(1, 21)] == [
        pytest.approx(5 * number / 100) for number in range(1, 21)
    ]
    assert [len(one) for one in asked] == [16, 4]
    assert price.price_steps(PLAN, 105, 5) == pytest.approx(1.05)  # a round that left twice with other content


def test_where_the_accountant_fails_the_whole_plan_is_told_and_never_less(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(questions: list[Any], within: float) -> list[float]:
        raise WorkFailed("no")

    monkeypatch.setattr(accountant, "_ask_child", fail)
    monkeypatch.setattr(accountant, "_kept", {})
    assert price.price_steps(PLAN, 10, 5) == 8.0
    with pytest.raises(WorkFailed):
        price.price_steps(PLAN, 105, 5)
