"""The site's agenda: every pair of phase and event, legal and illegal, and what holds in any order of events."""

from __future__ import annotations

from dataclasses import replace

import pytest
from agenda_kit import (
    ENDINGS,
    MANIFEST,
    PREPARED,
    SCORES,
    SEAL,
    STANDING,
    WAYS,
    accepted,
    after,
    chunks_wanted,
    does,
    evaluation_start,
    model_ready,
    round_complete,
    round_start,
    said,
    step,
    trained,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from messages import kinds
from messages.kinds import ExperimentPaused, ExperimentResumed
from messages.reasons import Reason
from messages.tensors.transfer import TransferKey
from site_agent.core.agenda import HEARD, OWN, TABLE, IllegalInput, decide, restore_agenda
from site_agent.core.decisions import GiveUp, Ignore
from site_agent.core.effects import Fetch, Free, Halt, RunEvaluate, RunPrepare, RunTrain, Say, SendChunks
from site_agent.core.inputs import (
    AnyInput,
    Approved,
    ChunksSent,
    Heard,
    ModelReady,
    NoSpace,
    Receipted,
    Restarted,
    Scored,
    Switched,
    TrainerDied,
    TrainerFailed,
    TurnedDown,
    UpdateLost,
)
from site_agent.core.jobs import NEEDS_SLOT, OVER, Agenda, Phase
from site_agent.core.policy import PolicyVerdict


@pytest.mark.parametrize("phase", STANDING)
def test_every_phase_can_be_reached(phase: Phase) -> None:
    agenda, _ = after(WAYS[phase])
    assert agenda.phase_of("e") is phase


@pytest.mark.parametrize("phase", STANDING)
@pytest.mark.parametrize("kind", HEARD)
def test_the_table_answers_everything_that_the_coordinator_may_say(phase: Phase, kind: str) -> None:
    assert (phase, kind) in TABLE


MOVES: list[tuple[Phase, AnyInput, Phase, list[str]]] = [
    (Phase.AWAITING, Approved("e"), Phase.PREPARING, []),
    (Phase.AWAITING, TurnedDown("e"), Phase.DECLINED, ["declined"]),
    (Phase.AWAITING, round_start(), Phase.AWAITING, []),
    (Phase.PREPARING, PREPARED, Phase.IDLE, ["joined"]),
    (Phase.PREPARING, replace(PREPARED, lack=Reason.TOO_FEW_CASES), Phase.DECLINED, ["declined"]),
    (Phase.PREPARING, TrainerFailed("e", Reason.UNREADABLE), Phase.DECLINED, ["declined"]),
    (Phase.PREPARING, TrainerDied("e"), Phase.PREPARING, []),
    (Phase.PREPARING, TrainerDied("e", stuck=True), Phase.DECLINED, ["declined"]),
    (Phase.IDLE, round_start(), Phase.FETCHING, ["round-accepted"]),
    (Phase.IDLE, round_start(sites=["site-b"]), Phase.IDLE, []),
    (Phase.IDLE, round_start(verdict=PolicyVerdict(Reason.POLICY_EXPIRED)), Phase.IDLE, ["round-failed"]),
    (Phase.IDLE, round_start(opens_in=100.0), Phase.IDLE, ["round-failed"]),
    (Phase.IDLE, round_start(opens_in=99.0), Phase.FETCHING, ["round-accepted"]),
    (Phase.IDLE, PREPARED, Phase.IDLE, []),
    (Phase.IDLE, replace(PREPARED, lack=Reason.TOO_FEW_CASES), Phase.IDLE, []),
    (Phase.FETCHING, replace(PREPARED, lack=Reason.TOO_FEW_CASES), Phase.IDLE, ["round-failed"]),
    (Phase.IDLE, evaluation_start(), Phase.EVALUATING, ["round-accepted"]),
    (Phase.FETCHING, model_ready(), Phase.TRAINING, []),
    (Phase.FETCHING, model_ready(2), Phase.FETCHING, []),
    (Phase.FETCHING, NoSpace("e"), Phase.IDLE, ["round-failed"]),
    (Phase.FETCHING, round_complete(), Phase.IDLE, []),
    (Phase.TRAINING, trained(), Phase.SENDING, []),
    (Phase.TRAINING, trained(attempt=2), Phase.TRAINING, []),
    (Phase.TRAINING, TrainerFailed("e", Reason.NAN_LOSS), Phase.IDLE, ["round-failed"]),
    (Phase.TRAINING, TrainerFailed("e", Reason.GPU_ERROR), Phase.TRAINING, []),
    (Phase.TRAINING, TrainerDied("e", stuck=True), Phase.IDLE, ["round-failed"]),
    (Phase.TRAINING, replace(PREPARED, lack=Reason.TOO_FEW_CASES), Phase.IDLE, ["round-failed"]),
    (Phase.TRAINING, round_complete(), Phase.IDLE, []),
    (Phase.TRAINING, round_start(2), Phase.FETCHING, ["round-accepted"]),
    (Phase.TRAINING, round_start(1), Phase.TRAINING, []),
    (Phase.SENDING, ChunksSent("e", 1, 1), Phase.SENDING, ["weights-ready"]),
    (Phase.SENDING, ChunksSent("e", 1, 2), Phase.SENDING, []),
    (Phase.SENDING, Receipted("e", 1, 1), Phase.IDLE, []),
    (Phase.SENDING, UpdateLost("e", 1, 1), Phase.FETCHING, []),
    (Phase.SENDING, round_start(2), Phase.FETCHING, ["round-accepted"]),
    (Phase.EVALUATING, Scored("e", "final", SCORES), Phase.EVALUATING, []),
    (Phase.EVALUATING, Scored("e", "selected", SCORES), Phase.EVALUATING, []),
    (Phase.EVALUATING, TrainerFailed("e", Reason.CUDA_OOM), Phase.REPORTED, ["round-failed"]),
    (Phase.REPORTED, round_start(9), Phase.REPORTED, []),
    (Phase.DECLINED, round_start(), Phase.DECLINED, []),
    (Phase.ENDED, round_start(), Phase.ENDED, []),
]  # fmt: skip


@pytest.mark.parametrize(("phase", "given", "becomes", "says"), MOVES)
def test_a_pair_leads_where_the_table_says(phase: Phase, given: AnyInput, becomes: Phase, says: list[str]) -> None:
    agenda, _ = after(WAYS[phase])
    assert does(agenda, given)[:2] == (becomes, says)


@pytest.mark.parametrize(("way", "number"), [(round_start(), 1), (evaluation_start(), 3)])
def test_a_model_that_is_not_the_one_that_the_step_names_is_not_worked_with(way: Heard, number: int) -> None:
    agenda, _ = after([accepted(), PREPARED, way])
    decided = decide(agenda, replace(model_ready(number), digest="f" * 64))
    assert decided == (GiveUp("e", number, 1, Reason.OTHER_CONTEXT),)


def test_an_ensemble_whose_name_its_parts_do_not_make_is_not_scored() -> None:
    part = kinds.OwnModel(round=3, attempt=3, seal=SEAL, model_digest="d" * 64)
    named = kinds.name_ensemble("mean", {"own-1": ("d" * 64, 1.0)})
    for name, refused in ((named, False), ("e" * 64, True)):
        combined = kinds.Combined(
            label="ensemble", rule="mean", weights={"own-1": 1.0}, parts={"own-1": part}, manifest=MANIFEST,
            model_digest=name,
        )  # fmt: skip
        body = kinds.EvaluationStart(models=[], sites=["site-a"], evaluate_within=9.0, combined=combined)
        agenda, _ = after([accepted(), PREPARED, Heard(said("evaluation-start", body, 3))])
        given = ModelReady("e", TransferKey("e", 3, "coordinator", 3), "d" * 64)
        assert any(isinstance(one, GiveUp) for one in decide(agenda, given)) is refused


def test_weights_ready_says_the_model_that_the_update_began_with_as_the_site_received_it() -> None:
    sent = ChunksSent("e", 1, 1)
    *_, todo = step(after(WAYS[Phase.SENDING])[0], sent)
    assert [one.more for one in todo if isinstance(one, Say)] == [{"model": "0" * 64}]
    # A copy that is rounded has no digest of the model: its seal is what the site has computed.
    body = round_start().event.body
    rounded = body.transfer.model_copy(update={"manifest": MANIFEST.in_codec("bfloat16")})
    start = Heard(said("round-start", body.model_copy(update={"transfer": rounded}), 1))
    agenda, _ = after([accepted(), PREPARED, start, model_ready(), trained()])
    *_, todo = step(agenda, sent)
    assert [one.more for one in todo if isinstance(one, Say)] == [{"model": SEAL}]


def test_a_gpu_that_failed_twice_in_a_round_ends_it() -> None:
    agenda, _ = after([*WAYS[Phase.TRAINING], TrainerFailed("e", Reason.GPU_ERROR)])
    assert does(agenda, TrainerFailed("e", Reason.GPU_ERROR))[:2] == (Phase.IDLE, ["round-failed"])


@pytest.mark.parametrize("phase", [phase for phase in STANDING if phase is not Phase.ENDED])
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_end_ends_every_phase_and_frees_everything(phase: Phase, ending: Heard) -> None:
    agenda, _ = after(WAYS[phase])
    becomes, says, effects = does(agenda, ending)
    assert (becomes, says) == (Phase.ENDED, [])
    assert Free("e", None) in effects


@pytest.mark.parametrize("phase", STANDING)
def test_an_experiment_under_a_taken_id_changes_nothing(phase: Phase) -> None:
    agenda, _ = after(WAYS[phase])
    other = accepted()
    body = other.event.body.model_copy(update={"digest": "c" * 64})
    again = Heard(said("experiment-accepted", body))
    assert decide(agenda, other) == (Ignore("e", Reason.DUPLICATE),)
    assert decide(agenda, again) == (Ignore("e", Reason.ID_TAKEN),)


@pytest.mark.parametrize("own", [trained(), Scored("e", "final", SCORES), Receipted("e", 1, 1), ChunksSent("e", 1, 1)])
def test_what_our_own_parts_cannot_have_said_is_a_defect(own: AnyInput) -> None:
    agenda, _ = after(WAYS[Phase.AWAITING])
    with pytest.raises(IllegalInput):
        decide(agenda, own)


def test_events_about_an_unknown_experiment_are_refused_by_name() -> None:
    assert decide(Agenda("site-a"), round_start()) == (Ignore("e", Reason.UNKNOWN_EXPERIMENT),)


def test_an_experiment_that_does_not_invite_the_site_needs_no_answer() -> None:
    agenda, todo = after([accepted(verdict=PolicyVerdict(Reason.NOT_INVITED))])
    assert (agenda.jobs, todo) == ({}, [])


def test_a_round_that_came_while_the_data_were_read_is_taken_when_the_site_has_joined() -> None:
    agenda, todo = after([accepted(), round_start(1), round_start(2), PREPARED])
    assert agenda.phase_of("e") is Phase.FETCHING
    assert [one.kind for one in todo if isinstance(one, Say)] == ["joined", "round-accepted"]
    assert [one.key.round for one in todo if isinstance(one, Fetch)] == [2]


def test_a_round_that_came_and_closed_while_the_data_were_read_is_forgotten() -> None:
    agenda, _ = after([accepted(), round_start(1), round_complete(1), PREPARED])
    assert agenda.phase_of("e") is Phase.IDLE


def test_a_dropped_round_halts_its_trainer_and_one_that_only_fetches_has_none() -> None:
    training, _ = after(WAYS[Phase.TRAINING])
    fetching, _ = after(WAYS[Phase.FETCHING])
    assert Halt("e") in does(training, round_complete())[2]
    assert Halt("e") not in does(fetching, round_complete())[2]


def test_a_trainer_that_dies_gets_one_more_chance_and_then_the_round_fails() -> None:
    agenda, _ = after(WAYS[Phase.TRAINING])
    agenda, _, effects = step(agenda, TrainerDied("e"))
    assert effects == (RunTrain("e"),)
    phase, says, effects_after = does(agenda, TrainerDied("e"))
    assert (phase, says) == (Phase.IDLE, ["round-failed"])
    assert any(isinstance(one, Say) and one.body.reason is Reason.TRAINER_DIED for one in effects_after)


def test_wanted_chunks_are_sent_again_only_of_the_sealed_update() -> None:
    agenda, _ = after(WAYS[Phase.SENDING])
    assert does(agenda, chunks_wanted(chunks=[0, 2, 99]))[2] == [SendChunks("e", (0, 2))]
    assert does(agenda, chunks_wanted())[2] == [SendChunks("e", None)]
    assert does(agenda, chunks_wanted(seal="b" * 64))[2] == []
    assert does(agenda, chunks_wanted(2))[2] == []


def test_a_lost_update_is_made_again_as_a_new_attempt() -> None:
    agenda, _ = after([*WAYS[Phase.SENDING], UpdateLost("e", 1, 1), model_ready(1)])
    assert agenda.jobs["e"].attempt == 2
    assert does(agenda, trained(1, 1))[0] is Phase.TRAINING
    assert does(agenda, trained(1, 2))[0] is Phase.SENDING


def test_two_experiments_queue_for_the_one_slot_in_the_order_in_which_they_were_ready() -> None:
    agenda, todo = after([accepted("a"), accepted("b"), accepted("c")])
    assert (agenda.running, agenda.queue) == ("a", ("b", "c"))
    assert todo == [RunPrepare("a")]
    agenda, _, effects = step(agenda, replace(PREPARED, experiment="a"))
    assert (agenda.running, agenda.queue) == ("b", ("c",))
    assert RunPrepare("b") in effects


def test_a_paused_site_begins_no_new_experiment_but_finishes_the_accepted_round() -> None:
    agenda, _ = after([*WAYS[Phase.FETCHING], Switched(paused=True), accepted("b")])
    assert (agenda.running, agenda.queue) == (None, ("b",))
    agenda, _, effects = step(agenda, model_ready())
    assert (agenda.running, effects) == ("e", (RunTrain("e"),))
    agenda, _ = after([trained(), Switched(paused=False)], agenda)
    assert agenda.running == "b"


@pytest.mark.parametrize(
    ("switch", "reason"),
    [(Switched(paused=True), Reason.SITE_PAUSED), (Switched(draining=True), Reason.SITE_DRAINING)],
)
def test_a_paused_or_draining_site_refuses_rounds_with_its_code(switch: Switched, reason: Reason) -> None:
    agenda, _ = after([*WAYS[Phase.IDLE], switch])
    _, _, effects = does(agenda, round_start())
    assert [one.body.reason for one in effects if isinstance(one, Say)] == [reason]


def test_outside_the_hours_nothing_begins_and_what_runs_is_finished() -> None:
    agenda, todo = after([Switched(open=False), accepted()])
    assert (agenda.running, todo) == (None, [])
    agenda, _, effects = step(agenda, Switched(open=True))
    assert effects == (RunPrepare("e"),)


def test_a_policy_that_the_operator_widened_takes_a_declined_experiment_after_a_restart() -> None:
    agenda, _ = after(WAYS[Phase.DECLINED])
    again, todo = after([Restarted({"e": PolicyVerdict()})], restore_agenda(agenda))
    assert (again.phase_of("e"), todo) == (Phase.PREPARING, [RunPrepare("e")])
    still, todo = after([Restarted({"e": PolicyVerdict(Reason.NOT_ALLOWED)})], restore_agenda(agenda))
    assert (still.phase_of("e"), todo) == (Phase.DECLINED, [])


RECOVERED: list[tuple[Phase, Phase, list[type]]] = [
    (Phase.AWAITING, Phase.AWAITING, []),
    (Phase.PREPARING, Phase.PREPARING, [RunPrepare]),
    (Phase.IDLE, Phase.IDLE, []),
    (Phase.FETCHING, Phase.FETCHING, [Fetch]),
    (Phase.TRAINING, Phase.FETCHING, [Fetch]),
    (Phase.SENDING, Phase.SENDING, [SendChunks]),
    (Phase.EVALUATING, Phase.EVALUATING, [Fetch, Fetch]),
    (Phase.REPORTED, Phase.REPORTED, []),
    (Phase.ENDED, Phase.ENDED, []),
]


@pytest.mark.parametrize(("phase", "becomes", "todo"), RECOVERED)
def test_a_restarted_agent_goes_on_where_it_was(phase: Phase, becomes: Phase, todo: list[type]) -> None:
    agenda, _ = after(WAYS[phase])
    again, effects = after([Restarted()], restore_agenda(agenda))
    assert (again.phase_of("e"), [type(one) for one in effects]) == (becomes, todo)


def test_an_update_whose_chunks_are_all_out_is_neither_sent_nor_trained_again_after_a_restart() -> None:
    agenda, _ = after([*WAYS[Phase.SENDING], ChunksSent("e", 1, 1)])
    again, effects = after([Restarted()], restore_agenda(agenda))
    assert (again.phase_of("e"), effects) == (Phase.SENDING, [])


def test_a_training_that_a_restart_interrupted_begins_again_as_the_same_attempt() -> None:
    agenda, _ = after(WAYS[Phase.TRAINING])
    again, effects = after([Restarted(), model_ready()], restore_agenda(agenda))
    assert again.jobs["e"].attempt == 1
    assert RunTrain("e") in effects


# any order

NUMBERS = st.integers(1, 4)

NAMES = st.sampled_from(["e", "f"])

ANYTHING: st.SearchStrategy[AnyInput] = st.one_of(
    st.builds(accepted, NAMES),
    st.builds(round_start, NUMBERS, NAMES),
    st.builds(round_start, NUMBERS, st.just("e"), st.just(("site-b",))),
    st.builds(round_complete, NUMBERS),
    st.just(evaluation_start(4)),
    st.sampled_from([*ENDINGS]),
    st.just(Heard(said("experiment-paused", ExperimentPaused()))),
    st.just(Heard(said("experiment-resumed", ExperimentResumed()))),
    st.builds(chunks_wanted, NUMBERS),
    st.builds(lambda name: replace(PREPARED, experiment=name), NAMES),
    st.builds(model_ready, NUMBERS, NAMES),
    st.builds(trained, NUMBERS, st.integers(1, 2), NAMES),
    st.builds(Scored, NAMES, st.sampled_from(["final", "selected"]), st.just(SCORES)),
    st.builds(TrainerFailed, NAMES, st.just(Reason.NAN_LOSS)),
    st.builds(TrainerDied, NAMES, st.booleans()),
    st.builds(NoSpace, NAMES),
    st.builds(ChunksSent, NAMES, NUMBERS, st.integers(1, 2)),
    st.builds(UpdateLost, NAMES, NUMBERS, st.integers(1, 2)),
    st.builds(Receipted, NAMES, NUMBERS, st.integers(1, 2)),
    st.builds(Switched, st.none() | st.booleans(), st.none() | st.booleans(), st.none() | st.booleans()),
    st.just(Restarted()),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(ANYTHING, max_size=40))
def test_in_any_order_the_slot_is_held_by_one_and_rounds_only_go_up(inputs: list[AnyInput]) -> None:
    agenda = Agenda("site-a")
    accepted_rounds: dict[str, list[int]] = {}
    for what in inputs:
        if isinstance(what, Restarted):
            agenda = restore_agenda(agenda)
        before = agenda
        agenda, _, effects = step(agenda, what)
        if agenda.running is not None:
            assert agenda.jobs[agenda.running].phase in NEEDS_SLOT
            assert agenda.running not in agenda.queue
        assert len(set(agenda.queue)) == len(agenda.queue)
        assert all(agenda.jobs[name].phase in NEEDS_SLOT for name in agenda.queue)
        starts = [one for one in effects if isinstance(one, RunPrepare | RunTrain | RunEvaluate)]
        assert all(one.experiment == agenda.running for one in starts)
        for name, job in agenda.jobs.items():
            was = before.jobs.get(name)
            assert was is None or (job.round, job.attempt) >= (was.round, min(was.attempt, job.attempt))
            assert was is None or was.phase is not Phase.ENDED or job.phase is Phase.ENDED
            assert (job.phase is Phase.SENDING) == (job.update is not None)
        for effect in effects:
            if isinstance(effect, Say) and effect.kind == "round-accepted":
                accepted_rounds.setdefault(effect.experiment, []).append(effect.round)
            if isinstance(effect, Say) and effect.kind == "weights-ready":
                assert effect.round == agenda.jobs[effect.experiment].round
    for rounds in accepted_rounds.values():
        assert rounds == sorted(set(rounds))


@settings(max_examples=200, deadline=None)
@given(st.lists(ANYTHING, max_size=30))
def test_in_any_order_nothing_that_is_ready_waits_while_the_slot_is_free(inputs: list[AnyInput]) -> None:
    agenda, _ = after(inputs)
    if agenda.running is None and agenda.open and not agenda.paused and not agenda.draining:
        assert agenda.queue == ()
    assert all(agenda.jobs[name].phase not in OVER for name in agenda.queue)


def test_the_table_knows_no_input_that_does_not_exist() -> None:
    known = {*HEARD, *(one.__name__ for one in OWN)}
    assert {name for _, name in TABLE} <= known
