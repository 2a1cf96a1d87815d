"""An operator's program trains and predicts by files and exit status; what it leaves is checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import external_rig as rig
import numpy as np
import pytest
from class_task import class_experiment, table_source, write_pictures

from messages.reasons import Reason
from messages.tensors.layout import Manifest
from site_agent.external.sandbox import TrainerUnfit
from site_agent.external.session import ExternalSession
from site_agent.external.work import ProgramFailed
from site_agent.training.protocol import Evaluate, Progress, Reply


def session(folder: Path, text: str = rig.LINEAR, said: list[Reply] | None = None, **more: Any) -> ExternalSession:
    told = [] if said is None else said
    return ExternalSession(rig.preparation(folder, rig.register(folder / "programs", text, **more)), told.append)


def test_a_program_trains_a_round_and_scores_the_model_it_received(tmp_path: Path) -> None:
    said: list[Reply] = []
    chosen = session(tmp_path, said=said)
    prepared = chosen.prepared
    assert prepared.found == prepared.used == prepared.train + prepared.validation + prepared.test == 200
    request = rig.training(tmp_path, evaluate=True)
    answer = chosen.train_round(request)
    assert (answer.cases, answer.steps, answer.epochs) == (prepared.train, 10, 1.0)
    assert 0 < answer.loss < 5
    trained = rig.tensors_in(Path(request.output), request.update)
    assert trained["weight"][0, 0] > 1
    assert trained["weight"][1, 0] < -0.5
    assert answer.evaluation is not None
    assert answer.evaluation.scores().cases == prepared.validation
    steps = [one.done for one in said if isinstance(one, Progress) and one.phase == "training"]
    assert steps[0] == 0
    assert Progress.model_fields.keys() >= {"loss"}
    assert not list((tmp_path / "state" / "cache" / "external").rglob("*.csv")), "cases stay on the disk after the run"


def test_scores_follow_from_the_programs_predictions_and_from_the_table(tmp_path: Path) -> None:
    chosen = session(tmp_path)
    request = rig.training(tmp_path)
    manifest = Manifest.model_validate(request.manifest)
    Path(request.model).write_bytes(np.array([2.0, -1.0, 0.5], np.float32).tobytes())  # the truth itself
    asked = Evaluate(round=1, model=request.model, manifest=manifest.plain(), splits=["test"], label="final")
    (rows,) = chosen.evaluate_model(asked).scores
    error = rows.scores().metrics["absolute-error"]["outcome"]
    assert error.n == chosen.prepared.test > 0
    assert error.mean is not None
    assert error.mean < 0.03


def test_no_patient_is_in_two_splits_and_no_truth_is_told_where_it_is_to_be_predicted(tmp_path: Path) -> None:
    looks = rig.LINEAR.replace(
        "konsil_trainer.run", "import sys; sys.stderr.write(open('cases.csv').read()); konsil_trainer.run"
    )
    chosen = session(tmp_path, looks)
    patients = [{case.patient for case in cases} for cases in chosen._cases.values()]
    assert all(not one & other for one in patients for other in patients if one is not other)
    request = rig.training(tmp_path)
    manifest = Manifest.model_validate(request.manifest).plain()
    chosen.evaluate_model(Evaluate(round=1, model=request.model, manifest=manifest, splits=["test"], label="final"))


SPOILT = {
    "another shape": ("np.zeros((3, 1), 'float32')", Reason.WRONG_SHAPE),
    "another type": ("np.zeros((2, 1), 'float64')", Reason.WRONG_SHAPE),
    "not finite": ("np.full((2, 1), np.nan, 'float32')", Reason.NAN_LOSS),
}


@pytest.mark.parametrize("what", SPOILT)
def test_an_update_that_is_not_the_models_is_refused(what: str, tmp_path: Path) -> None:
    array, reason = SPOILT[what]
    text = f"""
import json
import numpy as np
from safetensors.numpy import save_file
save_file({{"weight": {array}, "bias": np.zeros(1, 'float32')}}, "update.safetensors")
json.dump({{"steps": 1, "loss": 0.5}}, open("result.json", "w"))
"""
    with pytest.raises(ProgramFailed) as told:
        session(tmp_path, text, sandbox="none").train_round(rig.training(tmp_path))
    assert told.value.reason is reason


WRONG = {
    "ends badly": ("import sys; sys.exit(3)", "ended with status 3"),
    "leaves nothing": ("", "left no result.json"),
    "leaves a link": ("import os; os.symlink('/etc/passwd', 'result.json')", "left no result.json"),
    "leaves a pipe": ("import os; os.mkfifo('result.json')", "is no file of at most"),
    "leaves no result": ("open('result.json', 'w').write('[1')", "result.json"),
    "says an infinite loss": ("open('result.json', 'w').write('{\"steps\": 1, \"loss\": NaN}')", "result.json"),
    "leaves no tensors": (
        "open('result.json', 'w').write('{\"steps\": 1, \"loss\": 1}'); open('update.safetensors', 'w').write('x')",
        "no safetensors file",
    ),
    "takes too long": ("import time; time.sleep(600)", "ran for 1 s"),
    "writes too much": (
        "import time; [open(f'more{n}', 'wb').truncate(2**19) for n in range(5)]; time.sleep(600)",
        "wrote more than",
    ),
    "writes a file without end": ("open('more', 'wb').write(bytes(2**21))", "ended with status 1|wrote more than"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_program_that_does_not_do_it_fails_its_round_in_words(what: str, tmp_path: Path) -> None:
    text, words = WRONG[what]
    more = {"within": 1.0} if "long" in what else {"disk": 2**20}
    with pytest.raises(ProgramFailed, match=words):
        session(tmp_path, text, sandbox="none", **more).train_round(rig.training(tmp_path))


def test_a_prediction_that_is_none_fails_the_round(tmp_path: Path) -> None:
    text = "open('predictions.csv', 'w').write('outcome\\n1.0\\n')"
    with pytest.raises(ProgramFailed, match="cases were asked for"):
        session(tmp_path, text).train_round(rig.training(tmp_path, evaluate=True))


def test_a_program_that_was_changed_is_not_run(tmp_path: Path) -> None:
    chosen = session(tmp_path)
    program = tmp_path / "programs" / "program.py"
    program.write_text(rig.LINEAR + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(TrainerUnfit, match="SHA-256"):
        chosen.train_round(rig.training(tmp_path))
    with pytest.raises(TrainerUnfit, match="SHA-256"):
        ExternalSession(rig.preparation(tmp_path, rig.register(tmp_path / "programs") | {"sha256": "0" * 64}), print)
    assert TrainerUnfit("x").reason is Reason.UNSUPPORTED


def test_what_a_program_is_told_holds_nothing_secret(tmp_path: Path) -> None:
    text = rig.LINEAR.replace(
        "konsil_trainer.run", "import sys; sys.stderr.write(open('task.json').read()); konsil_trainer.run"
    )
    chosen = session(tmp_path, text)
    told = chosen._describe_run(_train(chosen, tmp_path))
    words = json.dumps(told)
    assert bytes(32).hex() not in words
    assert str(tmp_path) not in words
    assert "site-a" not in words
    assert told["training"]["learning_rate"] == pytest.approx(0.1)


def test_a_round_after_rounds_that_stand_is_told_as_the_round_that_it_is(tmp_path: Path) -> None:
    schedule = {"name": "poly"}
    training = {"trainer": "linear", "local_steps": 10, "optimizer": {"lr": 0.1}, "schedule": schedule}
    superseded = {"experiment": "exp-1", "rounds": 3, "model": f"sha256:{'1' * 64}", "after": 2}
    net = {"name": "Tensors", "tensors": rig.TENSORS, "from": f"sha256:{'2' * 64}"}
    files = [
        rig.experiment(training=training),
        rig.experiment(id="exp-2", net=net, training=training, rounds={"count": 1}, supersedes=superseded),
    ]
    whole, rest = (
        ExternalSession(rig.preparation(tmp_path, rig.register(tmp_path / "programs"), file), lambda _reply: None)
        for file in files
    )
    told = rest._describe_run(_train(rest, tmp_path))
    assert (told["round"], told["rounds"]) == (3, 3)
    third = whole._describe_run(replace(_train(whole, tmp_path), round=3))
    assert {key: told[key] for key in ("seed", "training")} == {key: third[key] for key in ("seed", "training")}


def _train(chosen: ExternalSession, folder: Path) -> Any:
    from site_agent.external.session import _Run

    return _Run("train", "training", 1, "train", {})


def test_what_a_run_that_was_killed_has_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "state" / "cache" / "external" / "work"
    left.mkdir(parents=True)
    (left / "cases.csv").write_text("case,a,b\n")
    session(tmp_path)
    assert not left.exists()


PICTURES = """
import numpy as np
from PIL import Image
import konsil_trainer

def measure(paths):
    wholes = [np.asarray(Image.open(path), float) for (path,) in paths]
    return np.array([one[:, :8].mean() - one[:, 8:].mean() for one in wholes])

def train(task, model, inputs, truths):
    assert truths.shape == (len(inputs), 2) and set(truths.ravel()) == {0.0, 1.0}
    return {"edge": np.float32(measure(inputs).mean())}, {"steps": 1, "loss": 0.5}

def predict(task, model, inputs):
    bright = np.float64(measure(inputs) > 50) + SHIFT
    return np.stack([1 - bright, bright], axis=1)

konsil_trainer.run(train, predict)
"""


def pictures(folder: Path, shift: float) -> tuple[ExternalSession, Any]:
    write_pictures(folder / "data", ["benign", "malignant"] * 20)
    net = {"name": "Tensors", "tensors": [{"name": "edge"}]}
    chosen = class_experiment(net=net, training={"trainer": "linear", "batch": 4, "optimizer": {"lr": 0.01}})
    given = rig.register(folder / "programs", PICTURES.replace("SHIFT", str(shift)))
    request = rig.preparation(folder, given, chosen, dataset=table_source(folder / "data"))
    return ExternalSession(request, lambda _reply: None), rig.training(folder, chosen, evaluate=True)


def test_a_program_that_sees_images_is_scored_by_its_probabilities(tmp_path: Path) -> None:
    chosen, request = pictures(tmp_path, 0.0)
    assert chosen.prepared.used == 40
    answer = chosen.train_round(request)
    assert answer.evaluation is not None
    scores = answer.evaluation.scores()
    assert scores.cases == chosen.prepared.validation > 0
    assert scores.metrics["brier"]["malignant"].sum == 0
    assert 5 < rig.tensors_in(Path(request.output), request.update)["edge"] < 95


def test_the_agent_is_told_which_cases_a_program_trains_on(tmp_path: Path) -> None:
    prepared = session(tmp_path).prepared
    assert len(prepared.cases) == prepared.used == 200
    assert {one.patient for one in prepared.cases} == {f"p{number}" for number in range(100)}
    assert [one.split for one in prepared.cases].count("train") == prepared.train


def test_another_image_under_the_same_name_is_another_case(tmp_path: Path) -> None:
    before = pictures(tmp_path, 0.0)[0]
    changed = before._cases["train"][0]
    changed.images[0].write_bytes(before._cases["train"][1].images[0].read_bytes())
    after = ExternalSession(before._request, lambda _reply: None).prepared
    digests = {one.case: one.digest for one in before.prepared.cases}
    assert [one.case for one in after.cases if one.digest != digests[one.case]] == [changed.key]
    assert after.fingerprint != before.prepared.fingerprint


def test_a_probability_above_1_is_none(tmp_path: Path) -> None:
    chosen, request = pictures(tmp_path, 0.5)
    with pytest.raises(ProgramFailed, match="a probability is from 0 to 1"):
        chosen.train_round(request)
