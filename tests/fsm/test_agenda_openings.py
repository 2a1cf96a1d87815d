"""Several openings of one round at a site: the newest is taken on, and what is said of each is an event of its own."""

from __future__ import annotations

from agenda_kit import PREPARED, SEAL, WAYS, after, model_ready, round_start, said, step, trained

from messages.kinds import OwnModel, RoundStart
from messages.reasons import Reason
from site_agent.core.agenda import decide
from site_agent.core.decisions import Ignore
from site_agent.core.effects import Fetch, Free, Say
from site_agent.core.inputs import ChunksSent, Heard, TrainerFailed
from site_agent.core.jobs import Phase


def opened(number: int, opening: int, sites: tuple[str, ...] = ("site-a",)) -> Heard:
    """round-start of a later opening of a round."""
    first = round_start(number, sites=sites).event
    return Heard(said("round-start", first.body, number, attempt=opening))


def test_a_later_opening_of_the_same_round_is_taken_on_as_a_new_attempt_with_events_of_its_own() -> None:
    agenda, _ = after([*WAYS[Phase.FETCHING], opened(1, 2, ("site-b",))])
    assert agenda.phase_of("e") is Phase.IDLE
    agenda, _, todo = step(agenda, opened(1, 3))
    accepted_ = [one for one in todo if isinstance(one, Say)]
    assert [(one.kind, one.round, one.attempt) for one in accepted_] == [("round-accepted", 1, 3)]
    assert agenda.jobs["e"].attempt == 2
    agenda, todo = after([model_ready(), trained(attempt=2), ChunksSent("e", 1, 2)], agenda)
    ready = [one for one in todo if isinstance(one, Say)]
    assert [(one.kind, one.attempt) for one in ready] == [("weights-ready", 2)]


def test_an_earlier_opening_that_comes_late_changes_nothing() -> None:
    agenda, _ = after([*WAYS[Phase.IDLE], opened(1, 2)])
    assert decide(agenda, round_start(1)) == (Ignore("e", Reason.WRONG_ROUND),)


def test_a_round_that_goes_on_without_the_site_ends_its_work_for_it() -> None:
    agenda, todo = after([*WAYS[Phase.TRAINING], opened(1, 2, ("site-b",))])
    assert agenda.phase_of("e") is Phase.IDLE
    assert agenda.running is None
    assert Free("e", 1) in todo


def test_a_round_of_others_leaves_nothing_of_its_model_here() -> None:
    _, _, todo = step(after(WAYS[Phase.IDLE])[0], round_start(4, sites=["site-b"]))
    assert todo == (Free("e", 4),)


def test_giving_up_a_later_opening_is_another_event_than_giving_up_the_first() -> None:
    agenda, first = after([*WAYS[Phase.TRAINING], TrainerFailed("e", Reason.NAN_LOSS)])
    _, later = after([opened(1, 2), model_ready(), TrainerFailed("e", Reason.NAN_LOSS)], agenda)
    attempts = [one.attempt for one in [*first, *later] if isinstance(one, Say) and one.kind == "round-failed"]
    assert attempts == ["nan-loss", "nan-loss.2"]


def test_a_step_that_was_held_gives_way_to_a_newer_one_only() -> None:
    agenda, _ = after([*WAYS[Phase.PREPARING], opened(1, 2)])
    assert decide(agenda, round_start(1, sites=["site-b"]))[0] == Ignore("e", Reason.WRONG_ROUND)
    agenda, _ = after([PREPARED], agenda)
    assert (agenda.jobs["e"].round, agenda.jobs["e"].opening) == (1, 2)


def test_a_site_that_has_a_model_of_its_own_fetches_that_one_and_no_other() -> None:
    first = round_start(2).event.body
    assert isinstance(first, RoundStart)
    mine = {"site-a": OwnModel(round=2, attempt=3, seal="c" * 64, model_digest="d" * 64)}
    others = {"site-b": mine["site-a"]}
    found = []
    for own in (None, others, others | mine):
        body = first.model_copy(update={"own": own})
        _, _, todo = step(after(WAYS[Phase.IDLE])[0], Heard(said("round-start", body, 2)))
        found += [(one.key.round, one.key.attempt, one.seal.seal) for one in todo if isinstance(one, Fetch)]
    assert found == [(2, 1, SEAL), (2, 1, SEAL), (2, 3, "c" * 64)]
