"""How statistics, and the configuration that follows from them, are shown: watch, --json, report, check --plan."""

from __future__ import annotations

from typing import Any

from coordinator_kit import CONSORTIUM, plain
from machine_run import FINGERPRINT

from coordinator.core.planning.planner import plan_configuration
from deploy.cli.foresight import foresee_plan
from deploy.cli.words import closing_lines
from deploy.report.page import render_report
from deploy.story.story import ExperimentStory
from deploy.story.summary import story_as_plain
from deploy.story.telling import tell_all
from messages import kinds
from messages.envelope import Author, Event
from messages.experiment import Experiment
from messages.reasons import Reason

COORDINATOR, SITE = Author(CONSORTIUM, "coordinator", 1, 1), Author(CONSORTIUM, "site-a")


def auto(**changes: Any) -> Experiment:
    return Experiment.model_validate(plain(**({"net": {"name": "auto"}} | changes)))


def tell(experiment: Experiment, told: int = 4) -> ExperimentStory:
    """The story after so many of its four events."""
    accepted = kinds.ExperimentAccepted(
        experiment=experiment.as_plain(), digest="0" * 64, researcher="dr-a", original=b"", enrol_within=9.0
    )
    pooled = kinds.StatisticsPooled(
        statistics=FINGERPRINT,
        contributors={"site-a": 10},
        left_out={"site-b": Reason.PRIVACY_BELOW_FLOOR},
        configuration=plan_configuration(experiment, FINGERPRINT, 4096),
    )
    events: list[Event] = [
        COORDINATOR.write_event("experiment-accepted", accepted, time=1.0, experiment="exp-1"),
        COORDINATOR.write_event(
            "statistics-start", kinds.StatisticsStart(sites=["site-a", "site-b"], within=60.0), time=2.0,
            experiment="exp-1", attempt=2,
        ),
        SITE.write_event(
            "statistics-ready", kinds.StatisticsReady(statistics=FINGERPRINT), time=3.0, experiment="exp-1", attempt=2
        ),
        COORDINATOR.write_event("statistics-pooled", pooled, time=4.0, experiment="exp-1"),
    ]  # fmt: skip
    return tell_all(ExperimentStory("exp-1"), events[:told])


def test_who_has_not_told_yet_is_waited_for() -> None:
    waiting = tell(auto(), 3).waiting
    assert waiting is not None
    assert (waiting.what, waiting.sites, waiting.until) == ("statistics", {"site-b": None}, 62.0)


def test_the_story_goes_on_with_the_configured_experiment_and_says_so() -> None:
    story = tell(auto())
    assert (story.phase, story.round_list) == ("running", ())
    assert story.experiment is not None
    assert story.experiment.net.name == "DynUNet"
    found = story_as_plain(story)
    assert found["configuration"]["memory_mib"] == 4096
    assert found["statistics"]["sites"]["site-a"]["statistics"]["cases"] == 10
    assert (
        "statistics of 10 training cases, site-b left out (privacy-below-floor): DynUNet of"
        in [one.what for one in story.moments][-1]
    )
    page = render_report(story)
    assert "Statistics of the training cases" in page
    assert "for 4 GiB" in page
    assert any("configuration  DynUNet of" in line for line in closing_lines(story))


def test_statistics_alone_are_complete_with_what_was_told() -> None:
    story = tell(auto(plan={"kind": "statistics"}, rounds={"count": 0}))
    assert (story.phase, story.over) == ("complete", True)
    assert not any("no test scores" in line for line in closing_lines(story))
    assert "withheld" not in render_report(story).split("Statistics of the training cases")[1].split("</section>")[0]


def test_an_experiment_without_statistics_tells_nothing_of_them() -> None:
    found = story_as_plain(tell(Experiment.model_validate(plain()), 1))
    assert not {"statistics", "configuration"} & found.keys()


def test_what_is_known_before_is_said_in_lines() -> None:
    task = {"kind": "segmentation", "channels": ["CT", "T1"], "regions": {"WT": ["ED"]}}
    lines = foresee_plan(auto(task=task, net={"name": "auto", "memory_gib": 6.0}))
    assert any("CT: clipped" in line for line in lines)
    assert any("or 6 GiB (net.memory_gib)" in line for line in lines)
    assert lines[-1].startswith("3. 2 rounds by aggregation")
    assert foresee_plan(Experiment.model_validate(plain())) == [
        "the file says all of it: nothing is configured from the sites' data"
    ]
