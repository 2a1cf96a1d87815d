"""Classification in the training process: its loss is torch's own, whole pictures are learned, scored and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from class_task import EDGE, class_experiment, table_source, write_pictures

from messages.experiment import Experiment
from messages.tasks.classification import ClassRows
from messages.tasks.losses import LossTable
from nets.weights import arrays_of, manifest
from site_agent.training.cases.cache import MappedCase
from site_agent.training.cases.preprocess import prepare_case
from site_agent.training.cases.sampling import Sampler
from site_agent.training.files import write_update
from site_agent.training.protocol import Prepare, Train
from site_agent.training.session import TrainingSession
from site_agent.training.tasks import classification as task

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-1.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
TRUTH = torch.nn.functional.one_hot(torch.tensor([0, 2, 1, 0]), 3).float()
PLAIN = LossTable(name="cross-entropy")


NET = {"name": "CNN", "channels": [8], "norm": "none"}


def test_cross_entropy_with_weights_and_smoothing_is_torchs_own() -> None:
    weights = torch.tensor([1.0, 2.0, 0.5])
    expected = torch.nn.functional.cross_entropy(LOGITS, TRUTH.argmax(1), weight=weights)
    assert task.exclusive_loss(LOGITS, TRUTH, weights, PLAIN) == pytest.approx(expected)
    smooth = torch.nn.functional.cross_entropy(LOGITS, TRUTH.argmax(1), label_smoothing=0.1)
    table = LossTable(name="cross-entropy", label_smoothing=0.1)
    assert task.exclusive_loss(LOGITS, TRUTH, torch.ones(3), table) == pytest.approx(smooth)


def test_focal_loss_is_monais_own_and_without_gamma_it_is_cross_entropy() -> None:
    from monai.losses import FocalLoss

    expected = FocalLoss(use_softmax=True, gamma=2.0)(LOGITS, TRUTH) * TRUTH.shape[1]
    assert task.exclusive_loss(LOGITS, TRUTH, torch.ones(3), LossTable(name="focal")) == pytest.approx(expected)
    flat = LossTable(name="focal", gamma=0.0)
    assert task.exclusive_loss(LOGITS, TRUTH, torch.ones(3), flat) == pytest.approx(
        task.exclusive_loss(LOGITS, TRUTH, torch.ones(3), PLAIN)
    )


def test_of_several_classes_each_is_a_question_of_its_own() -> None:
    weights = torch.tensor([1.0, 3.0, 0.5])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(LOGITS, TRUTH, pos_weight=weights)
    assert task.binary_loss(LOGITS, TRUTH, weights, PLAIN) == pytest.approx(expected)


def test_balanced_weights_make_each_class_count_alike_and_one_that_is_not_there_not_at_all() -> None:
    truths = np.eye(3, dtype=np.float32)[[0, 0, 0, 1]]
    weights = task.balance_classes(truths)
    assert (weights * truths.sum(0)).tolist() == pytest.approx([2.0, 2.0, 0.0])
    assert weights[2] == 1.0


def test_ordered_classes_are_asked_how_far_a_case_goes() -> None:
    assert task.at_or_above(TRUTH).tolist() == [[0, 0], [1, 1], [1, 0], [0, 0]]
    found = task.to_probabilities(torch.tensor([2.0, -1.0]), "ordinal")
    above = torch.tensor([2.0, -1.0]).sigmoid()
    assert found.tolist() == pytest.approx([1 - float(above[0]), float(above[0] - above[1]), float(above[1])])
    crossed = task.to_probabilities(torch.tensor([-1.0, 2.0]), "ordinal")
    assert crossed.min() >= 0
    assert float(crossed.sum()) == pytest.approx(1.0)


def prepare(folder: Path, one: Experiment, **table: Any) -> Prepare:
    return Prepare(
        experiment=one.as_plain(),
        dataset=table_source(folder / "set", **table),
        site="site-a",
        secret=b"secret",
        threads=1,
        cache=str(folder / "cache"),
    )


def session(request: Prepare) -> TrainingSession:
    threads = torch.get_num_threads()
    try:
        return TrainingSession(request, lambda _: None)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("labels", ["exclusive", "multi", "ordinal"])
def test_a_round_learns_which_half_is_bright(labels: str, tmp_path: Path) -> None:
    write_pictures(tmp_path / "set", ["benign", "malignant"] * 30)
    more = {"local_epochs": 12, "optimizer": {"lr": 0.02}}
    one = class_experiment(net=NET, task={"labels": labels}, training=more)
    site = session(prepare(tmp_path, one))
    assert site.prepared.used == 60
    described = manifest(site._net)
    write_update(str(tmp_path / "model"), arrays_of(site._net), described, {})
    trained = site.train_round(
        Train(round=1, attempt=1, model=str(tmp_path / "model"), manifest=described.plain(),
              update=described.plain(), output=str(tmp_path / "update"), evaluate=True)
    )  # fmt: skip
    assert isinstance(trained.evaluation, ClassRows)
    after = site.score_split("test", 1, "testing").scores()
    assert one.task.reader.headline_score(after) == 1.0
    assert after.cases == site.prepared.test


def test_weights_are_balanced_over_the_sites_own_training_cases(tmp_path: Path) -> None:
    write_pictures(tmp_path / "set", ["benign", "benign", "benign", "malignant"] * 6)
    one = class_experiment(net=NET, training={"loss": {"name": "cross-entropy", "class_weights": "balanced"}})
    site = session(prepare(tmp_path, one))
    truths = np.stack([case.truth for case in site.splits["train"]])
    assert (site.learner._weights.numpy() * truths.sum(0)).tolist() == pytest.approx([len(truths) / 2] * 2)  # type: ignore[attr-defined]


def test_another_word_in_the_table_is_another_data_set_and_nothing_is_read_again(tmp_path: Path) -> None:
    write_pictures(tmp_path / "set", ["benign", "malignant"] * 6)
    first = session(prepare(tmp_path, class_experiment(net=NET)))
    swapped = {"classes": {"benign": "malignant", "malignant": "benign"}}
    second = session(prepare(tmp_path, class_experiment(net=NET), **swapped))
    assert first.prepared.fingerprint != second.prepared.fingerprint
    cached = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(cached) == 12
    assert second.splits["train"][0].label.size == 0


def test_an_image_comes_to_its_size_by_resampling_or_about_its_middle() -> None:
    image = np.random.default_rng(1).normal(size=(1, 10, 20, 1)).astype(np.float32)
    label, affine = np.zeros((10, 20, 1), np.uint8), np.eye(4)
    settings = class_experiment(preprocessing={"size": [16, 12], "normalise": "none"}).preprocessing
    assert prepare_case(image, label, affine, settings).image.shape == (1, 16, 12, 1)
    padded = prepare_case(image, label, affine, settings.model_copy(update={"fit": "pad"}))
    assert padded.image.shape == (1, 16, 12, 1)
    assert np.array_equal(padded.image[0, 3:13, :, 0], image[0, :, 4:16, 0])
    assert not padded.image[0, :3].any()


def test_a_case_of_a_table_tells_its_truth_to_the_batch() -> None:
    one = class_experiment(training={"batch": 3})
    nothing = np.zeros((0, 0, 0), np.uint8)
    cases = [
        MappedCase(str(n), np.full((1, EDGE, EDGE, 1), n, np.float32), nothing, nothing, np.zeros(0, np.int32),
                   None, np.eye(2, dtype=np.float32)[n % 2])  # type: ignore[arg-type]
        for n in range(4)
    ]  # fmt: skip
    sampler = Sampler(cases, one.training, one.augmentation, 1)
    images, truths = sampler.draw_step(0)[0]
    assert images.shape == (3, 1, EDGE, EDGE)
    assert [int(image.mean()) % 2 for image in images] == truths.argmax(1).tolist()
    last, _ = sampler.draw_step(1)[0]
    assert last.shape[0] == 2  # of four cases one was left, and batch norm needs two
    assert torch.equal(last[1], images[0])
