"""What `watch`, the report, the figures and the log tell of a plan in which sites go on at their own pace."""

from __future__ import annotations

from dataclasses import replace

from storytelling import CASES, MANIFEST, PLAIN, PLATFORM, SITES, Teller, digest

from coordinator.core import inputs
from coordinator.record.story import tell_entry
from deploy.cli.words import waiting_words
from deploy.estimate import estimate
from deploy.report.page import render_report
from deploy.session.history import HistoryReader
from deploy.story.events import event_sentence
from deploy.story.figures import list_updates
from deploy.story.story import ExperimentStory
from deploy.story.summary import round_summary
from deploy.story.telling import tell_all
from messages import kinds
from messages.experiment import Experiment
from messages.reasons import Reason
from nets.architectures.base import NetSize


def file(**plan: object) -> Experiment:
    """A model of one update each, three times."""
    kind = {"kind": "asynchronous", "buffer": 1, **plan}
    return Experiment.model_validate(PLAIN | {"plan": kind, "rounds": {"count": 3}})


def second_round() -> Teller:
    """site-a was first in round 1; site-b is still at it."""
    teller = Teller()
    teller.say("dr-a", "experiment-start", kinds.ExperimentStart(experiment=file().as_plain()), admitted=SITES)
    for site in SITES:
        teller.say(site, "joined", kinds.Joined(cases=CASES, platform=PLATFORM))
    teller.give(inputs.Initialised(time=teller.tick(), manifest=MANIFEST, seal=digest("0"), digest=digest("a")))
    for site in SITES:
        teller.say(site, "round-accepted", kinds.RoundAccepted(), 1)
    teller.update("site-a", 1, 0.5, 1.0)
    teller.give(inputs.Aggregated(time=teller.tick(), round=1, seal=digest("1"), digest=digest("b")))
    return teller


def third_round() -> Teller:
    """site-b's update of round 1 has made round 2's model."""
    teller = second_round()
    teller.update("site-b", 1, 0.5, 1.0)
    teller.give(inputs.Aggregated(time=teller.tick(), round=2, seal=digest("2"), digest=digest("c")))
    return teller


def told(teller: Teller) -> tuple[ExperimentStory, list[str]]:
    reader, story, lines = HistoryReader(), ExperimentStory("try"), list[str]()
    for entry in teller.entries:
        events = list(reader.of_entry(entry))
        story = tell_all(story, events)
        lines += [event_sentence(event, 3) for event in events]
    return replace(story, timers=reader.timers_of("try")), lines


def test_it_is_told_who_begins_and_who_goes_on_and_how_late_an_update_was() -> None:
    _, lines = told(third_round())
    assert "round 1 started with site-a, site-b" in lines
    assert "round 2 started with site-a; site-b goes on with round 1" in lines
    assert f"round 2 closed with site-b from 1 round earlier: {'c' * 12}" in lines
    said = [tell_entry(entry)[1] for entry in third_round().entries]
    assert any("round 2 starts with site-a; site-b goes on with round 1" in one for one in said)
    assert any("rounds that updates were late: site-b: 1" in one for one in said)


def test_a_round_waits_for_as_many_updates_as_its_buffer_lacks() -> None:
    story, _ = told(second_round())
    assert story.waiting is not None
    assert (story.waiting.what, set(story.waiting.sites)) == ("round 2 (0 of 1 updates here)", {"site-a", "site-b"})
    assert waiting_words(story, 0.0).startswith("round 2 (0 of 1 updates here) waits for site-a, site-b")


def test_a_site_that_gave_up_what_it_went_on_with_says_why_in_the_open_round() -> None:
    teller = second_round()
    teller.say("site-b", "round-failed", kinds.RoundFailed(reason=Reason.CUDA_OOM), 1)
    story, _ = told(teller)
    assert story.waiting is not None
    assert dict(story.waiting.sites) == {"site-a": None, "site-b": Reason.CUDA_OOM}


def test_an_update_that_is_used_in_a_later_round_is_used() -> None:
    story, _ = told(third_round())
    assert [(row["round"], row["site"], row["used"]) for row in list_updates(story)] == [
        (1, "site-a", True),
        (1, "site-b", True),
    ]
    assert round_summary(story.rounds[2], story)["staleness"] == {"site-b": 1}
    assert "staleness" not in round_summary(story.rounds[1], story)


def test_the_report_names_the_plan_and_who_was_late() -> None:
    story, _ = told(third_round())
    page = render_report(story)
    assert "asynchronous (a model of 1 updates; t models old count 1 / sqrt(1 + t), to 10), FedAvg" in page
    assert "site-b (6) from 1 round earlier" in page


def test_a_round_costs_as_many_updates_as_its_buffer_holds() -> None:
    plain = Experiment.model_validate(PLAIN | {"rounds": {"count": 3}})
    sized = [estimate(one, lambda _file: NetSize(1000, 1000)) for one in (file(), file(max_staleness=0), plain)]
    assert 2 * sized[0].round_bytes_up == sized[2].round_bytes_up
    assert sized[0].round_bytes_down == sized[2].round_bytes_down
    assert sized[0].coordinator_disk_bytes == sized[1].coordinator_disk_bytes + 2 * 4 * 1000
