"""The plan in which each site trains a model of its own: who receives which, what is scored, what is yielded."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import MANIFEST, SITES, plain, scores, weights
from machine_run import BODIES, SEAL, Run

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.announce import complete_body, round_opened
from coordinator.core.effects import Aggregate, Expect, SendModel, effects, needed_blobs
from coordinator.core.models import find_transfer, name_models, yielded_model
from coordinator.core.records import MadeModel
from coordinator.core.state import Phase, Timer
from messages import kinds
from messages.abilities import WORDS_3, read_vocabulary
from messages.envelope import Author
from messages.experiment import Experiment
from messages.reasons import Reason

ROUNDS = {"count": 2, "enrol_within": 100.0, "train_within": 1000.0, "grace": 50.0}
INITIAL = "0" * 64


def alone(*joined: str, **changes: Any) -> Run:
    """These sites have joined (none: all), and round 1 is open."""
    run = Run(**({"plan": {"kind": "alone"}, "rounds": ROUNDS} | changes))
    run.join(*joined)
    if joined:
        run.fire(Timer.ENROL)
    run.initial()
    return run


def seal_of(site: str, number: int) -> str:
    return f"{number}{site[-1]}" * 32


def close(run: Run, number: int, *sites: str) -> None:
    """These sites report in the round, and their models are made."""
    for site in sites:
        run.report(site, number)
    assert run.state is not None
    if run.state.phase is Phase.RUNNING:
        run.fire(Timer.GRACE)
    own = {site: MadeModel(seal=seal_of(site, number), digest=seal_of(site, number)) for site in sites}
    run.put(i.Aggregated(time=run.time, round=number, seal="", digest=name_models(own), own=own))


def opened(run: Run) -> kinds.RoundStart:
    assert run.state is not None
    body = round_opened(run.state).body
    assert isinstance(body, kinds.RoundStart)
    return body


def evaluate(run: Run, site: str, **means: float) -> None:
    """A site scores every model: validation as given by the model's site, test a tenth of that."""
    assert run.state is not None
    body = round_opened(run.state).body
    assert isinstance(body, kinds.EvaluationStart)
    found = {}
    for one in body.models:
        owner = run.state.experiment.site_of(one.label)
        assert owner is not None
        mean = means.get(owner[-1], 0.5)
        splits = {"validation": scores(mean), "test": scores(mean / 10)}
        found[one.label] = kinds.ModelScores(model_digest=one.model_digest, splits=splits)
    run.wire(kinds.Evaluated(scores=found), site, number=run.state.completed + 1)


def test_all_begin_with_the_initial_model_and_go_on_with_what_each_has_made() -> None:
    run = alone()
    first = opened(run)
    assert (first.model_digest, first.own) == (INITIAL, None)
    assert [first.transfer_to(site).seal for site in SITES] == [SEAL] * 3
    close(run, 1, *SITES)
    second = opened(run)
    assert second.sites == [*SITES]
    assert second.own is not None
    assert {site: one.model_digest for site, one in second.own.items()} == {site: seal_of(site, 1) for site in SITES}
    assert [second.transfer_to(site).seal for site in SITES] == [seal_of(site, 1) for site in SITES]
    places = {(sent.round, sent.attempt) for sent in map(second.transfer_to, SITES)}
    assert places == {(2, 3), (2, 5), (2, 7)}
    assert run.state is not None
    for site in SITES:
        sent = second.transfer_to(site)
        wanted = kinds.ChunksWanted(round=2, attempt=sent.attempt, seal=sent.seal)
        assert find_transfer(run.state, wanted) == sent


def test_each_site_is_sent_its_own_model_and_its_update_is_held_against_that() -> None:
    run = alone()
    close(run, 1, *SITES)
    sent = [one.transfer.seal for one in _effects(run, d.RoundStarted)[-1] if isinstance(one, SendModel)]
    assert sent == [seal_of(site, 1) for site in SITES]
    run.wire(weights(2), "site-b", number=2)
    (expected,) = [one for one in _effects(run, d.UpdateAnnounced)[-1] if isinstance(one, Expect)]
    assert (expected.site, expected.model) == ("site-b", seal_of("site-b", 1))


def test_each_update_makes_a_model_of_its_own_out_of_the_one_that_its_site_had() -> None:
    run = alone(wire={"codec": "bfloat16-difference"})
    for number in (1, 2):
        for site in SITES:
            _report_difference(run, site, number)
        (made,) = [one for one in _effects(run, d.RoundClosed)[-1] if isinstance(one, Aggregate)]
        assert [[one.site for one in part.updates] for part in made.apart] == [[site] for site in SITES]
        begun = [SEAL] * 3 if number == 1 else [seal_of(site, 1) for site in SITES]
        assert [part.master for part in made.apart] == begun
        if number == 1:
            own = {site: MadeModel(seal=seal_of(site, 1), digest=seal_of(site, 1), wire="ee" * 32) for site in SITES}
            run.put(i.Aggregated(time=run.time, round=1, seal="", digest=name_models(own), own=own))


def _report_difference(run: Run, site: str, number: int) -> None:
    sent = kinds.Transfer(round=number, seal="ab" * 32, manifest=MANIFEST.in_codec("bfloat16-difference"))
    run.wire(weights(number, transfer=sent), site, number=number)
    run.put(i.UpdateStored(time=run.time, site=site, round=number, attempt=1))


def _effects(run: Run, kind: type[d.Decision]) -> list[tuple[Any, ...]]:
    """What each decision of a kind asked for, in the state that it led to."""
    from coordinator.core.evolve import evolve

    state, found = None, []
    for one in run.decided:
        state = evolve(state, one)
        if isinstance(one, kind):
            found.append(effects(state, one))
    return found


def test_who_was_left_out_goes_on_from_its_last_model_and_who_joins_late_from_the_initial_one() -> None:
    run = alone("site-a", "site-b", rounds=ROUNDS | {"count": 3})
    close(run, 1, "site-a", "site-b")
    run.join("site-c")
    close(run, 2, "site-a", "site-b")
    third = opened(run)
    assert third.sites == [*SITES]
    assert third.transfer_to("site-c").seal == SEAL
    run.wire(kinds.RoundFailed(reason=Reason.CUDA_OOM), "site-b", number=3)
    close(run, 3, "site-a", "site-c")
    assert run.state is not None
    mine = {site: model.digest for site, model in run.state.own_models.items()}
    assert mine == {"site-a": seal_of("site-a", 3), "site-b": seal_of("site-b", 2), "site-c": seal_of("site-c", 3)}


def test_every_site_scores_every_model_and_the_best_on_all_validation_cases_is_yielded() -> None:
    run = alone()
    for number in (1, 2):
        close(run, number, *SITES)
    assert run.state is not None
    body = round_opened(run.state).body
    assert isinstance(body, kinds.EvaluationStart)
    assert [one.label for one in body.models] == ["own-1", "own-2", "own-3"]
    assert {one.transfer.round for one in body.models} == {3}
    evaluate(run, "site-a", a=0.9, b=0.6, c=0.1)
    evaluate(run, "site-b", a=0.2, b=0.8, c=0.3)
    evaluate(run, "site-c", a=0.3, b=0.7, c=0.9)
    assert run.state.phase is Phase.COMPLETE
    complete = complete_body(run.state)
    assert (complete.model.label, complete.model.model_digest) == ("own-2", seal_of("site-b", 2))
    assert (complete.final_digest, complete.rounds) == (seal_of("site-b", 2), 2)
    assert complete.test is not None
    assert run.state.experiment.task.reader.headline_score(complete.test) == pytest.approx(0.07)
    found = yielded_model(run.state)
    assert found is not None
    assert found[1].digest == seal_of("site-b", 2)


def test_an_excluded_sites_model_is_scored_and_never_yielded() -> None:
    run = alone()
    for number in (1, 2):
        close(run, number, *SITES)
    evaluate(run, "site-a", c=0.9)
    run.wire(kinds.ExperimentExclude(site="site-c", reason=Reason.WRONG_LABELS))
    evaluate(run, "site-b", c=0.9)
    assert run.state is not None
    assert run.state.phase is Phase.COMPLETE
    assert complete_body(run.state).model.label == "own-1"


def test_a_finish_before_any_score_yields_the_first_sites_model() -> None:
    run = alone()
    close(run, 1, *SITES)
    run.wire(kinds.ExperimentFinish())
    assert run.state is not None
    assert complete_body(run.state).model.model_digest == seal_of("site-a", 1)


def test_a_site_that_left_for_good_has_a_row_in_the_matrix_and_no_column() -> None:
    run = alone()
    close(run, 1, *SITES)
    run.wire(kinds.Declined(reason=Reason.DATASET_GONE), "site-c")
    close(run, 2, "site-a", "site-b")
    assert run.state is not None
    body = round_opened(run.state).body
    assert isinstance(body, kinds.EvaluationStart)
    assert ([one.label for one in body.models], body.sites) == (["own-1", "own-2", "own-3"], ["site-a", "site-b"])


def test_blobs_of_every_sites_newest_model_and_of_the_initial_one_stay() -> None:
    run = alone()
    close(run, 1, *SITES)
    assert run.state is not None
    assert {SEAL, *(seal_of(site, 1) for site in SITES)} <= needed_blobs(run.state)
    close(run, 2, *SITES)
    kept = needed_blobs(run.state)
    assert {seal_of(site, 2) for site in SITES} <= kept
    assert not {seal_of(site, 1) for site in SITES} & kept


def test_only_a_round_start_that_names_own_models_says_that_it_has_newer_words() -> None:
    run = alone()
    author = Author("demo", "coordinator", 1)
    said = []
    for number in (1, 2):
        event = author.write_event("round-start", opened(run), time=1.0, experiment="exp-1", round_number=number)
        said.append(read_vocabulary(event.ext))
        if number == 1:
            close(run, 1, *SITES)
    assert said == [1, 4]


def test_a_site_that_cannot_read_the_newer_words_takes_no_part() -> None:
    run = Run(plan={"kind": "alone"}, rounds=ROUNDS)
    older = Author("demo", "site-a", 1, can=frozenset({WORDS_3}))
    event = older.write_event("joined", BODIES["joined"], time=run.time, experiment="exp-1", seq=1)
    refused = run.put(i.Received.of_event(event, time=run.time))
    assert [one.reason for one in refused if isinstance(one, d.Refused)] == [Reason.UNKNOWN_FIELD]
    run.join("site-a")
    assert run.state is not None
    assert run.state.joined == ("site-a",)


def test_a_plan_without_own_models_says_nothing_of_them_in_the_log() -> None:
    run = Run()
    run.join()
    run.initial()
    for site in SITES:
        run.report(site, 1)
    run.aggregated(1)
    (completed,) = [one for one in run.decided if isinstance(one, d.RoundCompleted)]
    assert "own" not in d.to_plain(completed)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plan": {"kind": "alone", "order": "size"}}, "order goes with"),
        ({"plan": {"kind": "alone", "weight_by": "equal"}}, "weight_by and weight_cap go with"),
        ({"plan": {"kind": "alone", "strategy": "FedAdam"}}, 'strategy = "FedAdam" goes with'),
        ({"plan": {"kind": "alone"}, "sites": [f"site-{n}" for n in range(17)]}, "at most 16 sites"),
    ],
)
def test_keys_that_do_not_go_with_it_are_one_mistake(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Experiment.model_validate(plain(**changes))
