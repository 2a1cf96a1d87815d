"""What an event costs the story: the same at the end of a long experiment as at its beginning."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytest
from storytelling import CASES, MANIFEST, PLAIN, PLATFORM, split

from deploy.story.changing import change_fields
from deploy.story.parts import RoundStory
from deploy.story.story import ExperimentStory
from deploy.story.telling import tell_all
from messages import kinds
from messages.envelope import Author, Event
from messages.experiment import Experiment


def long_experiment(sites: int, rounds: int) -> list[Event]:
    """Every site takes on each round, and delivers."""
    names = [f"site-{number:03}" for number in range(sites)]
    file = Experiment.model_validate({**PLAIN, "sites": names, "rounds": {"count": rounds}})
    authors = {name: Author("test", name, incarnation=1) for name in (*names, "coordinator")}
    told: list[Event] = []

    def say(who: str, kind: str, body: kinds.Body, number: int = 0) -> None:
        event = authors[who].write_event(
            kind, body, time=1000.0 + len(told), experiment="try", round_number=number
        )  # fmt: skip
        told.append(event)

    plain = file.as_plain()
    accepted = kinds.ExperimentAccepted(
        experiment=plain, digest=file.digest(), researcher="dr-a", original=b"e", enrol_within=60.0
    )
    say("coordinator", "experiment-accepted", accepted)
    for name in names:
        say(name, "joined", kinds.Joined(cases=CASES, platform=PLATFORM))
    for number in range(1, rounds + 1):
        sent = kinds.Transfer(round=number, attempt=1, seal="0" * 64, manifest=MANIFEST)
        start = kinds.RoundStart(transfer=sent, model_digest="1" * 64, sites=names, evaluate=True, train_within=60.0)
        say("coordinator", "round-start", start, number)
        for name in names:
            say(name, "round-accepted", kinds.RoundAccepted(), number)
            ready = kinds.WeightsReady(
                transfer=sent, cases_used=6, cases=CASES, epochs=1, steps=5, loss=0.5, seconds=3.0,
                validation=split(0.5 + number / 9999), platform=PLATFORM,
            )  # fmt: skip
            say(name, "weights-ready", ready, number)
        done = kinds.RoundComplete(
            model_digest="2" * 64, contributors=dict.fromkeys(names, 6), left_out={}, seconds=9.0, validation=None
        )
        say("coordinator", "round-complete", done, number)
    return told


def count_lines(told: Sequence[Event]) -> int:
    """Lines of Python that the reducer runs: what it costs, whatever else the machine does."""
    ran = 0

    def trace(_frame: object, what: str, _argument: object) -> object:
        nonlocal ran
        ran += what == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        tell_all(ExperimentStory("try"), told)
    finally:
        sys.settrace(before)
    return ran


@pytest.mark.parametrize("sites", [2, 20])
def test_an_event_costs_no_more_in_a_long_experiment(sites: int) -> None:
    short, long = long_experiment(sites, 20), long_experiment(sites, 80)
    assert count_lines(long) / len(long) < 1.05 * count_lines(short) / len(short)


def test_no_copy_grows_with_the_rounds_that_are_over() -> None:
    story = tell_all(ExperimentStory("try"), long_experiment(2, 30))
    one = story.with_round(30, seconds=1.0)
    assert all(one.rounds[number] is story.rounds[number] for number in range(1, 30))
    assert one.moments is story.moments
    assert one.seen is story.seen


def test_a_changed_value_is_equal_to_one_made_so_and_leaves_the_first_as_it_was() -> None:
    first = RoundStory(3)
    assert change_fields(first, state="void") == RoundStory(3, state="void")
    assert (first.state, hash(type(first))) == ("open", hash(RoundStory))
    with pytest.raises(TypeError, match="RoundStory has no field stat"):
        change_fields(first, stat="void")
