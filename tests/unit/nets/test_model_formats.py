"""A model in another form answers as the original does, loaded by the tools of that form."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import needs
import pytest
import torch
from monai.bundle import ConfigParser, run, verify_net_in_out
from safetensors.torch import load_file, save_file

from deploy.cli.command import run_command
from messages.experiment import Experiment
from messages.ground.errors import ConfigError, RequestError, WorkFailed
from messages.kinds import Combined, OwnModel, name_ensemble
from messages.tensors.layout import view_tensors
from nets import convert
from nets.bundle import describe_bundle, describe_inference, describe_use
from nets.convert import convert_model
from nets.digest import arrays_digest
from nets.export import load_model
from nets.initial import initial_model
from nets.model_file import read_metadata, save_ensemble, save_model
from site_agent.training.tasks.base import Inference, predict_logits

pytestmark = pytest.mark.torch

UNET = {"name": "UNet", "channels": [2, 4], "strides": [2], "num_res_units": 1}
BATCH_UNET = {**UNET, "norm": "batch"}
CNN = {"name": "CNN", "channels": [4, 4]}
REGIONS = {"kind": "segmentation", "channels": ["T1", "T2"], "regions": {"WT": ["ED"], "ET": ["ET"]}}
CLASSES = {"kind": "classification", "channels": ["US"], "classes": ["benign", "malignant"]}


def describe(task: dict[str, Any], net: dict[str, Any], patch: list[int], **more: Any) -> Experiment:
    plain = {"schema": 1, "id": "other-forms", "seed": 3, "sites": ["site-a", "site-b"], "task": task, "net": net}
    plain |= {"data": {"dataset": "d"}, "rounds": {"count": 1}, **more}
    if task["kind"] == "classification":
        plain["preprocessing"] = {"size": patch}
    else:
        plain["training"] = {"patch": patch}
    return Experiment.model_validate(plain)


KINDS = {
    "segmentation-3d": describe(REGIONS, UNET, [16, 16, 16]),
    "segmentation-2d": describe({**REGIONS, "activation": "softmax"}, UNET, [16, 32]),
    "classification-3d": describe(CLASSES, CNN, [16, 16, 16]),
    "classification-2d": describe({**CLASSES, "labels": "ordinal"}, CNN, [16, 24]),
}


def save(path: Path, experiment: Experiment) -> Path:
    save_model(path, experiment, *initial_model(experiment), round_number=1)
    return path


def ask_torchscript(path: Path, images: torch.Tensor) -> torch.Tensor:
    told = {"konsil.json": ""}
    loaded = torch.jit.load(str(path), _extra_files=told)
    assert "model_digest" in json.loads(told["konsil.json"])
    with torch.inference_mode():
        return loaded(images)


def ask_onnx(path: Path, images: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert "model_digest" in json.loads(session.get_modelmeta().custom_metadata_map["konsil"])
    return torch.from_numpy(session.run(None, {"image": images.numpy()})[0])


def ask_bundle(path: Path, images: torch.Tensor) -> torch.Tensor:
    """By MONAI's own reader of bundles, from the bundle's folder."""
    parser = ConfigParser()
    parser.read_meta("configs/metadata.json")
    parser.read_config("configs/inference.json")
    net, inferer = parser.get_parsed_content("network_def"), parser.get_parsed_content("inferer")
    assert list(images.shape[1:]) == [
        parser["_meta_#network_data_format#inputs#image#num_channels"],
        *parser["_meta_#network_data_format#inputs#image#spatial_shape"],
    ]
    with torch.inference_mode():
        return inferer(images, net)


READERS: dict[str, tuple[Callable[[Path, torch.Tensor], torch.Tensor], float]] = {
    "torchscript": (ask_torchscript, 1e-6),
    "onnx": (ask_onnx, 1e-3),
    "monai-bundle": (ask_bundle, 1e-6),
}


def need_onnx() -> None:
    needs.need_module("onnx")
    needs.need_module("onnxruntime")


@pytest.mark.parametrize("form", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_another_form_answers_as_the_original_does(
    kind: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "onnx":
        need_onnx()
    experiment = KINDS[kind]
    model, out = save(tmp_path / "model.safetensors", experiment), tmp_path / "made"
    ask, near = READERS[form]
    assert convert_model(model, form, out) <= near
    net, _about = load_model(model)
    torch.manual_seed(5)
    images = torch.randn(2, len(experiment.task.channels), *experiment.training.patch)
    with torch.inference_mode():
        wanted = net(images)
    monkeypatch.chdir(out if out.is_dir() else tmp_path)
    torch.testing.assert_close(ask(out, images), wanted, rtol=0, atol=near * max(1.0, float(wanted.abs().max())))


def test_the_safetensors_file_is_read_by_the_library_of_that_name(tmp_path: Path) -> None:
    experiment = KINDS["segmentation-3d"]
    net, about = load_model(save(tmp_path / "model.safetensors", experiment))
    tensors = load_file(tmp_path / "model.safetensors")
    assert set(tensors) == set(about["tensors"])
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensors[name], tensor)


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # of bundles that one does not trust
def test_monais_runner_runs_a_bundle_and_whole_images_are_asked_as_the_sites_ask_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = KINDS["segmentation-3d"]
    model, out = save(tmp_path / "model.safetensors", experiment), tmp_path / "made"
    command = ["experiment", "model", str(model), "--format", "monai-bundle", "--out", str(out)]
    assert run_command([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model_digest"] == read_metadata(model)["model_digest"]
    assert told["difference"] <= READERS["monai-bundle"][1]
    assert run_command(command) == 2  # what is there stays
    monkeypatch.chdir(out)
    files = {"meta_file": "configs/metadata.json", "config_file": "configs/inference.json"}
    verify_net_in_out("network_def", **files, device="cpu")
    torch.manual_seed(5)
    image = torch.randn(2, 20, 24, 18)
    torch.save(image[None], "mine.pt")
    run(**files, images="mine.pt")
    net, _ = load_model(model)
    wanted = predict_logits(net, image, Inference.of_experiment(experiment), torch.device("cpu"))
    torch.testing.assert_close(torch.load("logits.pt"), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", ["mean", "majority"])
@pytest.mark.parametrize("form", READERS)
def test_an_ensemble_becomes_one_net_that_combines_its_parts(
    form: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if form == "onnx":
        need_onnx()
    model = save_two(tmp_path / "model.safetensors", rule)
    out = tmp_path / "made"
    convert_model(model, form, out)
    net, about = load_model(model)
    assert about["ensemble"]["rule"] == rule
    torch.manual_seed(5)
    images = torch.randn(2, 1, 16, 24)
    with torch.inference_mode():
        wanted = net(images)
    monkeypatch.chdir(out if out.is_dir() else tmp_path)
    ask, near = READERS[form]
    torch.testing.assert_close(ask(out, images), wanted, rtol=0, atol=near * float(wanted.abs().max()))


def save_two(path: Path, rule: str) -> Path:
    experiment = describe(CLASSES, CNN, [16, 24])
    manifest, first = initial_model(experiment)
    _, second = initial_model(experiment.model_copy(update={"seed": 8}))
    buffers = {"model-1": first, "model-2": second}
    digests = {label: arrays_digest(view_tensors(manifest, buffer)) for label, buffer in buffers.items()}
    weights = {"model-1": 0.25, "model-2": 0.75}
    combined = Combined(
        label="final",
        rule=rule,
        weights=weights,
        parts={label: OwnModel(round=1, attempt=1, seal="0" * 64, model_digest=one) for label, one in digests.items()},
        manifest=manifest,
        model_digest=name_ensemble(rule, {label: (digests[label], weights[label]) for label in buffers}),
    )
    save_ensemble(path, experiment, combined, buffers, 1)
    return path


def test_what_stays_at_the_sites_is_asked_for_and_taken_from_a_sites_file(tmp_path: Path) -> None:
    experiment = describe(REGIONS, BATCH_UNET, [16, 16, 16], plan={"strategy": "FedBN"})
    model = save(tmp_path / "model.safetensors", experiment)
    shared, own = without_batch_norms(model, tmp_path / "own.safetensors")
    assert shared
    with pytest.raises(RequestError, match="--own"):
        convert_model(model, "torchscript", tmp_path / "made")
    assert convert_model(model, "torchscript", tmp_path / "made", own) <= READERS["torchscript"][1]
    with pytest.raises(ConfigError):
        convert_model(model, "torchscript", tmp_path / "other", tmp_path / "none")
    assert not (tmp_path / "other").exists()


def without_batch_norms(model: Path, own: Path) -> tuple[list[str], Path]:
    """Take the batch norms out of a model file, as FedBN leaves them at the sites; they go into `own`."""
    about, tensors = read_metadata(model), load_file(model)
    kept = {name: tensor for name, tensor in tensors.items() if ".N." in name}
    shared = {name: tensor for name, tensor in tensors.items() if name not in kept}
    about["tensors"] = [name for name in about["tensors"] if name in shared]
    about["model_digest"] = arrays_digest({name: shared[name].numpy() for name in about["tensors"]})
    save_file(shared, model, metadata={"konsil": json.dumps(about)})
    save_file(kept, own)
    return list(kept), own


def test_a_library_that_is_missing_is_named_with_what_installs_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "onnx.py").write_text("raise ModuleNotFoundError('not here', name='onnx')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"), prepend=os.pathsep)
    model, out = save(tmp_path / "model.safetensors", KINDS["classification-2d"]), tmp_path / "made"
    assert run_command(["experiment", "model", str(model), "--format", "onnx", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "pip install 'konsil[onnx]'" in said
    assert said.strip().splitlines()[-1].startswith("konsil: ")
    assert not out.exists()


def test_a_bundle_holds_nothing_that_its_reader_would_run(tmp_path: Path) -> None:
    """MONAI evaluates strings with "$", and calls what "_target_" names: a model file of others brings none of it."""
    about = read_metadata(save(tmp_path / "model.safetensors", KINDS["segmentation-3d"]))
    versions = {"monai": "1.6.1", "torch": "2.13.0", "numpy": "2.4"}
    assert not set("$@%") & set(json.dumps(describe_bundle(about, versions)) + describe_use(about))
    said = json.dumps(describe_inference(about))
    assert not set("$%") & set(said)
    looked_up = {"images", "logits", "inferer", "prepared", "network_def"}
    assert set(re.findall(r'"@(\w+)"', said)) == looked_up
    assert said.count("@") == len(re.findall(r'"@\w+"', said))
    sliding = "monai.inferers.SlidingWindowInferer"
    called = {"torch.jit.load", "torch.load", "torch.save", sliding, f"{sliding}.__call__"}
    assert set(re.findall(r'"_target_": "([^"]*)"', said)) == called
    for evil in ("$print(1)", "@network_def", "%other.json", "a$b@c", ""):
        for changed in ({"channels": [evil, "T2"]}, {"regions": {evil: ["ED"], "ET": ["ET"]}}, {"experiment": evil}):
            with pytest.raises(ConfigError, match="no plain name"):
                describe_bundle({**about, **changed}, versions)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "safetensors"], "another form"),
        (["--format", "onnx", "--round", "1"], "no rounds"),
        (["--format", "gguf"], "gguf"),
    ],
)
def test_options_that_do_not_go_together_are_refused_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save(tmp_path / "model.safetensors", KINDS["classification-2d"])
    assert run_command(["experiment", "model", str(model), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_form_that_answers_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(convert.TOLERANCE, "torchscript", -1.0)
    model = save(tmp_path / "model.safetensors", KINDS["classification-2d"])
    with pytest.raises(WorkFailed, match="outputs differ"):
        convert_model(model, "torchscript", tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
