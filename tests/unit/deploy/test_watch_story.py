"""The story of an experiment is read from its journal alone, whatever the order in which events come."""

from __future__ import annotations

import functools
import io
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from immutables import Map
from newer_version import NEWER, written
from storytelling import CASES, EXPERIMENT, SITES, Teller, complete, events, recruited, split

from deploy.cli.live import Lines, draw_picture, live_summary
from deploy.cli.words import closing_lines, headline_words
from deploy.console import format_moment
from deploy.session.history import story_of_entries
from deploy.story.events import event_sentence
from deploy.story.moments import Moments
from deploy.story.story import ExperimentStory
from deploy.story.summary import round_summary, story_as_plain
from deploy.story.telling import tell_all, tell_event
from messages import kinds
from messages.envelope import Author, decode_event
from messages.liveness import ABSENT_AFTER, STUCK_AFTER
from messages.reasons import ADVICE, Reason
from messages.scores import SplitScores

WHOLE = list(events(complete()))


def test_a_journal_alone_tells_the_whole_story() -> None:
    story = story_of_entries(complete().entries, "try")
    assert (story.phase, story.completed_rounds, story.researcher) == ("complete", 2, "dr-a")
    assert [site.cases for site in story.sites.values()] == [CASES, CASES]
    first, second = story.round_list
    assert first.contributors == {"site-a": 6, "site-b": 6}
    assert first.losses == {"site-a": 1.0, "site-b": 3.0}
    assert first.loss == pytest.approx(2.0)
    assert first.received_digest == "a" * 64
    assert first.model_digest == second.received_digest == "b" * 64
    assert (first.bytes_up, first.bytes_down) == (2400, 2400)
    assert story.model_digest == story.final_digest == "c" * 64


def test_validation_scores_belong_to_the_model_that_was_received() -> None:
    curve = tell_all(ExperimentStory("try"), WHOLE).validation_curve()
    means = {point.round: point.pooled.mean_score("dice") for point in curve}
    assert means == {0: pytest.approx(0.3), 1: pytest.approx(0.6), 2: pytest.approx(0.7)}


def test_validation_that_every_site_withholds_is_no_point_of_the_curve() -> None:
    story = tell_all(ExperimentStory("try"), WHOLE)
    nothing = {
        "final": kinds.ModelScores(model_digest="c" * 64, splits={"validation": SplitScores(cases=1, withheld=True)})
    }
    withheld = replace(story, rounds=Map(), evaluations=dict.fromkeys(story.evaluations, nothing))
    assert withheld.evaluations
    assert withheld.validation_curve() == []


def test_overall_pools_cases_and_the_worst_site_is_named_beside_it() -> None:
    test = tell_all(ExperimentStory("try"), WHOLE).test
    assert test is not None
    assert test.n == 4
    assert test.mean == pytest.approx(0.825)
    assert test.unweighted_mean == pytest.approx((0.7 + 0.95) / 2)
    assert test.worst == ("site-a", pytest.approx(0.7))
    assert test.by_target == {"WT": pytest.approx(0.825), "TC": pytest.approx(0.825)}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(WHOLE), max_size=40), st.randoms(use_true_random=False))
def test_order_and_repetition_change_nothing_in_the_result(more: list, random) -> None:
    shuffled = [*WHOLE, *more]
    random.shuffle(shuffled)
    expected, story = tell_all(ExperimentStory("try"), WHOLE), tell_all(ExperimentStory("try"), shuffled)
    assert story_as_plain(story) == story_as_plain(expected)
    assert [round_summary(one, story) for one in story.round_list] == [
        round_summary(one, expected) for one in expected.round_list
    ]


def test_an_update_that_the_coordinator_refused_is_no_part_of_the_round() -> None:
    teller = recruited()
    for site in SITES:
        teller.say(site, "round-accepted", kinds.RoundAccepted(), 1)
    teller.update("site-a", 7, 0.5, 1.0)
    story = story_of_entries(teller.entries[:-1], "try")
    assert 7 not in story.rounds


def test_a_story_without_its_beginning_still_tells_what_the_sites_said() -> None:
    story = story_of_entries(complete().entries[4:], "try")
    assert set(story.rounds[1].updates) == set(SITES)


def live(site: str, kind: str, body: kinds.Body, now: float):
    return Author("test", site).write_event(kind, body, time=now, experiment="try", round_number=1)


def working(story: ExperimentStory, site: str, done: int, now: float, eta: float = 5.0) -> ExperimentStory:
    body = kinds.Progress(phase="training", done=done, total=10, epoch=1, epochs=2, loss=0.5, eta_seconds=eta)
    return tell_event(story, live(site, "progress", body, now), now)


def test_absent_slow_and_stuck_look_different() -> None:
    story = tell_all(ExperimentStory("try"), events(recruited()))
    assert story.presence_of("site-a", 0.0) == "absent"
    story = working(working(story, "site-a", 1, 100.0), "site-b", 1, 100.0)
    assert story.presence_of("site-a", 101.0) == "working"
    slow = working(story, "site-a", 2, 101.0, eta=500.0)
    assert (slow.presence_of("site-a", 101.0), slow.presence_of("site-b", 101.0)) == ("slow", "working")
    later = 100.0 + STUCK_AFTER + 1
    stuck = tell_event(story, live("site-a", "alive", kinds.Alive(state="training", busy_with="try"), later), later)
    assert stuck.presence_of("site-a", later) == "stuck"
    assert stuck.presence_of("site-a", later + ABSENT_AFTER + 1) == "absent"
    idle = tell_event(story, live("site-a", "alive", kinds.Alive(state="idle"), 102.0), 102.0)
    assert idle.presence_of("site-a", 102.0) == "idle"


def test_a_site_that_will_not_be_done_by_the_deadline_is_slow_though_nobody_is_faster() -> None:
    story = tell_all(ExperimentStory("try"), events(recruited()))
    story = story.with_round(1, started=100.0, train_within=60.0)
    assert working(story, "site-a", 1, 110.0, eta=45.0).presence_of("site-a", 111.0) == "working"
    late = working(story, "site-a", 1, 110.0, eta=55.0)
    assert late.presence_of("site-a", 111.0) == "slow"
    assert late.with_round(1, state="complete").presence_of("site-a", 111.0) == "working"


def test_a_site_that_works_at_another_experiment_is_not_stuck() -> None:
    story = tell_all(ExperimentStory("try"), events(recruited()))
    story = working(story, "site-a", 1, 100.0)
    later = 100.0 + STUCK_AFTER + 1
    other = kinds.Progress(phase="training", done=3, total=10, eta_seconds=10_000.0)
    told = tell_event(
        story, Author("test", "site-a").write_event("progress", other, time=later, experiment="other"), later
    )
    assert told.presence_of("site-a", later) == "working"
    assert told.sites["site-a"].live.done == 1


def test_plain_lines_tell_once_that_a_site_is_in_trouble_and_once_that_it_is_no_longer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines()
    story = tell_all(ExperimentStory("try"), events(recruited())).with_round(1, started=100.0, train_within=1000.0)
    story = replace(story, phase="running")
    for site in SITES:
        story = working(story, site, 1, 100.0)
    lines.show_story(story, 101.0, None)
    later = 100.0 + STUCK_AFTER + 1
    for site in SITES[1:]:
        story = working(story, site, 2, later)
    story = tell_event(story, live(SITES[0], "alive", kinds.Alive(state="training", busy_with="try"), later), later)
    for _ in range(3):
        lines.show_story(story, later, None)
    lines.show_story(working(story, SITES[0], 2, later), later, None)
    told = [line for line in capsys.readouterr().out.splitlines() if "stuck" in line and not line.startswith(" ")]
    assert told == [
        f"{SITES[0]} is stuck: it is alive, but its work does not move",
        f"{SITES[0]} is stuck no longer",
    ]


def test_plain_lines_say_until_when_sites_may_join_and_who_has_not_answered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines, teller = Lines(), Teller()
    teller.say("dr-a", "experiment-start", kinds.ExperimentStart(experiment=EXPERIMENT.as_plain()), admitted=SITES)
    story = tell_all(ExperimentStory("try"), events(teller))
    for _ in range(3):
        lines.show_story(story, 100.0, None)
    story = story.with_site(SITES[1], state="declined", reason=Reason.AWAITS_APPROVAL)
    lines.show_story(story, 100.0, None)
    for site in SITES:
        story = story.with_site(site, state="joined", reason=None)
    lines.show_story(story, 100.0, None)
    assert story.started is not None
    until = format_moment(story.started + EXPERIMENT.rounds.enrol_within)
    told = [line for line in capsys.readouterr().out.splitlines() if "recruiting" in line]
    assert told == [
        f"recruiting until {until}; not yet joined: {', '.join(SITES)}",
        f"recruiting until {until}; not yet joined: {SITES[0]}, {SITES[1]} (awaits approval there)",
        f"recruiting until {until}",
    ]


def test_what_came_over_several_streams_is_told_in_the_order_in_which_it_happened(
    capsys: pytest.CaptureFixture[str],
) -> None:
    story = tell_all(ExperimentStory("try"), events(recruited()))
    late = [replace(moment, time=100.0 - number) for number, moment in enumerate(story.moments)]
    shown = functools.reduce(Moments.add_moment, late, Moments())
    Lines().show_story(replace(story, moments=shown), 100.0, None)
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("1970")]
    assert told == [f"{format_moment(moment.time)} {moment.who}: {moment.what}" for moment in reversed(late)]


def test_a_site_that_declines_for_its_cases_says_why_they_are_left_out() -> None:
    cases = kinds.CaseCounts(
        found=25, used=0, left_out={"no-label": 1, "missing-channel": 24}, train=0, validation=0, test=0
    )
    body = kinds.Declined(reason=Reason.TOO_FEW_CASES, cases=cases)
    event = Author("test", "site-a").write_event("declined", body, time=1.0, experiment="try")
    assert event_sentence(event) == "declined: too-few-cases (0 of 25 cases usable, 24 missing-channel, 1 no-label)"


def test_an_experiment_that_failed_says_what_its_code_means() -> None:
    story = replace(ExperimentStory("try"), phase="failed", reason=Reason.ENROLMENT_FAILED)
    assert closing_lines(story) == ["try: failed (enrolment-failed)", f"  {ADVICE[Reason.ENROLMENT_FAILED]}"]


def test_plain_lines_tell_once_that_a_site_waits_for_its_hours_and_that_it_does_so_no_longer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = Lines()
    teller = Teller()
    teller.say("dr-a", "experiment-start", kinds.ExperimentStart(experiment=EXPERIMENT.as_plain()), admitted=SITES)
    story = tell_all(ExperimentStory("try"), events(teller))
    assert story.phase == "recruiting"
    waits = kinds.Alive(state="outside-hours", queued=1, opens_in=3600.0)
    for moment in (100.0, 105.0, 200.0):
        story = tell_event(story, live(SITES[0], "alive", waits, moment), moment)
        lines.show_story(story, moment, None)
    assert story.presence_of(SITES[0], 200.0) == "outside-hours"
    assert live_summary(story, SITES[0], 200.0)["opens_at"] == 3800.0
    story = tell_event(story, live(SITES[0], "alive", kinds.Alive(state="preparing", busy_with="try"), 205.0), 205.0)
    lines.show_story(story, 205.0, None)
    told = [line for line in capsys.readouterr().out.splitlines() if "hours" in line]
    assert told == [
        f"{SITES[0]} is outside-hours: its work waits for its allowed hours, which begin at 01:01Z",
        f"{SITES[0]} is outside-hours no longer",
    ]


def test_live_messages_are_no_history() -> None:
    story = tell_all(ExperimentStory("try"), events(recruited()))
    assert working(story, "site-a", 1, 5.0).moments == story.moments


def test_what_is_drawn_names_round_sites_and_scores() -> None:
    from rich.console import Console

    story = working(tell_all(ExperimentStory("try"), WHOLE), "site-a", 3, 2000.0)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(draw_picture(story, 2001.0))
    drawn = console.export_text()
    assert "training 3/10, epoch 1/2, loss 0.5000" in drawn
    assert "round 2/2" in headline_words(story, 2001.0)
    assert "test Dice overall  0.8250 (WT 0.825 TC 0.825), n = 4" in "\n".join(closing_lines(story))


def test_withheld_scores_are_counted_out() -> None:
    assert split(0.5).for_sharing(5, False).withheld


def test_what_a_newer_version_says_is_shown_and_changes_nothing_else() -> None:
    def wrote(kind: str, body: dict[str, object], ext: dict[str, int]) -> bytes:
        return written(kind, body, ext, sender="site-a", consortium="test", experiment="try", round_number=1)

    before = story_of_entries(recruited().entries, "try")
    story = tell_event(before, decode_event(wrote("key-shares", {"shares": [1]}, NEWER)))
    assert replace(story, moments=before.moments, seen=before.seen) == before
    assert story.moments[-1].what == "key-shares: a newer version says it, and this one does not know it"
    story = tell_event(story, decode_event(wrote("round-failed", {"reason": "gpu-melted"}, NEWER)))
    assert story.round_list[0].failures == {"site-a": Reason.OTHER}
    assert story.moments[-1].what == "round 1 failed: other"
    story = tell_event(story, decode_event(wrote("alive", {"state": "hibernating"}, NEWER)))
    assert story.sites["site-a"].live.state == "other"
    assert round_summary(story.round_list[0], story)["failures"] == {"site-a": "other"}
