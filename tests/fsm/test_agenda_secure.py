"""A site's part in a secure round, as the agenda decides it: the order of steps, and that nothing leaves unmasked."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import pytest
from agenda_kit import (
    COUNTS,
    KEPT,
    MASKS,
    PLATFORM,
    PREPARED,
    SCORES,
    THREE,
    accepted,
    after,
    answered,
    does,
    evaluation_start,
    inside,
    model_ready,
    round_complete,
    round_start,
    said,
    sealed,
    secure_said,
    secure_start,
    step,
    trained,
)

from messages import kinds
from messages.bus.base import Delivery
from messages.envelope import Author
from messages.ground.clock import SystemClock
from messages.reasons import Reason
from messages.secure.context import Exchange, make_context
from site_agent.core.agenda import restore_agenda
from site_agent.core.effects import (
    Effect,
    Free,
    FreeSecrets,
    KeepSecrets,
    RunSecure,
    RunTrain,
    Say,
    SendChunks,
)
from site_agent.core.inputs import (
    AnyInput,
    ChunksSent,
    Heard,
    PartBroken,
    Prepared,
    Receipted,
    Restarted,
    Scored,
    SecureRefused,
    TrainerDied,
    UpdateLost,
    UpdateMasked,
)
from site_agent.core.jobs import Agenda, Phase, SaidBefore
from site_agent.disk.spool import Spool
from site_agent.loop.budgets import Budgets
from site_agent.loop.orientation import Orientation
from site_agent.secure.believing import find_own_weight
from site_agent.wire.outbox import Outbox

MASKED = UpdateMasked("e", 1, 1, sealed(1))
JOINED: list[AnyInput] = [accepted(**MASKS), PREPARED]
WAY: list[AnyInput] = [
    secure_start(), answered("secure-keys", 1), secure_said("secure-roster", 2), answered("secure-shares", 2),
    model_ready(), secure_said("secure-masking", 3), secure_said("secure-mail", 3), inside(), MASKED,
    ChunksSent("e", 1, 1), Receipted("e", 1, 1), secure_said("secure-closing", 4), answered("secure-consent", 4),
    secure_said("secure-unmasking", 5), answered("secure-reveal", 5),
]  # fmt: skip
"""A calm round."""


def begun(count: int) -> Agenda:
    """The agenda after so many inputs of a calm round."""
    return after([*JOINED, *WAY[:count]])[0]


def kinds_of(todo: Iterable[Effect]) -> list[str]:
    return [one.kind for one in todo if isinstance(one, Say)]


def works_of(todo: Iterable[Effect]) -> list[str]:
    return [one.work for one in todo if isinstance(one, RunSecure)]


def test_a_calm_secure_round_answers_each_step_once_and_trains_meanwhile() -> None:
    agenda, todo = after([*JOINED, *WAY])
    assert kinds_of(todo) == [
        "joined", "round-accepted", "secure-keys", "secure-shares", "weights-ready", "secure-consent", "secure-reveal",
    ]  # fmt: skip
    assert works_of(todo) == ["secure-keys", "secure-shares", "masking", "secure-consent", "secure-reveal"]
    assert RunTrain("e") in todo
    agenda, todo = after([round_complete(1)], agenda)
    assert (agenda.jobs["e"].secure, todo) == (None, [FreeSecrets("e", 1)])


def test_the_masked_update_is_told_without_loss_and_scores() -> None:
    _, todo = after([*JOINED, *WAY])
    (told,) = [one.body for one in todo if isinstance(one, Say) and one.kind == "weights-ready"]
    assert isinstance(told, kinds.WeightsReady)
    assert (told.loss, told.validation, told.transfer) == (None, None, sealed(1))


def test_each_answer_answers_the_event_that_opened_its_step() -> None:
    _, todo = after([*JOINED, *WAY])
    asked = {one.kind: one.question for one in todo if isinstance(one, Say) and one.kind.startswith("secure")}
    events = {one.event.kind: one.event.raw for one in WAY if isinstance(one, Heard)}
    assert asked == {
        "secure-keys": events["round-start"],
        "secure-shares": events["secure-roster"],
        "secure-consent": events["secure-closing"],
        "secure-reveal": events["secure-unmasking"],
    }


def test_what_is_done_is_kept_in_the_transaction_that_says_it() -> None:
    _, _, todo = step(begun(1), WAY[1])
    assert [type(one) for one in todo] == [KeepSecrets, Say]
    assert todo[0] == KeepSecrets("e", 1, KEPT)


def test_a_data_set_that_is_counted_anew_changes_no_weight_that_the_coordinator_knows_from_the_joining() -> None:
    before = begun(5)
    fewer = COUNTS.model_copy(update={"train": COUNTS.train - 2})
    after_it, _, _ = step(before, Prepared("e", fewer, PLATFORM))
    job = after_it.jobs["e"]
    assert job.counts == fewer
    context = make_context(Exchange("", "", 1, 1, 3, ()), dict.fromkeys(THREE, 7))
    assert find_own_weight(job, context, "site-a") == COUNTS.train


@pytest.mark.parametrize("count", range(1, len(WAY) + 1))
def test_a_restart_asks_again_for_what_was_not_answered_and_for_nothing_else(count: int) -> None:
    before = begun(count)
    again, todo = after([Restarted()], restore_agenda(before))
    job, was = again.jobs["e"], before.jobs["e"]
    assert job.secure == was.secure
    assert kinds_of(todo) == []
    expected = {1: "secure-keys", 3: "secure-shares", 8: "masking", 12: "secure-consent", 14: "secure-reveal"}
    assert works_of(todo) == ([expected[count]] if count in expected else [])
    if was.phase is Phase.MASKING:
        assert job.trained == was.trained, "it would be trained again"


@pytest.mark.parametrize("at", range(len(WAY) + 1))
@pytest.mark.parametrize(
    "plain",
    [round_start(1), round_start(2), trained(1), evaluation_start(2)],
    ids=["same round", "next round", "update", "scores"],
)
def test_nothing_plain_is_begun_or_sent_in_an_experiment_of_secure_rounds(at: int, plain: AnyInput) -> None:
    agenda, _, todo = step(begun(at), plain)
    assert not [one for one in todo if isinstance(one, RunTrain | SendChunks)]
    assert {*kinds_of(todo)} <= {"round-failed"}
    assert agenda.jobs["e"].update is None or agenda.jobs["e"].update == begun(at).jobs["e"].update


def test_scores_of_a_secure_evaluation_wait_for_their_masks() -> None:
    start = evaluation_start(3)
    body = start.event.body
    assert isinstance(body, kinds.EvaluationStart)
    secure = kinds.SecureStart(tried=1, threshold="two-thirds", within=60.0)
    changed = body.model_copy(update={"secure": secure, "sites": list(THREE)})
    way = [Heard(said("evaluation-start", changed, 3)), model_ready(3), model_ready(2)]
    agenda, todo = after([*JOINED, *way, Scored("e", "final", SCORES), Scored("e", "selected", SCORES)])
    assert agenda.phase_of("e") is Phase.MASKING
    assert "evaluated" not in kinds_of(todo)


def test_a_new_try_keeps_the_training_and_asks_for_new_keys() -> None:
    agenda, _, todo = step(begun(5), secure_start(tried=2, opening=3))
    job = agenda.jobs["e"]
    assert (job.phase, job.attempt, job.opening) == (Phase.TRAINING, 1, 3)
    assert job.secure is not None
    assert (job.secure.tried, job.secure.answered, job.secure.roster) == (2, (), None)
    assert (kinds_of(todo), works_of(todo)) == (["round-accepted"], ["secure-keys"])


@pytest.mark.parametrize("count", range(6, len(WAY) + 1))
def test_no_try_begins_once_masking_has_begun(count: int) -> None:
    agenda, _, todo = step(begun(count), secure_start(tried=2, opening=9))
    assert (agenda, todo) == (begun(count), ())


@pytest.mark.parametrize("over", [round_complete(1), PartBroken("e")], ids=["over", "given up"])
def test_a_round_in_which_masking_had_begun_is_never_begun_again(over: AnyInput) -> None:
    agenda, _ = after([*JOINED, *WAY[:9], over, secure_start(tried=2, opening=9)])
    job = agenda.jobs["e"]
    assert (job.phase, job.secure, job.barred) == (Phase.IDLE, None, 1)
    assert after([secure_start(2)], agenda)[0].phase_of("e") is Phase.FETCHING


def test_a_try_from_another_model_is_refused() -> None:
    _, says, todo = does(begun(5), secure_start(tried=2, opening=3, digest="1" * 64))
    assert says == ["round-failed"]
    assert [one.body.reason for one in todo if isinstance(one, Say)] == [Reason.BAD_ROSTER]


def test_a_try_under_another_threshold_than_the_files_is_refused() -> None:
    _, says, todo = does(begun(5), secure_start(tried=2, opening=3, threshold="majority"))
    assert says == ["round-failed"]
    assert [one.body.reason for one in todo if isinstance(one, Say)] == [Reason.BAD_ROSTER]


@pytest.mark.parametrize(("count", "kind"), [(4, "secure-roster"), (6, "secure-masking")])
def test_a_try_has_one_roster_and_is_masked_under_one_context(count: int, kind: str) -> None:
    """Under two of them two masked updates of one training would leave, and their sums would tell one site's."""
    weights = {"weights": {"site-a": 1, "site-b": 1}} if kind == "secure-masking" else {}
    agenda, _, todo = step(begun(count), secure_said(kind, 9, **weights))
    assert (agenda, todo) == (begun(count), ())


def test_where_no_coordinator_says_where_the_site_was_its_open_secure_rounds_are_over(tmp_path: Path) -> None:
    """One that poses as older than secure rounds would have the site mask a round again, out of a backup."""
    spool = Spool(tmp_path)
    place = Orientation(spool, cast(Outbox, None), "site-a", SystemClock(), cast(Budgets, None), signs=True)
    older = Author("demo", "coordinator", can=frozenset()).write_event(
        "coordinator-hello", kinds.CoordinatorHello(versions={}), time=0.0
    )
    delivery = Delivery("downlink", older.key, older.raw, "coordinator", 0, 0)
    assert not place.keep_back(delivery, older, lambda: None, lambda _delivery: None)
    said_before = place.list_said(begun(5).jobs)
    spool.close()
    agenda, todo = after([Restarted({}, said_before)], restore_agenda(begun(5)))
    assert (agenda.jobs["e"].secure, agenda.jobs["e"].barred) == (None, 1)
    assert [one.body.reason for one in todo if isinstance(one, Say)] == [Reason.SECRETS_LOST]


def test_a_site_that_masking_leaves_out_drops_the_round_and_its_secrets() -> None:
    phase, says, todo = does(begun(5), secure_said("secure-masking", 3, weights={"site-b": 1, "site-c": 1}))
    assert (phase, says) == (Phase.IDLE, [])
    assert FreeSecrets("e", 1) in todo
    assert Free("e", 1) in todo


@pytest.mark.parametrize(
    ("count", "kind"), [(1, "secure-roster"), (2, "secure-masking"), (8, "secure-closing"), (11, "secure-unmasking")]
)
def test_a_step_whose_answer_was_not_given_before_is_not_taken(count: int, kind: str) -> None:
    _, _, todo = step(begun(count), secure_said(kind, 9))
    assert works_of(todo) == []
    assert kinds_of(todo) == []


def test_what_is_refused_gives_the_round_up_with_its_code_and_frees_the_secrets() -> None:
    phase, says, todo = does(begun(3), SecureRefused("e", 1, 2, Reason.TOO_FEW_PEERS))
    assert (phase, says) == (Phase.IDLE, ["round-failed"])
    assert FreeSecrets("e", 1) in todo


def test_a_consent_that_is_refused_says_nothing_more_of_the_round() -> None:
    phase, says, todo = does(begun(12), SecureRefused("e", 1, 4, Reason.OTHER_CONTEXT))
    assert (phase, says, todo) == (Phase.IDLE, [], [FreeSecrets("e", 1)])


def test_a_masked_update_that_is_lost_is_masked_again_and_not_trained() -> None:
    agenda, _, todo = step(begun(9), UpdateLost("e", 1, 1))
    assert (agenda.phase_of("e"), works_of(todo)) == (Phase.MASKING, ["masking"])
    assert agenda.jobs["e"].attempt == 1


def test_a_disk_that_went_back_in_time_takes_no_secure_step_in_rounds_that_were_open() -> None:
    back = Restarted(said={"e": SaidBefore(1, 3, 1, reported=False)})
    for count in range(len(WAY) + 1):
        agenda, todo = after([back], restore_agenda(begun(count)))
        assert ({*kinds_of(todo)} <= {"round-failed"}, works_of(todo)) == (True, []), count
        for heard in (secure_start(1, 2, 9), secure_said("secure-roster", 9), secure_said("secure-unmasking", 9)):
            _, _, more = step(agenda, heard)
            assert works_of(more) == [], count
        again, _ = after([Restarted()], restore_agenda(agenda))
        assert works_of(step(again, secure_start(1, 2, 9))[2]) == [], "the next start knows it no more"
        assert after([secure_start(2)], again)[0].phase_of("e") is Phase.FETCHING


def test_a_trainer_that_dies_in_a_secure_round_goes_on_as_in_any_other() -> None:
    agenda, _, todo = step(begun(5), TrainerDied("e"))
    assert todo == (RunTrain("e"),)
    assert agenda.jobs["e"].secure == begun(5).jobs["e"].secure


def test_an_opening_that_waited_while_the_data_were_read_is_judged_as_any() -> None:
    agenda, todo = after([accepted(**MASKS), round_start(1), PREPARED])
    assert agenda.phase_of("e") is Phase.IDLE
    assert [one.body.reason for one in todo if isinstance(one, Say) and one.kind == "round-failed"] == [
        Reason.PRIVACY_BELOW_FLOOR
    ]


def test_a_plain_experiment_takes_no_secure_round() -> None:
    agenda, todo = after([accepted(), PREPARED, secure_start(sites=["site-a"])])
    assert (agenda.phase_of("e"), works_of(todo)) == (Phase.IDLE, [])


def secure_words(todo: Iterable[Effect]) -> list[Any]:
    return [one for one in todo if isinstance(one, Say | SendChunks | RunSecure)]


def test_a_second_answer_to_one_step_is_never_said() -> None:
    agenda, _, todo = step(begun(2), answered("secure-keys", 1))
    assert (agenda, secure_words(todo)) == (begun(2), [])


def test_a_closing_that_came_before_the_receipt_is_answered_after_a_restart() -> None:
    agenda, _ = after([*JOINED, *WAY[:10], secure_said("secure-closing", 4)])
    assert agenda.phase_of("e") is Phase.SENDING
    _, todo = after([Restarted()], restore_agenda(agenda))
    assert works_of(todo) == ["secure-consent"]


def test_a_consent_that_is_refused_before_the_receipt_takes_nothing_back() -> None:
    agenda, _ = after([*JOINED, *WAY[:10], secure_said("secure-closing", 4)])
    phase, says, todo = does(agenda, SecureRefused("e", 1, 4, Reason.TOO_FEW_PEERS))
    assert (phase, says, todo) == (Phase.SENDING, [], [FreeSecrets("e", 1)])
