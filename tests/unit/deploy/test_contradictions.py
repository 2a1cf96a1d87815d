"""Labels that mean something else at one site are told: in the coordinator's log, by `watch`, in the report."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from storytelling import CASES, SITES, Teller, complete, digest, events, recruited
from structlog.testing import capture_logs

from coordinator.core import inputs, machine
from coordinator.core.evolve import evolve
from coordinator.loop.doubts import Doubts
from coordinator.record.recovery import read_step
from deploy.cli.live import Lines
from deploy.report import render_report
from deploy.story.story import ExperimentStory
from deploy.story.summary import story_as_plain
from deploy.story.telling import tell_all
from messages import kinds
from messages.contradictions import Persistent, find_contradictions
from messages.scores import SplitScores, sum_scores
from messages.tasks.registry import UNKNOWN
from messages.tasks.segmentation import SegmentationReader

READER = SegmentationReader(("WT", "TC", "ET"))
SEEN = {  # the demo with ED and ET exchanged at site-c: what its eight validation cases said of the model of round 2
    "site-a": {"WT": 0.82, "TC": 0.76, "ET": 0.84},
    "site-b": {"WT": 0.62, "TC": 0.60, "ET": 0.70},
    "site-c": {"WT": 0.66, "TC": 0.27, "ET": 0.07},
}
HONEST = {
    "site-a": {"WT": 0.82, "TC": 0.76, "ET": 0.84},
    "site-b": {"WT": 0.62, "TC": 0.60, "ET": 0.70},
    "site-c": {"WT": 0.66, "TC": 0.57, "ET": 0.61},
}


def split_of(targets: Mapping[str, float], n: int = 8, deviation: float = 0.1) -> SplitScores:
    def one(mean: float) -> list[float]:
        return [min(1.0, max(0.0, mean + (deviation if number % 2 else -deviation))) for number in range(n)]

    dice = {target: sum_scores(one(mean), reference_empty=[False] * n) for target, mean in targets.items()}
    return SplitScores(cases=n, metrics={"dice": dice})


def found(means: Mapping[str, Mapping[str, float]], **how: float) -> list[tuple[str, str]]:
    by_site = {site: split_of(targets, **how) for site, targets in means.items()}  # type: ignore[arg-type]
    return [one.key for one in find_contradictions(by_site, READER)]


def test_exchanged_labels_show_in_the_regions_that_they_touch() -> None:
    assert found(SEEN) == [("site-c", "ET")]
    assert found(HONEST) == []


def test_a_few_hard_cases_are_no_contradiction() -> None:
    assert found(SEEN, n=2) == []
    assert found(SEEN, deviation=0.5) == []


def test_a_model_that_finds_nothing_yet_contradicts_nobody() -> None:
    early = {site: {target: mean / 2 for target, mean in targets.items()} for site, targets in SEEN.items()}
    assert found(early) == []


def test_sites_that_differ_among_themselves_condemn_none() -> None:
    scattered = {"site-a": 0.95, "site-b": 0.75, "site-c": 0.55, "site-d": 0.35}
    assert found({site: {"ET": mean} for site, mean in scattered.items()}) == []


def test_of_two_sites_more_is_asked() -> None:
    assert found({"site-a": {"ET": 0.8}, "site-b": {"ET": 0.4}}) == []
    assert found({"site-a": {"ET": 0.8}, "site-b": {"ET": 0.1}}) == [("site-b", "ET")]


def test_what_is_withheld_or_alone_or_unknown_is_not_judged() -> None:
    withheld = SplitScores(cases=3, withheld=True)
    assert find_contradictions({"site-a": split_of(SEEN["site-a"]), "site-c": withheld}, READER) == ()
    assert find_contradictions({"site-c": split_of(SEEN["site-c"])}, READER) == ()
    assert find_contradictions({site: split_of(one) for site, one in SEEN.items()}, UNKNOWN) == ()


def test_validation_scores_must_say_it_twice_and_are_told_once() -> None:
    seen = find_contradictions({site: split_of(one) for site, one in SEEN.items()}, READER)
    persistent = Persistent()
    assert [len(persistent.take_news(one)) for one in (seen, (), seen, seen, seen)] == [0, 0, 1, 0, 0]
    persistent = Persistent()
    assert [len(persistent.take_news(one)) for one in (seen, (), (), (), seen)] == [0] * 5


def contradicted(rounds: int = 2) -> Teller:
    """Two sites; the model finds nothing at site-b, round after round and in the test."""
    teller = recruited(CASES.model_copy(update={"validation": 8, "test": 8}))
    for number, letter in zip(range(1, rounds + 1), "bc", strict=False):
        for site, dice in zip(SITES, (0.9, 0.05), strict=True):
            teller.say(site, "round-accepted", kinds.RoundAccepted(), number)
            teller.update(site, number, dice, 1.0, split_of({"WT": dice, "TC": dice}, deviation=0.05))
        teller.give(
            inputs.Aggregated(time=teller.tick(), round=number, seal=digest(str(number)), digest=digest(letter))
        )
    for site, dice in zip(SITES, (0.9, 0.05), strict=True):
        scored = split_of({"WT": dice, "TC": 0.9}, deviation=0.05)
        splits = {"validation": scored, "test": scored}
        teller.say(
            site,
            "evaluated",
            kinds.Evaluated(scores={"final": kinds.ModelScores(model_digest=digest("c"), splits=splits)}),  # type: ignore[arg-type]
            3,
        )
    return teller


def test_watch_and_report_name_the_site_and_the_region(capsys: pytest.CaptureFixture[str]) -> None:
    story = tell_all(ExperimentStory("try"), list(events(contradicted())))
    lines = Lines()
    lines.show_story(story, 2000.0, None)
    told = [one for one in capsys.readouterr().out.splitlines() if one.startswith("CONTRADICTS")]
    assert told == [
        "CONTRADICTS the other sites: site-b: Dice of TC is 0.05 (n = 8), at the other sites 0.90 "
        "(validation, model of round 1)",
        "CONTRADICTS the other sites: site-b: Dice of WT is 0.05 (n = 8), at the other sites 0.90 "
        "(validation, model of round 1)",
        "CONTRADICTS the other sites: site-b: Dice of WT is 0.05 (n = 8), at the other sites 0.90 (test)",
    ]
    lines.show_story(story, 2001.0, None)
    assert "CONTRADICTS" not in capsys.readouterr().out
    assert [(one["site"], one["target"], one["split"]) for one in story_as_plain(story)["contradictions"]] == [
        ("site-b", "TC", "validation"),
        ("site-b", "WT", "validation"),
        ("site-b", "WT", "test"),
    ]
    page = render_report(story)
    assert "<h2>Contradictions</h2>" in page
    assert "konsil site preview" in page


def test_an_honest_experiment_has_no_such_section() -> None:
    story = tell_all(ExperimentStory("try"), list(events(complete())))
    assert story_as_plain(story)["contradictions"] == []
    assert "Contradictions" not in render_report(story)


def test_the_coordinators_log_names_it_once() -> None:
    doubts, state = Doubts(), None
    teller = contradicted()
    with capture_logs() as logged:
        for entry in teller.entries:
            given, decided = read_step(entry)
            assert machine.decide(state, given)
            for decision in decided:
                doubts.note_decision(state, decision)
                state = evolve(state, decision)
    told = [one for one in logged if one["log_level"] == "warning"]
    assert [(one["site"], one["target"], one["split"]) for one in told] == [
        ("site-b", "TC", "validation"),
        ("site-b", "WT", "validation"),
        ("site-b", "WT", "test"),
    ]
