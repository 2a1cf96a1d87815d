"""What `watch` says of whom it waits for, of what it cannot know, and under which number it shows a score."""

from __future__ import annotations

from dataclasses import replace

import pytest
from brokers import PARTIES, consortium_definitions
from immutables import Map
from storytelling import SITES, Teller, complete, digest, recruited, split

from coordinator.core import inputs
from deploy.cli.live import JsonLines, Lines
from deploy.cli.words import closing_lines, headline_words, silence_words, waiting_words
from deploy.report.page import render_report
from deploy.report.tables import rounds_table
from deploy.session.connection import BrokerSession, LineState
from deploy.session.following import Follower
from deploy.session.history import HistoryReader
from deploy.session.profile import Profile
from deploy.story.events import event_sentence
from deploy.story.story import ExperimentStory
from deploy.story.summary import round_summary, story_as_plain
from deploy.story.telling import tell_all, tell_event
from messages import kinds
from messages.bus.base import BusState, Notice
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from messages.liveness import ABSENT_AFTER, STUCK_AFTER
from messages.reasons import ADVICE, Reason, advise_on
from messages.scores import SplitScores, sum_scores


def told(teller: Teller) -> ExperimentStory:
    """The story, with the coordinator's timers as a follower has them."""
    reader, story = HistoryReader(), ExperimentStory("try")
    for entry in teller.entries:
        story = tell_all(story, reader.of_entry(entry))
    return replace(story, timers=reader.timers_of("try"))


def live(story: ExperimentStory, sender: str, kind: str, body: kinds.Body, now: float) -> ExperimentStory:
    event = Author("test", sender).write_event(kind, body, time=now, experiment="try", round_number=1)
    return tell_event(story, event, now)


# whom it waits for


def test_a_round_that_a_site_gave_up_says_for_whom_it_waits_why_and_until_when(
    capsys: pytest.CaptureFixture[str],
) -> None:
    teller = recruited()
    opened = teller.time
    teller.update("site-a", 1, 0.5, 1.0)
    teller.say("site-b", "round-failed", kinds.RoundFailed(reason=Reason.SITE_PAUSED), 1)
    story, lines = told(teller), Lines()
    assert story.waiting is not None
    assert (story.waiting.what, dict(story.waiting.sites)) == ("round 1", {"site-b": Reason.SITE_PAUSED})
    assert story.waiting.until == pytest.approx(opened + 21600, abs=2)
    for _ in range(3):
        lines.show_story(story, 1100.0, None)
    said = [line for line in capsys.readouterr().out.splitlines() if "waits for" in line]
    assert said == [waiting_words(story, 1100.0)]
    assert said[0].startswith("round 1 waits for site-b (site-paused), until 1970-01-01 06:")
    teller.say("site-b", "round-accepted", kinds.RoundAccepted(), 1, known=True)
    assert told(teller).waiting.sites == {"site-b": None}  # type: ignore[union-attr]


def test_until_when_it_waits_knows_extensions_which_no_event_tells() -> None:
    teller = recruited()
    first = told(teller).deadline
    assert first is not None
    teller.give(inputs.TimerFired(time=first, timer=inputs.Timer.DEADLINE))
    assert told(teller).deadline == first + 21600


def evaluating() -> Teller:
    """Both rounds are over, and site-b has given the evaluation up."""
    teller, whole = recruited(), complete()
    teller.entries, teller.state, teller.time = [], None, 0.0
    for entry in whole.entries[:-2]:
        teller.entries.append(entry)
    from coordinator.record.recovery import recover_states

    teller.state, teller.time = recover_states(iter(teller.entries))["try"], 2000.0
    teller.say("site-b", "round-failed", kinds.RoundFailed(reason=Reason.SITE_DRAINING), 3)
    return teller


def test_the_evaluation_is_none_of_the_rounds_and_says_whom_it_waits_for() -> None:
    story = told(evaluating())
    assert "round 2/2" in headline_words(story, 2100.0)
    assert set(story.rounds) == {1, 2}
    assert waiting_words(story, 2100.0).startswith("the evaluation waits for site-a, site-b (site-draining), until")
    assert "the evaluation failed: site-draining" in [moment.what for moment in story.moments]
    assert (
        event_sentence(
            Author("test", "site-a").write_event("round-accepted", kinds.RoundAccepted(), time=1.0, round_number=3), 2
        )
        == "takes on the evaluation"
    )


# what it cannot know


def test_while_its_own_line_is_down_nobody_is_called_absent(capsys: pytest.CaptureFixture[str]) -> None:
    story = replace(told(recruited()), heard_since=1000.0, down=True)
    lines = Lines()
    for _ in range(3):
        lines.show_story(story, 5000.0, None)
    back = replace(story, down=False, heard_since=5000.0, coordinator_at=5000.0)
    lines.show_story(back, 5001.0, None)
    said = capsys.readouterr().out.splitlines()
    assert {story.presence_of(site, 5000.0) for site in SITES} == {"unknown"}
    assert sum("the broker is not reached" in line for line in said) == 1
    assert "the broker is there again" in said
    assert not [line for line in said if "absent" in line]


def test_at_the_start_nothing_is_said_of_who_has_not_had_time_to_speak() -> None:
    story = replace(told(recruited()), heard_since=1000.0)
    assert story.presence_of("site-a", 1001.0) == "unknown"
    assert story.presence_of("site-a", 1001.0 + ABSENT_AFTER) == "absent"


def test_an_auditor_who_hears_no_site_is_not_told_that_all_are_absent() -> None:
    story = replace(told(recruited()), heard_since=1000.0, hears_live=False)
    assert story.presence_of("site-a", 9000.0) == "unknown"
    assert silence_words(story, 9000.0) == ""


def test_a_coordinator_that_waits_for_its_disk_or_the_broker_says_so() -> None:
    story = live(told(recruited()), "coordinator", "alive", kinds.Alive(state="paused"), 1000.0)
    assert "the coordinator waits" in silence_words(replace(story, heard_since=900.0), 1001.0)
    going = live(story, "coordinator", "alive", kinds.Alive(state="running"), 1005.0)
    assert silence_words(replace(going, heard_since=900.0), 1006.0) == ""


def test_a_site_that_waits_for_a_silent_coordinator_is_not_stuck() -> None:
    story = replace(told(recruited()), heard_since=1000.0, coordinator_at=1000.0)
    fetching = kinds.Progress(phase="fetching", done=1, total=10)
    later = 1000.0 + STUCK_AFTER + 10
    story = live(
        live(story, "site-a", "progress", fetching, 1005.0), "site-a", "alive", kinds.Alive(state="fetching"), later
    )
    assert story.presence_of("site-a", later) == "working"
    assert replace(story, coordinator_at=later).presence_of("site-a", later) == "stuck"
    sent = live(story, "site-a", "progress", kinds.Progress(phase="sending", done=9, total=9), 1006.0)
    sent = live(replace(sent, coordinator_at=later), "site-a", "alive", kinds.Alive(state="sending"), later)
    assert sent.presence_of("site-a", later) == "working"  # all of it is out: the coordinator has it now


def test_a_dead_coordinator_is_told_once_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    story, lines = replace(told(recruited()), heard_since=1000.0, coordinator_at=1000.0), Lines()
    for now in (1010.0, 1030.0, 1040.0):
        lines.show_story(story, now, None)
    lines.show_story(replace(story, coordinator_at=1041.0), 1042.0, None)
    said = [line for line in capsys.readouterr().out.splitlines() if "coordinator" in line and "1970" not in line]
    assert said == [
        "no sign of the coordinator for 30 s: rounds neither open nor close until it is back",
        "the coordinator is there again",
    ]


def test_a_site_is_only_said_to_be_late_where_it_will_be(capsys: pytest.CaptureFixture[str]) -> None:
    story = replace(told(recruited()), phase="running", heard_since=1000.0, coordinator_at=1000.0)
    for site, eta in (("site-a", 500.0), ("site-b", 5.0)):
        body = kinds.Progress(phase="training", done=1, total=10, eta_seconds=eta)
        story = live(story, site, "progress", body, 1010.0)
    Lines().show_story(story, 1010.0, None)
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "is slow" in line]
    assert said == "site-a is slow: its work moves, but takes much longer than that of the others"
    late = live(
        story, "site-a", "progress", kinds.Progress(phase="training", done=2, total=10, eta_seconds=1e5), 1011.0
    )
    Lines().show_story(late, 1011.0, None)
    assert "will not be done by the deadline" in capsys.readouterr().out


# one numbering


def test_every_face_shows_a_score_under_the_rounds_that_made_its_model(capsys: pytest.CaptureFixture[str]) -> None:
    story = told(complete())
    assert [(point.round, point.pooled.mean_score("dice")) for point in story.validation_curve()] == [
        (0, pytest.approx(0.3)), (1, pytest.approx(0.6)), (2, pytest.approx(0.7)),
    ]  # fmt: skip
    summed = [round_summary(one, story)["validation"]["mean"] for one in story.round_list]
    assert summed == [pytest.approx(0.6), pytest.approx(0.7)]
    page = rounds_table(story)
    assert page.index("0.600") < page.index("0.700")
    assert "after round 2: 0.7000" in headline_words(story, 0.0)
    plain = story_as_plain(story)
    assert (plain["validation"]["mean"], plain["validation_round"]) == (pytest.approx(0.7), story.model_round)
    JsonLines().show_story(story, 0.0, None)
    out = capsys.readouterr().out
    assert [line.count('"type": "validation"') for line in out.splitlines()].count(1) == 3


def test_the_list_shows_the_model_that_the_experiment_yields() -> None:
    story = replace(told(complete()), model_round=1)
    assert story.latest_point is not None
    assert story.latest_point.round == 1


# sites that withhold


def test_withheld_sites_stay_in_the_headline_and_one_site_is_no_mean_over_sites() -> None:
    story = told(complete())
    withheld = kinds.ModelScores(model_digest=digest("c"), splits={"test": SplitScores(cases=3, withheld=True)})
    story = replace(story, evaluations={**story.evaluations, "site-b": {"final": withheld}})
    page = render_report(story)
    assert "2 sites, 2 rounds: mean test Dice 0.700 over 2 cases of 1 site; site-b withheld 3 of 5 cases." in page
    assert "Unweighted mean" not in page
    lines = "\n".join(closing_lines(story))
    assert "n = 2 of 5, the others withheld by site-b" in lines
    assert "mean over sites" not in lines
    assert story_as_plain(story)["test"]["unweighted_mean"] is None
    assert story_as_plain(story)["test"]["withheld"] == {"site-b": 3}


def test_a_second_metric_is_shown_with_what_has_no_value_of_it() -> None:
    dice = sum_scores([0.8, 0.0], reference_empty=[False, False])
    distance = sum_scores([2.0, None], reference_empty=[False, False])
    found = SplitScores(cases=2, metrics={"dice": {"WT": dice, "TC": dice}, "hd95": {"WT": distance, "TC": distance}})
    scored = kinds.ModelScores(model_digest=digest("c"), splits={"test": found, "validation": split(0.7)})
    story = replace(told(complete()), evaluations={"site-a": {"final": scored}})
    lines = "\n".join(closing_lines(story))
    assert "test 95 % Hausdorff distance (mm) overall  2.0 (WT 2.0 of 1, TC 2.0 of 1" in lines
    assert "only one of the two is empty: WT 1, TC 1" in lines
    assert story_as_plain(story)["test"]["metrics"]["hd95"]["lacking"] == {"WT": 1, "TC": 1}
    assert "95 % Hausdorff distance (mm) by region over all test cases" in render_report(story)


# who is to blame


def test_a_failed_experiment_names_the_sites_and_their_reasons() -> None:
    teller = recruited()
    teller.update("site-a", 1, 0.5, 1.0)
    teller.say("site-b", "round-failed", kinds.RoundFailed(reason=Reason.CUDA_OOM), 1)
    story = replace(told(teller), phase="failed", reason=Reason.QUORUM_NOT_MET)
    line = f"site-b in round 1: cuda-oom. {ADVICE[Reason.CUDA_OOM]}"
    assert f"  {line}" in closing_lines(story)
    page = render_report(story)
    assert line in page
    assert "failed (quorum-not-met): no test result" in page


def test_an_experiment_that_too_few_joined_names_who_declined_and_who_said_nothing() -> None:
    story = replace(told(recruited()), phase="failed", reason=Reason.ENROLMENT_FAILED, rounds=Map())
    story = story.with_site("site-a", state="declined", reason=Reason.NET_NOT_ALLOWED)
    story = story.with_site("site-b", state="invited")
    lines = closing_lines(story)
    assert f"  site-a at recruiting: declined, net-not-allowed. {ADVICE[Reason.NET_NOT_ALLOWED]}" in lines
    assert "  site-b at recruiting: no answer" in lines
    assert not [line for line in lines if "deadline" in line]


def test_a_reason_of_the_coordinators_is_not_blamed_on_a_site() -> None:
    assert "coordinator.toml" in advise_on(Reason.RESEARCHER_NOT_ALLOWED, by_coordinator=True)
    assert "policy.allow" in advise_on(Reason.RESEARCHER_NOT_ALLOWED)
    assert "Konsil" not in advise_on(Reason.TOO_LARGE, by_coordinator=True)
    assert "by itself" not in advise_on(Reason.DISK_FULL, by_coordinator=True)
    assert advise_on(Reason.DISK_FULL, waits=True).endswith("It goes on by itself then")


def test_who_follows_an_experiment_notes_when_its_own_line_is_down_and_when_it_is_back() -> None:
    line, now = LineState(), [1000.0]
    broker = MemoryBroker(consortium_definitions(PARTIES))
    with BrokerSession(MemoryBus(broker, "dr-a"), Profile(name="dr-a", consortium="test"), line) as session:
        follower = Follower(session, "try", lambda: now[0])
        follower.listen_from_start()
        line.take_notice(Notice(BusState.LOST))
        now[0] = 1100.0
        follower.hear_next(0.0)
        assert (follower.story.down, follower.story.heard_since) == (True, 1000.0)
        line.take_notice(Notice(BusState.CONNECTED))
        follower.hear_next(0.0)
        assert (follower.story.down, follower.story.heard_since) == (False, 1100.0)
