"""A task that only tests have is trained, scored and exported by the training process, and nothing else is changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from share_task import ShareRows, registered, share_experiment
from trainer_rig import experiment, preparation, write_data

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from nets.export import load_model
from nets.initial import initial_model
from nets.model_file import save_model
from site_agent.training.protocol import Evaluate, Train
from site_agent.training.session import TrainingSession
from site_agent.training.tasks import registry as learners


@pytest.fixture(autouse=True)
def task() -> Iterator[None]:
    with registered(torch=True):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("share")
    write_data(folder)
    return folder


def chosen() -> Experiment:
    return share_experiment(experiment().as_plain())


def session(folder: Path, one: Experiment) -> TrainingSession:
    return TrainingSession(preparation(folder, one), lambda _: None)


def test_a_round_is_trained_and_scored_before_and_after(data: Path, tmp_path: Path) -> None:
    one = chosen()
    manifest, buffer = initial_model(one)
    (tmp_path / "model").write_bytes(buffer)
    site = session(data, one)

    def train(output: str) -> bytes:
        request = Train(
            round=1,
            attempt=1,
            model=str(tmp_path / "model"),
            manifest=manifest.plain(),
            update=manifest.plain(),
            output=str(tmp_path / output),
            evaluate=True,
        )
        trained = site.train_round(request)
        assert isinstance(trained.evaluation, ShareRows)
        assert trained.loss > 0
        return (tmp_path / output).read_bytes()

    assert train("first") == train("again") != bytes(buffer)
    asked = {"round": 2, "manifest": manifest.plain(), "splits": ["train", "test"], "label": "final"}
    before = site.evaluate_model(Evaluate(model=str(tmp_path / "model"), **asked)).scores
    after = site.evaluate_model(Evaluate(model=str(tmp_path / "first"), **asked)).scores
    assert [rows.split for rows in after] == ["train", "test"]
    reader = one.task.reader
    errors = [reader.headline_score(rows.scores()) for rows in (before[0], after[0])]
    assert None not in errors
    assert errors[1] != errors[0]


def test_a_case_that_cannot_be_read_is_counted_as_failed(data: Path) -> None:
    site = session(data, chosen())
    cases = site.splits["train"]

    class Broken:
        name = "broken"

        def __getattr__(self, name: str) -> object:
            raise OSError(name)

    rows = site.learner.evaluate(site._net, [cases[0], Broken()], split="train", device=site.device)
    sums = rows.scores().metrics["share-error"]["labelled"]
    assert (sums.n, sums.failed) == (1, 1)


def test_the_exported_model_says_what_its_outputs_are(tmp_path: Path) -> None:
    manifest, buffer = initial_model(chosen())
    save_model(tmp_path / "m.safetensors", chosen(), manifest, buffer)
    _, metadata = load_model(tmp_path / "m.safetensors")
    assert metadata["targets"] == ["labelled"]
    assert metadata["out_channels"] == 1


def test_a_task_that_this_version_cannot_train_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(learners.LEARNERS, "share")
    with pytest.raises(ConfigError, match="'share' cannot be trained here"):
        learners.learner_for(chosen())


def test_an_ensemble_of_equal_parts_scores_as_the_part_and_of_others_otherwise(data: Path, tmp_path: Path) -> None:
    one = chosen()
    site = session(data, one)
    files = []
    for seed in (1, 2):
        manifest, buffer = initial_model(one.model_copy(update={"seed": seed}))
        files.append(str(tmp_path / f"model-{seed}"))
        Path(files[-1]).write_bytes(buffer)

    def score(*parts: str, model: str = files[0]) -> float | None:
        request = Evaluate(
            round=2,
            model=model,
            manifest=manifest.plain(),
            splits=["train"],
            label="ensemble",
            parts=list(parts),
            weights=[1 / len(parts)] * len(parts) if parts else [],
        )
        return one.task.reader.headline_score(site.evaluate_model(request).scores[0].scores())

    single = [score(model=file) for file in files]
    assert single[0] != single[1]
    assert score(files[0], files[0]) == pytest.approx(single[0], abs=1e-4)
    assert score(*files) not in single
    assert score(model=files[0]) == single[0]
