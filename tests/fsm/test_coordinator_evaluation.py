"""The plan of an evaluation, and the model that an experiment begins with: what is decided, recorded and replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import MANIFEST, PLATFORM, SITES, plain, received
from machine_run import SEAL, Run

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.announce import round_opened
from coordinator.core.effects import Initialise, PublishModel, effects, pending_effects
from coordinator.core.machine import decide
from coordinator.core.records import ModelOrigin
from coordinator.core.state import Phase, Timer
from coordinator.record.journal import STEP, Journal, open_readonly
from coordinator.record.recovery import step_body
from coordinator.record.replay import replay
from messages import kinds
from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.reasons import Reason

DIGEST = "0" * 64
"""Of the model that `Run.initial` tells."""
NET = {"name": "UNet", "channels": [4, 8], "strides": [2], "from": f"sha256:{DIGEST}"}
EVALUATION: dict[str, Any] = {
    "plan": {"kind": "evaluation"},
    "net": NET,
    "rounds": {"count": 0, "enrol_within": 100.0, "train_within": 1000.0, "grace": 50.0, "extensions": 1},
    "quorum": {"least_sites": 2},
}


def found(experiment: Experiment, researcher: str) -> ModelOrigin | None:
    return ModelOrigin(digest=DIGEST, experiment="exp-0", rounds=7, seal=SEAL) if experiment.net.origin else None


def evaluation(*sites: str) -> Run:
    """These sites have joined, and the model is here."""
    run = Run(found, **EVALUATION)
    run.join(*sites)
    if sites:
        run.fire(Timer.ENROL)
    run.initial()
    return run


def test_all_sites_score_the_model_that_the_file_names_and_nothing_is_trained() -> None:
    run = evaluation()
    assert run.state is not None
    assert run.state.phase is Phase.EVALUATING
    body = round_opened(run.state).body
    assert isinstance(body, kinds.EvaluationStart)
    assert [(one.label, one.model_digest) for one in body.models] == [("final", DIGEST)]
    assert body.sites == [*SITES]
    for site in SITES:
        run.evaluated(site)
    assert run.state.phase is Phase.COMPLETE
    assert run.state.outcome is not None
    assert (run.state.outcome.label, run.state.outcome.rounds) == ("final", 0)
    assert run.state.outcome.test is not None
    assert run.state.outcome.test.cases == 3
    assert not [one for one in run.decided if isinstance(one, d.RoundClosed)]
    (published,) = [one for one in pending_effects(run.state) if isinstance(one, PublishModel)]
    assert published.body.model.model_digest == DIGEST


def test_the_log_names_the_model_and_where_it_came_from() -> None:
    run = evaluation()
    assert run.state is not None
    (accepted,) = [one for one in run.decided if isinstance(one, d.Accepted)]
    assert accepted.origin == ModelOrigin(digest=DIGEST, experiment="exp-0", rounds=7, seal=SEAL)
    begun = [effect for one in run.decided for effect in effects(run.state, one) if isinstance(effect, Initialise)]
    assert [one.origin for one in begun] == [accepted.origin]


def test_an_experiment_without_such_a_model_says_nothing_of_one_in_the_log() -> None:
    run = Run()
    (accepted,) = [one for one in run.decided if isinstance(one, d.Accepted)]
    assert "origin" not in d.to_plain(accepted)
    assert "origin" not in str(i.to_plain(run.steps[0][0]))


def test_an_experiment_fails_that_would_begin_with_another_model() -> None:
    run = Run(found, **EVALUATION)
    run.join()
    run.put(i.Initialised(time=run.time, manifest=MANIFEST, seal=SEAL, digest="1" * 64))
    assert run.state is not None
    assert (run.state.phase, run.state.reason) == (Phase.FAILED, Reason.INITIALISATION_FAILED)


def test_a_lost_site_does_not_hold_up_the_end_and_its_late_scores_are_refused() -> None:
    run = evaluation()
    for site in ("site-a", "site-b"):
        run.evaluated(site)
    assert run.state is not None
    assert run.state.phase is Phase.EVALUATING
    run.fire(Timer.GRACE)
    assert run.state.phase is Phase.COMPLETE
    assert run.state.outcome is not None
    assert run.state.outcome.test is not None
    assert run.state.outcome.test.cases == 2
    late = run.wire(kinds.Evaluated(scores={}), "site-c", number=1)
    assert [one.reason for one in late if isinstance(one, d.Refused)] == [Reason.LATE]


def test_scores_of_too_few_sites_are_no_result_at_the_last_deadline() -> None:
    run = evaluation()
    run.evaluated("site-a")
    run.fire(Timer.DEADLINE)
    assert run.state is not None
    assert run.state.phase is Phase.EVALUATING
    run.fire(Timer.DEADLINE)
    assert (run.state.phase, run.state.reason) == (Phase.FAILED, Reason.QUORUM_NOT_MET)


def test_a_site_that_left_and_is_back_is_told_of_the_evaluation_and_scores() -> None:
    run = evaluation()
    run.wire(kinds.Leaving(), "site-c")
    run.evaluated("site-a")
    run.wire(kinds.RoundAccepted(), "site-c", number=1)
    run.evaluated("site-b")
    assert run.state is not None
    assert run.state.phase is Phase.EVALUATING
    run.evaluated("site-c")
    assert run.state.phase is Phase.COMPLETE


def test_a_site_without_training_cases_takes_part_and_counts_with_what_it_scores() -> None:
    run = Run(found, **EVALUATION)
    cases = kinds.CaseCounts(found=12, used=12, train=0, validation=0, test=12)
    for site in SITES:
        run.wire(kinds.Joined(cases=cases, platform=PLATFORM), site)
    run.initial()
    assert run.state is not None
    assert run.state.round is not None
    assert dict(run.state.round.cases) == dict.fromkeys(SITES, 12)


def test_a_researcher_may_end_an_evaluation_with_the_scores_that_there_are() -> None:
    run = evaluation()
    run.evaluated("site-a")
    run.wire(kinds.ExperimentFinish())
    assert run.state is not None
    assert run.state.phase is Phase.COMPLETE


def test_nothing_is_there_to_finish_with_before_a_round_was_made_of_a_model_that_is_trained_on() -> None:
    run = Run(found, net=NET)
    run.join()
    run.initial()
    refused = run.wire(kinds.ExperimentFinish())
    assert [one.reason for one in refused if isinstance(one, d.Refused)] == [Reason.WRONG_STATE]


def test_training_begins_with_the_model_that_the_file_names() -> None:
    run = Run(found, net=NET)
    run.join()
    run.initial()
    assert run.state is not None
    body = round_opened(run.state).body
    assert isinstance(body, kinds.RoundStart)
    assert body.model_digest == DIGEST


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rounds": {"count": 2}}, "trains nothing, write count = 0"),
        ({"net": {"name": "UNet", "channels": [4, 8], "strides": [2]}}, "needs net.from"),
        ({"plan": {"kind": "aggregation"}}, "rounds.count = 0 goes with"),
        ({"plan": {"kind": "evaluation", "weight_by": "equal"}}, "weight_by and weight_cap go with"),
        ({"plan": {"kind": "evaluation", "strategy": "FedAdam"}}, 'strategy = "FedAdam" goes with'),
        ({"plan": {"kind": "evaluation", "order": "size"}}, "order goes with"),
        ({"net": NET | {"from": "sha256:12"}}, "64 digits"),
    ],
)
def test_keys_that_do_not_go_together_are_one_mistake(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Experiment.model_validate(plain(**(EVALUATION | changes)))


def test_no_training_case_is_a_mistake_where_something_is_trained() -> None:
    split = {"dataset": "glioma", "split": {"train": 0.0, "validation": 0.0, "test": 1.0}}
    assert Experiment.model_validate(plain(**EVALUATION, data=split)).form == 2
    with pytest.raises(ValueError, match=r"data\.split\.train = 0"):
        Experiment.model_validate(plain(data=split))


def test_a_file_that_names_no_model_keeps_its_form() -> None:
    assert Experiment.model_validate(plain()).form == 0
    assert "from" not in Experiment.model_validate(plain()).as_plain()["net"]
    assert Experiment.model_validate(plain(net=NET)).as_plain()["net"]["from"] == f"sha256:{DIGEST}"


def test_a_model_that_is_not_there_is_told_in_one_line() -> None:
    def nothing(experiment: Experiment, researcher: str) -> ModelOrigin | None:
        raise ConfigError(f"from = {experiment.net.origin!r}: no such model is here", where="net")

    run = Run(nothing, **EVALUATION)
    (refused,) = [one for one in run.decided if isinstance(one, d.StartRefused)]
    assert refused.reason is Reason.INVALID_EXPERIMENT
    assert refused.mistakes == f"net: from = 'sha256:{DIGEST}': no such model is here"


def journaled(folder: Path, made: str) -> list[Any]:
    """exp-1, aborted after a round, and exp-2, which begins with what exp-1 is said to have made."""
    run = Run()
    run.join()
    run.initial()
    for site in SITES:
        run.report(site, 1)
    run.put(i.Aggregated(time=run.time, round=1, seal=SEAL, digest=made))
    run.wire(kinds.ExperimentAbort())
    file = plain(id="exp-2", net=NET | {"from": "exp-1"})
    start = kinds.ExperimentStart(experiment=file)
    second = received("experiment-start", start, "dr-a", run.time, experiment="exp-2", find=_of_exp_1)
    journal = Journal(folder)
    for given, decided in run.steps:
        journal.append_entry("exp-1", STEP, step_body(given, decided), time=given.time)
    journal.append_entry("exp-2", STEP, step_body(second, decide(None, second)), time=run.time)
    journal.close()
    return list(open_readonly(folder))


def _of_exp_1(experiment: Experiment, researcher: str) -> ModelOrigin:
    return ModelOrigin(digest="5" * 64, experiment="exp-1", rounds=1, seal=SEAL)


def test_replay_holds_the_model_to_begin_with_against_the_log_of_the_experiment_that_made_it(tmp_path: Path) -> None:
    good = list(replay(journaled(tmp_path / "good", "5" * 64)))
    assert [step.problem for step in good if not step.agrees] == []
    assert any("begins with model 555555555555, which exp-1 made in 1 rounds" in step.what for step in good)
    bad = list(replay(journaled(tmp_path / "bad", "6" * 64)))
    assert [step.problem for step in bad if not step.agrees] == [
        "in 1 rounds exp-1 made another model than this begins with"
    ]
