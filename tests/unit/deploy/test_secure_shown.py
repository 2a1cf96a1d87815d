"""How secure rounds are shown: watch, --json, the report. Only pooled figures exist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from secure_run import NAMES, SecureRun, carry_out

from coordinator.core import inputs as i
from coordinator.core.effects import Announce, effects
from coordinator.core.evolve import evolve
from coordinator.core.state import Timer
from deploy.cli.words import closing_lines, headline_words, waiting_words
from deploy.report.page import render_report
from deploy.story.story import ExperimentStory
from deploy.story.summary import round_summary, story_as_plain
from deploy.story.telling import tell_all
from messages.envelope import Author, Event


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SecureRun:
    carry_out(monkeypatch)
    return SecureRun(tmp_path, NAMES[:4], rounds={"count": 1, "at_deadline": "fail"})


def story_of(run: SecureRun) -> ExperimentStory:
    """The story that the events of a run tell."""
    return tell_all(ExperimentStory("exp-1"), _events_of(run))


def _events_of(run: SecureRun) -> Iterator[Event]:
    state, coordinator = None, Author("demo", "coordinator", 1, 1)
    for given, decided in run.steps:
        if isinstance(given, i.Received):
            yield given.event
        for one in decided:
            state = evolve(state, one)
            for effect in effects(state, one):
                if isinstance(effect, Announce):
                    what = effect.what
                    yield coordinator.write_event(
                        what.kind, what.body, time=given.time, experiment="exp-1", round_number=what.round,
                        attempt=what.attempt,
                    )  # fmt: skip


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("keys", "round 1 (keys) waits for site-a, site-b"),
        ("shares", "round 1 (shares) waits for site-a, site-b"),
        ("masked", "round 1 (masked updates) waits for site-a, site-b"),
        ("consent", "round 1 (consents) waits for site-a, site-b"),
        ("reveal", "round 1 (reveals) waits for site-a, site-b"),
    ],
)
def test_whoever_watches_sees_which_step_is_waited_for_and_of_whom(run: SecureRun, step: str, words: str) -> None:
    run.until(step)
    run.step("site-a", "site-b")
    story = story_of(run)
    assert waiting_words(story, run.time).startswith(words)
    assert "pooled only" in headline_words(story, run.time)
    told = round_summary(story.rounds[1], story)
    assert (told["pooled_only"], told["try"]) == (True, 1)
    assert words.split("(")[1].startswith(told["step"])


def test_a_complete_secure_experiment_shows_pooled_figures_and_no_sites_own(run: SecureRun) -> None:
    run.whole_round()
    for _ in range(5):
        run.step()
    story = story_of(run)
    plain = story_as_plain(story)
    assert (plain["state"], plain["pooled_only"], plain["test"]["mean"], plain["test"]["n"]) == (
        "complete",
        True,
        0.25,
        4,
    )
    assert plain["test"]["sites"] == {}
    told = round_summary(story.rounds[1], story)
    assert (told["loss"], told["pooled"], told["site_validation"]) == (0.5, {"cases": 100, "loss": 0.5}, {})
    assert "pooled only" in render_report(story, [])
    assert closing_lines(story)


def test_a_void_round_is_shown_with_its_reason(run: SecureRun) -> None:
    run.until("masked")
    run.fire(Timer.DEADLINE)
    story = story_of(run)
    told = round_summary(story.rounds[1], story)
    assert (told["state"], told["void"]) == ("void", "quorum-not-met")
    assert "no sum (quorum-not-met)" in render_report(story, [])
