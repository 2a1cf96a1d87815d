"""The model that an experiment begins with: what the operator put in, or what an ended experiment has made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from coordinator_kit import ARRAYS, MANIFEST, plain
from machine_run import SEAL, Run, in_phase
from safetensors.numpy import save_file

from coordinator.core.records import ModelOrigin
from coordinator.core.state import Phase
from coordinator.loop.origins import ModelOrigins
from coordinator.work.blobs import Blobs
from coordinator.work.given_models import GivenModels, explain_misfit
from messages import kinds
from messages.experiment import Experiment
from messages.ground.errors import ConfigError, WorkFailed
from messages.tensors.layout import manifest_of, write_into
from nets.digest import arrays_digest
from nets.model_file import save_model

NET = {"name": "UNet", "channels": [4, 8], "strides": [2]}


def begins_with(named: str, **changes: object) -> Experiment:
    return Experiment.model_validate(plain(**({"id": "exp-2", "net": NET | {"from": named}} | changes)))


def origins(folder: Path, run: Run | None = None, seal: str = "") -> ModelOrigins:
    """With one experiment, whose model of this seal is kept."""
    blobs = Blobs(folder / "blobs")
    if seal:
        place = blobs.scratch_file("exp-1", "one")
        buffer = bytearray(MANIFEST.nbytes)
        write_into(ARRAYS, MANIFEST, memoryview(buffer))
        place.write_bytes(buffer)
        blobs.keep_blob("exp-1", seal, place)
    states = {} if run is None or run.state is None else {"exp-1": run.state}
    return ModelOrigins(lambda: states, blobs, GivenModels(folder / "models"))


def refused(found: ModelOrigins, experiment: Experiment, researcher: str = "dr-a") -> str:
    with pytest.raises(ConfigError) as raised:
        found.find_origin(experiment, researcher)
    assert "\n" not in str(raised.value)
    return raised.value.what


def aborted() -> Run:
    """After round 1, which made a model of this number's seal and digest."""
    run = in_phase(Phase.RUNNING)
    for site in ("site-a", "site-b", "site-c"):
        run.report(site, 1)
    run.aggregated(1)
    run.wire(kinds.ExperimentAbort())
    return run


def test_an_aborted_experiment_is_gone_on_from_the_last_model_that_it_made(tmp_path: Path) -> None:
    run = aborted()
    assert run.state is not None
    made = run.state.models[2]
    found = origins(tmp_path, run, made.seal).find_origin(begins_with("exp-1"), "dr-a")
    assert found == ModelOrigin(digest=made.digest, experiment="exp-1", rounds=1, seal=made.seal)
    by_digest = origins(tmp_path, run).find_origin(begins_with(f"sha256:{made.digest}"), "dr-a")
    assert by_digest == found


def test_a_complete_experiment_gives_everybody_the_model_that_it_yielded(tmp_path: Path) -> None:
    run = in_phase(Phase.COMPLETE)
    assert run.state is not None
    assert run.state.outcome is not None
    made = run.state.models[run.state.outcome.rounds + 1]
    found = origins(tmp_path, run, made.seal).find_origin(begins_with("exp-1"), "dr-b")
    assert found is not None
    assert (found.digest, found.rounds) == (made.digest, run.state.outcome.rounds)


def test_what_cannot_be_begun_with_is_told_in_one_line(tmp_path: Path) -> None:
    run = aborted()
    assert run.state is not None
    seal, digest = run.state.models[2].seal, run.state.models[2].digest
    gone = origins(tmp_path, run)
    assert "'exp-7': no experiment has this id" in refused(gone, begins_with("exp-7"))
    assert "is not kept any more" in refused(gone, begins_with("exp-1"))
    assert "no such model is here" in refused(gone, begins_with(f"sha256:{digest}"))
    here = origins(tmp_path, run, seal)
    assert "another researcher's" in refused(here, begins_with("exp-1"), "dr-b")
    assert "no such model is here" in refused(here, begins_with(f"sha256:{digest}"), "dr-b")
    running = origins(tmp_path, in_phase(Phase.RUNNING), SEAL)
    assert "is running: abort or finish it first" in refused(running, begins_with("exp-1"))
    early = in_phase(Phase.RUNNING)
    early.wire(kinds.ExperimentAbort())
    assert "has made no model" in refused(origins(tmp_path, early, SEAL), begins_with("exp-1"))


def test_what_travelled_with_more_than_the_net_is_not_begun_with(tmp_path: Path) -> None:
    run = Run(plan={"strategy": {"name": "SCAFFOLD"}})
    run.join()
    run.initial()
    for site in ("site-a", "site-b", "site-c"):
        run.report(site, 1)
    run.aggregated(1)
    run.wire(kinds.ExperimentAbort())
    assert run.state is not None
    made = run.state.models[2]
    found = origins(tmp_path, run, made.seal)
    assert "ran with SCAFFOLD" in refused(found, begins_with("exp-1"))
    assert "no such model is here" in refused(found, begins_with(f"sha256:{made.digest}"))


def test_a_model_of_another_net_is_told_by_what_differs(tmp_path: Path) -> None:
    run = in_phase(Phase.COMPLETE)
    assert run.state is not None
    found = origins(tmp_path, run, run.state.models[3].seal)
    other = begins_with("exp-1", net={"name": "VNet", "from": "exp-1"})
    assert "is a UNet, and net.name is 'VNet'" in refused(found, other)
    wider = begins_with("exp-1", net=NET | {"channels": [8, 16], "from": "exp-1"})
    assert "has channels = [4, 8], and the file's net has [8, 16]" in refused(found, wider)
    free = begins_with("exp-1", net=NET | {"dropout": 0.25, "from": "exp-1"})
    assert found.find_origin(free, "dr-a") is not None
    task = {"kind": "segmentation", "channels": ["T1", "T2"], "regions": {"WT": ["ED"]}}
    assert "has 1 channels, and the file's task has 2" in refused(found, begins_with("exp-1", task=task))


def test_what_is_only_scored_must_mean_what_the_file_says(tmp_path: Path) -> None:
    run = in_phase(Phase.COMPLETE)
    assert run.state is not None
    found = origins(tmp_path, run, run.state.models[3].seal)
    task = {"kind": "segmentation", "channels": ["T1"], "regions": {"TC": ["NCR"]}}
    assert found.find_origin(begins_with("exp-1", task=task), "dr-a") is not None
    scored = begins_with("exp-1", task=task, plan={"kind": "evaluation"}, rounds={"count": 0})
    assert "regions are not the file's" in refused(found, scored)


def test_a_model_that_the_operator_put_in_is_found_and_opened_by_its_digest(tmp_path: Path) -> None:
    buffer = bytearray(MANIFEST.nbytes)
    write_into(ARRAYS, MANIFEST, memoryview(buffer))
    made = Experiment.model_validate(plain())
    save_model(tmp_path / "one.safetensors", made, MANIFEST, buffer)
    digest = GivenModels(tmp_path / "models").put_model(tmp_path / "one.safetensors")
    assert digest == arrays_digest(ARRAYS)
    here = origins(tmp_path)
    found = here.find_origin(begins_with(f"sha256:{digest}"), "dr-a")
    assert found == ModelOrigin(digest=digest)
    assert arrays_digest(here.open_origin(found)) == digest
    assert GivenModels(tmp_path / "models").put_model(tmp_path / "one.safetensors") == digest


def test_a_model_that_is_gone_when_it_is_due_is_named(tmp_path: Path) -> None:
    run = aborted()
    assert run.state is not None
    made = run.state.models[2]
    here = origins(tmp_path, run, made.seal)
    found = here.find_origin(begins_with("exp-1"), "dr-a")
    assert found is not None
    assert arrays_digest(here.open_origin(found)) == arrays_digest(ARRAYS)
    (tmp_path / "blobs" / "exp-1" / made.seal).unlink()
    with pytest.raises(WorkFailed, match="is gone"):
        here.open_origin(found)


def test_tensors_that_do_not_fit_are_named_and_nothing_is_put_in(tmp_path: Path) -> None:
    arrays = {
        "conv.weight": np.zeros((10, 99), np.float32),
        "norm.count": np.array(3.0, np.float32),
        "extra": np.zeros(1, np.float32),
        "more": np.zeros(1, np.float32),
    }
    assert explain_misfit(MANIFEST, ARRAYS) is None
    save_file(arrays, tmp_path / "weights.safetensors")
    given = GivenModels(tmp_path / "models")
    with pytest.raises(ConfigError) as raised:
        given.put_weights(tmp_path / "weights.safetensors", Experiment.model_validate(plain()), MANIFEST)
    assert raised.value.what == (
        "conv.weight is 10 x 99 of float32 and the net's is 10 x 100 of float32; "
        "norm.count is a scalar of float32 and the net's is a scalar of int64; extra is none of the net's; and 1 more"
    )
    assert not (tmp_path / "models").exists()


def test_weights_from_elsewhere_are_put_in_under_the_digest_in_the_nets_order(tmp_path: Path) -> None:
    shuffled = dict(reversed(ARRAYS.items()))
    save_file(shuffled, tmp_path / "weights.safetensors")
    given = GivenModels(tmp_path / "models")
    digest = given.put_weights(tmp_path / "weights.safetensors", Experiment.model_validate(plain()), MANIFEST)
    assert digest == arrays_digest(ARRAYS)
    assert manifest_of(dict(given.open_model(digest)), 1024) == MANIFEST


def test_a_file_that_is_no_model_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "rubbish").write_bytes(b"no model")
    given = GivenModels(tmp_path / "models")
    for put in (
        lambda: given.put_model(tmp_path / "rubbish"),
        lambda: given.put_weights(tmp_path / "rubbish", Experiment.model_validate(plain()), MANIFEST),
        lambda: given.put_model(tmp_path / "nothing"),
    ):
        with pytest.raises(ConfigError) as raised:
            put()
        assert "\n" not in str(raised.value)


def anew(run: Run, **changes: object) -> Experiment:
    """The aborted experiment's round 1 stands, and the rest is made anew without a site."""
    assert run.state is not None
    digests = {number: f"sha256:{model.digest}" for number, model in run.state.models.items()}
    said = {"experiment": "exp-1", "rounds": 2, "model": digests[3], "after": 1} | dict(changes.pop("said", {}))  # type: ignore[call-overload]
    file = {"id": "exp-2", "sites": ["site-a", "site-b"], "net": NET | {"from": digests[2]}, "supersedes": said}
    rounds = run.state.experiment.rounds.model_dump() | {"count": 1}
    return Experiment.model_validate(plain(**({**file, "rounds": rounds} | changes)))


def test_what_a_file_says_of_the_model_that_it_supersedes_is_checked(tmp_path: Path) -> None:
    run = in_phase(Phase.COMPLETE)
    assert run.state is not None
    here = origins(tmp_path, run, run.state.models[2].seal)
    found = here.find_origin(anew(run), "dr-a")
    assert found is not None
    assert found.rounds == 1
    other = {"model": f"sha256:{'0' * 64}"}
    assert "made another model" in refused(here, anew(run, said=other))
    assert "no experiment has this id" in refused(here, anew(run, said={"experiment": "exp-9"}))
    assert "is another researcher's" in refused(here, anew(run), "dr-b")
    assert "seed is not as it is there" in refused(here, anew(run, seed=9))
    longer = run.state.experiment.rounds.model_dump() | {"count": 5}
    assert "rounds is not as it is there" in refused(here, anew(run, rounds=longer))
    wrong = NET | {"from": f"sha256:{run.state.models[3].digest}"}
    assert "is not the model that its first 1 rounds made" in refused(here, anew(run, net=wrong))


def test_what_remembers_more_than_a_model_does_not_go_on_from_one() -> None:
    run = in_phase(Phase.COMPLETE)
    with pytest.raises(ValueError, match="FedAdam remembers"):
        anew(run, plan={"strategy": {"name": "FedAdam"}})
    with pytest.raises(ValueError, match=r"it needs net\.from"):
        anew(run, net=NET)
    with pytest.raises(ValueError, match="fewer stand"):
        anew(run, said={"after": 2})
