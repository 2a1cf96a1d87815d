"""The cross-site matrix of sites that trained alone: in the story, with --json, in `watch` and in the report."""

from __future__ import annotations

import pytest
from storytelling import CASES, EXPERIMENT, MANIFEST, PLATFORM, SITES, Teller, complete, digest, events, split

from coordinator.core import inputs
from coordinator.core.models import name_models
from coordinator.core.records import MadeModel
from deploy.cli.words import closing_lines
from deploy.report.page import render_report
from deploy.story.doubts import list_doubts
from deploy.story.matrix import read_matrix
from deploy.story.story import ExperimentStory
from deploy.story.summary import story_as_plain
from deploy.story.telling import tell_all
from messages import kinds

DICE = {"site-a": {"own-1": 0.9, "own-2": 0.5}, "site-b": {"own-1": 0.3, "own-2": 0.8}}
"""Of each site's model, by the site that scores it."""


def told(*evaluated: str) -> ExperimentStory:
    """Two sites, one round, and the evaluation by these."""
    teller = Teller()
    file = EXPERIMENT.as_plain() | {"rounds": EXPERIMENT.as_plain()["rounds"] | {"count": 1}}
    file["plan"] |= {"kind": "alone"}
    teller.say("dr-a", "experiment-start", kinds.ExperimentStart(experiment=file), admitted=SITES)
    for site in SITES:
        teller.say(site, "joined", kinds.Joined(cases=CASES, platform=PLATFORM))
    teller.give(inputs.Initialised(time=teller.tick(), manifest=MANIFEST, seal=digest("0"), digest=digest("a")))
    for site in SITES:
        teller.update(site, 1, 0.5, 1.0)
    own = {site: MadeModel(seal=digest(site[-1]), digest=digest(site[-1])) for site in SITES}
    teller.give(inputs.Aggregated(time=teller.tick(), round=1, seal="", digest=name_models(own), own=own))
    for site in evaluated:
        scored = {
            label: kinds.ModelScores(
                model_digest=digest("ab"[int(label[-1]) - 1]),
                splits={"validation": split(dice), "test": split(dice, 0.1)},
            )
            for label, dice in DICE[site].items()
        }
        teller.say(site, "evaluated", kinds.Evaluated(scores=scored), 2)
    return tell_all(ExperimentStory("try"), events(teller))


def test_a_row_for_each_model_a_column_for_each_site_and_all_cases_together_at_the_end() -> None:
    story = told(*SITES)
    assert story.phase == "complete"
    found = read_matrix(story, "validation")
    assert found is not None
    assert (found.sites, found.chosen) == ([*SITES], "site-b")
    assert found.row_of("site-a") == pytest.approx([0.9, 0.3, 0.6])
    assert found.row_of("site-b") == pytest.approx([0.5, 0.8, 0.65])
    plain = story_as_plain(story)
    assert plain["cross_site"]["test"]["site-a"] == pytest.approx({"site-a": 0.5, "site-b": 0.2, "overall": 0.35})


def test_watch_and_report_show_it_and_say_whose_model_is_yielded() -> None:
    story = told(*SITES)
    lines = "\n".join(closing_lines(story))
    assert "each site's model on each site's test cases, Dice; the experiment yields that of site-b" in lines
    assert "  model of  site-a  site-b  overall\n  site-a    0.5000  0.2000  0.3500" in lines
    page = render_report(story)
    assert "Cross-site matrix" in page
    assert "site-b (yielded)" in page


def test_before_all_have_scored_what_is_there_is_shown() -> None:
    found = read_matrix(told("site-a"), "test")
    assert found is not None
    assert (found.sites, found.chosen) == (["site-a"], None)
    assert read_matrix(told(), "test") is None


def test_the_curve_ends_with_each_sites_score_of_its_own_model_and_nobody_contradicts_anybody() -> None:
    story = told(*SITES)
    last = story.validation_curve()[-1]
    assert (last.round, sorted(last.sites)) == (1, [*SITES])
    assert last.sites["site-b"].metrics["dice"]["WT"].sum == pytest.approx(0.8)
    assert list_doubts(story) == []


def test_an_experiment_with_one_model_has_no_matrix() -> None:
    story = tell_all(ExperimentStory("try"), events(complete()))
    assert read_matrix(story, "test") is None
    assert "cross_site" not in story_as_plain(story)
    assert "Cross-site" not in render_report(story)
