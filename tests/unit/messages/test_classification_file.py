"""An experiment file of a classification: its keys, what it means by those that it leaves out, and its mistakes."""

from __future__ import annotations

from typing import Any

import pytest
from class_task import EDGE, class_experiment

from messages import codec
from messages.experiment import Experiment, read_recorded
from messages.ground.errors import ConfigError
from messages.tasks.losses import LossTable

TABLE = {"name": "cross-entropy", "class_weights": "balanced", "label_smoothing": 0.1}


def test_the_net_sees_whole_images_and_the_size_is_its_patch() -> None:
    one = class_experiment()
    assert (one.training.patch, one.training.dims, one.task.out_channels) == ((EDGE, EDGE), 2, 2)
    assert one.training.loss_table == LossTable(name="cross-entropy")
    assert one.evaluation.select_by == "validation.auc.mean"
    assert class_experiment(preprocessing={"size": [8, 8, 8]}).training.dims == 3


@pytest.mark.parametrize(
    ("labels", "reading"), [("exclusive", "softmax"), ("multi", "sigmoid"), ("ordinal", "sigmoid")]
)
def test_nets_of_classes_are_combined_by_their_probabilities(labels: str, reading: str) -> None:
    assert class_experiment(task={"labels": labels}).task.reading == reading


@pytest.mark.parametrize("loss", ["focal", TABLE, {"name": "focal", "gamma": 1}, "cross-entropy"])
def test_its_digest_comes_back_over_the_wire(loss: Any) -> None:
    one = class_experiment(training={"loss": loss}, preprocessing={"fit": "pad"})
    again = Experiment.model_validate(codec.unpack(codec.pack(one.as_plain())))
    assert (again, again.digest(), again.form) == (one, one.digest(), 2)
    assert read_recorded(one.as_plain()) == one
    assert Experiment.model_validate(one.filled()).training.loss_table == one.training.loss_table  # a trainer's copy


def test_a_loss_with_arguments_makes_form_2_of_an_old_file() -> None:
    from storytelling import PLAIN

    said = {**PLAIN, "training": {**PLAIN.get("training", {}), "loss": {"name": "dice+bce"}}}
    one = Experiment.model_validate(said)
    assert one.form == 2
    assert Experiment.model_validate(one.as_plain()).digest() == one.digest()
    assert Experiment.model_validate(PLAIN).form == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": {"classes": ["benign"]}}, "exclusive classes are two at least"),
        ({"task": {"classes": ["a", "a"]}}, "name each class once"),
        ({"task": {"classes": ["BI-RADS 4"]}}, r"task\.classes"),
        ({"preprocessing": {"size": None}}, r"preprocessing\.size: classification sees whole images"),
        ({"training": {"patch": [8, 8]}}, r"training\.patch: classification sees whole images"),
        ({"training": {"loss": "dice+bce"}}, r"training\.loss: classification has"),
        ({"training": {"loss": "crossentropy"}}, r"training\.loss"),
        ({"training": {"loss": {"name": "cross-entropy", "gamma": 2}}}, "cross-entropy takes no gamma"),
        ({"training": {"loss": TABLE | {"class_weights": {"benign": 1.0}}}}, "name each of benign, malignant"),
        ({"training": {"loss": TABLE | {"weights": 1}}}, r"'training\.loss\.weights' is unknown"),
        ({"evaluation": {"metrics": ["dice"]}}, r"evaluation\.metrics: classification has"),
        ({"evaluation": {"select_by": "validation.dice.mean"}}, r"evaluation\.select_by"),
        ({"task": {"labels": "multi"}, "evaluation": {"metrics": ["kappa"]}}, "needs classes that exclude each other"),
        ({"task": {"labels": "ordinal"}, "training": {"loss": TABLE}}, "do not go with ordinal"),
    ],
)  # fmt: skip
def test_mistakes_are_named_in_a_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        class_experiment(**changes)


def test_a_segmentation_takes_no_class_weights_and_pads_by_itself() -> None:
    from storytelling import PLAIN

    with pytest.raises(ValueError, match=r"dice\+bce takes no class_weights"):
        Experiment.model_validate({**PLAIN, "training": {"loss": {"name": "dice+bce", "class_weights": "balanced"}}})
    with pytest.raises(ValueError, match="cuts and pads to training"):
        Experiment.model_validate({**PLAIN, "preprocessing": {"size": [64, 64, 64], "fit": "pad"}})


@pytest.mark.parametrize(
    ("labels", "words", "value"),
    [
        ("exclusive", ["malignant"], (0.0, 1.0)),
        ("multi", ["benign", "malignant"], (1.0, 1.0)),
        ("multi", ["none"], (0.0, 0.0)),
        ("ordinal", ["benign"], (1.0, 0.0)),
    ],
)
def test_a_tables_words_become_what_is_trained_towards(labels: str, words: list[str], value: tuple[float, ...]) -> None:
    assert class_experiment(task={"labels": labels}).task.encode_value(words) == value


@pytest.mark.parametrize(
    ("words", "why"), [(["normal"], "'normal' is none of"), (["benign", "malignant"], "2 classes")]
)
def test_a_word_of_no_class_is_refused(words: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        class_experiment().task.encode_value(words)
