"""Other plans than aggregation under one virtual clock: the real coordinator, the real agents, scripted trainers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from coordinator_kit import ARRAYS, CONSORTIUM, SITES, plain
from virtual_consortium import VirtualConsortium

from coordinator.record.journal import open_readonly
from coordinator.record.replay import Status, replay
from coordinator.work.blobs import Blobs
from deploy.session.connection import BrokerSession
from deploy.session.model_file import fetch_model
from deploy.session.profile import Profile
from messages import kinds
from messages.bus.memory import MemoryBus
from messages.ground.virtual.clock import VirtualClock
from messages.reasons import Reason
from nets.digest import arrays_digest
from nets.model_file import read_ensemble
from site_agent.training.null import round_addend

QUARTER = 900.0
ROUNDS = {"count": 4, "enrol_within": QUARTER, "train_within": 2 * QUARTER, "grace": QUARTER, "extensions": 1}
NET = plain()["net"]
Wanted = TypeVar("Wanted", bound=kinds.Body)


class Study(VirtualConsortium):
    """A consortium in which one experiment follows the other."""

    def begin(self, name: str, **changes: Any) -> None:
        file = {"id": name, "rounds": ROUNDS, "quorum": {"least_sites": 2}} | changes
        self.say("experiment-start", kinds.ExperimentStart(experiment=plain(**file)), name)

    def told(self, name: str, model: type[Wanted]) -> list[Wanted]:
        """Bodies of this kind that were told of an experiment."""
        kind = next(kind for kind, spec in kinds.KINDS.items() if spec.body is model)
        return [one.body for _at, one in self.of(kind) if one.experiment == name and isinstance(one.body, model)]

    def wait_for(self, name: str, model: type[Wanted], times: int = 1) -> Wanted:
        def heard() -> bool:
            return len(self.told(name, model)) >= times

        assert self.clock.wait_until(heard, 20 * QUARTER, every=60.0), [one.kind for _at, one in self.heard]
        return self.told(name, model)[times - 1]


def replayed(folder: Path) -> list[Status]:
    """The aggregates of a journal that replays whole, with its blobs."""
    steps = list(replay(open_readonly(folder / "coordinator"), Blobs(folder / "coordinator" / "blobs")))
    assert [step.problem for step in steps if not step.agrees] == []
    return [step.aggregate.status for step in steps if step.aggregate is not None]


def test_an_aborted_experiment_is_gone_on_from_and_its_model_is_scored_where_a_site_is_lost_and_back(
    tmp_path: Path,
) -> None:
    clock = VirtualClock()

    def body() -> None:
        study = Study(tmp_path, clock, lambda _site, _number: 0.3 * QUARTER)
        study.begin("exp-1")
        made = study.wait_for("exp-1", kinds.RoundComplete, 2)
        study.say("experiment-abort", kinds.ExperimentAbort(), "exp-1")
        study.wait_for("exp-1", kinds.ExperimentAborted)
        study.begin("exp-2", net=NET | {"from": "exp-1"}, rounds=ROUNDS | {"count": 1})
        trained = study.wait_for("exp-2", kinds.ExperimentComplete)
        assert study.told("exp-2", kinds.RoundStart)[0].model_digest == made.model_digest
        study.agents["site-c"].stop()
        named, rounds = f"sha256:{trained.model.model_digest}", ROUNDS | {"count": 0, "grace": 60.0}
        study.begin("exp-3", net=NET | {"from": named}, plan={"kind": "evaluation"}, rounds=rounds)
        clock.sleep(300.0)
        study.start_again("site-c")
        scored = study.wait_for("exp-3", kinds.ExperimentComplete)
        assert (scored.model.model_digest, scored.rounds) == (trained.model.model_digest, 0)
        assert not study.told("exp-3", kinds.RoundStart)
        assert scored.test is not None
        assert scored.test.cases == 8 + 12 + 16
        study.begin("exp-4", net=NET | {"from": "exp-9"})
        refused = study.wait_for("exp-4", kinds.ExperimentRefused)
        assert refused.reason is Reason.INVALID_EXPERIMENT
        assert refused.mistakes == "net: from = 'exp-9': no experiment has this id"
        study.close()

    clock.run(body)
    assert replayed(tmp_path) == [Status.RECOMPUTED] * 3


def own_model(site: str, rounds: Iterable[int]) -> str:
    """The digest of the model that a scripted site makes of the initial one in these rounds."""
    arrays = {name: array.copy() for name, array in ARRAYS.items()}
    for number in rounds:
        for array in arrays.values():
            array += round_addend(0, site, number).astype(array.dtype)
    return arrays_digest(arrays)


def test_each_site_trains_its_own_model_where_one_is_late_lost_and_back_and_all_score_all(tmp_path: Path) -> None:
    clock = VirtualClock()

    def takes(site: str, number: int) -> float:
        """In round 2 site-b is not back within the grace period; in round 3 it is back."""
        return 3 * QUARTER if (site, number) == ("site-b", 2) else 0.3 * QUARTER

    def body() -> tuple[kinds.EvaluationStart, kinds.ExperimentComplete]:
        study = Study(tmp_path, clock, takes)
        study.begin("exp-1", plan={"kind": "alone"}, rounds=ROUNDS | {"count": 3})
        study.wait_for("exp-1", kinds.RoundStart)
        study.agents["site-c"].stop()  # round 1 goes on without it; its successor begins with the initial model
        clock.sleep(120.0)
        study.start_again("site-c")
        rounds = [study.wait_for("exp-1", kinds.RoundComplete, number) for number in (1, 2, 3)]
        assert [sorted(one.contributors) for one in rounds] == [["site-a", "site-b"], ["site-a", "site-c"], [*SITES]]
        complete = study.wait_for("exp-1", kinds.ExperimentComplete)
        (start,) = study.told("exp-1", kinds.EvaluationStart)
        study.begin("exp-2", net=NET | {"from": "exp-1"}, rounds=ROUNDS | {"count": 1})
        assert study.wait_for("exp-2", kinds.RoundStart).model_digest == complete.model.model_digest
        study.close()
        return start, complete

    start, complete = clock.run(body)
    trained = {"own-1": (1, 2, 3), "own-2": (1, 3), "own-3": (2, 3)}
    made = {label: own_model(site, trained[label]) for label, site in zip(trained, SITES, strict=True)}
    assert {one.label: one.model_digest for one in start.models} == made
    assert complete.model.model_digest == made[complete.model.label]
    assert replayed(tmp_path) == [Status.RECOMPUTED] * 3


def test_an_ensemble_is_scored_where_a_site_dies_in_between_and_comes_as_one_file(tmp_path: Path) -> None:
    clock = VirtualClock()

    def body() -> kinds.ExperimentComplete:
        study = Study(tmp_path, clock, lambda _site, _number: 0.3 * QUARTER)
        plan = {"kind": "ensemble", "combine": "validation"}
        study.begin("exp-1", plan=plan, rounds=ROUNDS | {"count": 1, "grace": 2 * QUARTER})
        study.wait_for("exp-1", kinds.EvaluationStart, 2)
        study.agents["site-b"].stop()
        clock.sleep(60.0)
        study.start_again("site-b")
        complete = study.wait_for("exp-1", kinds.ExperimentComplete)
        single, together = study.told("exp-1", kinds.EvaluationStart)
        assert [one.label for one in single.models] == ["own-1", "own-2", "own-3"]
        assert together.sites == [*SITES]
        clock.sleep(60.0)  # the parts are published
        profile = Profile(name="dr-a", role="researcher", consortium=CONSORTIUM)
        with BrokerSession(MemoryBus(study.broker, "dr-a"), profile, clock=clock, draw_name=lambda: "x") as session:
            fetch_model(session, "exp-1", tmp_path / "model.safetensors", lambda _text: None)
        study.close()
        return complete

    complete = clock.run(body)
    assert complete.combined is not None
    assert complete.test is not None
    assert complete.test.cases == 8 + 12 + 16
    parts, metadata = read_ensemble(tmp_path / "model.safetensors")
    assert metadata["model_digest"] == complete.model.model_digest
    assert {label: arrays_digest(arrays) for label, arrays in parts.items()} == {
        f"own-{number}": own_model(site, [1]) for number, site in enumerate(SITES, 1)
    }
    assert replayed(tmp_path) == [Status.RECOMPUTED]


def test_sites_of_different_pace_make_models_asynchronously_while_one_is_lost_and_back(tmp_path: Path) -> None:
    clock = VirtualClock()
    took = {"site-a": 0.2, "site-b": 0.3, "site-c": 1.1}

    def body() -> list[kinds.RoundComplete]:
        study = Study(tmp_path, clock, lambda site, _number: took[site] * QUARTER)
        plan = {"kind": "asynchronous", "buffer": 2}
        study.begin("exp-1", plan=plan, rounds=ROUNDS | {"count": 6}, evaluation={"select_by": "last"})
        study.wait_for("exp-1", kinds.RoundComplete, 2)
        study.agents["site-c"].stop()  # in the midst of its work for round 1
        clock.sleep(60.0)
        study.start_again("site-c")
        study.wait_for("exp-1", kinds.RoundComplete, 4)
        study.start_coordinator_again()
        complete = study.wait_for("exp-1", kinds.ExperimentComplete)
        assert complete.test is not None
        assert complete.test.cases == 8 + 12 + 16
        made = study.told("exp-1", kinds.RoundComplete)
        study.close()
        return made

    made = clock.run(body)
    assert all(len(one.contributors) == 2 for one in made)
    assert [one.staleness for one in made] == [None, None, None, None, None, {"site-c": 5}]
    assert replayed(tmp_path) == [Status.RECOMPUTED] * 6


def test_training_that_ends_early_is_evaluated_under_a_codec_that_sent_its_last_model_rounded(tmp_path: Path) -> None:
    clock = VirtualClock()

    def body() -> None:
        study = Study(tmp_path, clock, lambda _site, _number: 0.3 * QUARTER)
        study.begin("exp-1", rounds=ROUNDS | {"count": 9, "patience": 1}, wire={"codec": "bfloat16"})
        done = study.wait_for("exp-1", kinds.ExperimentComplete)
        assert (done.rounds, len(study.told("exp-1", kinds.RoundComplete))) == (3, 3)
        assert done.test is not None
        assert done.test.cases == 8 + 12 + 16
        study.close()

    clock.run(body)
    assert replayed(tmp_path) == [Status.RECOMPUTED] * 3
