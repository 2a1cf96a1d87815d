"""An ensemble as one net: means and votes, and one file that holds all parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from messages.experiment import Experiment
from messages.ground.errors import ConfigError, DataError, WorkFailed
from messages.kinds import Combined, OwnModel, name_ensemble
from messages.tensors.layout import write_into
from nets.build import build_net
from nets.combined import CombinedNet
from nets.digest import arrays_digest
from nets.export import load_model
from nets.model_file import read_ensemble, read_model, save_ensemble
from nets.weights import arrays_of, manifest

NET = {"name": "UNet", "channels": [2, 4], "strides": [2], "num_res_units": 0}
FILE = {
    "schema": 1,
    "id": "e",
    "sites": ["site-a", "site-b"],
    "task": {"kind": "segmentation", "channels": ["T1"], "regions": {"WT": ["ED"]}},
    "data": {"dataset": "d"},
    "net": NET,
    "training": {"patch": [8, 8, 8]},
    "plan": {"kind": "ensemble"},
    "rounds": {"count": 1},
}


class Says(torch.nn.Module):
    """A net that always answers the same logits."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits).reshape(1, -1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(images), -1, 1)


IMAGES = torch.zeros(2, 1, 1)


def test_the_mean_is_that_of_the_probabilities_and_not_of_the_logits() -> None:
    nets, weights = [Says(4.0, -1.0), Says(-2.0, -1.0)], [0.25, 0.75]
    told = CombinedNet(nets, weights, "mean", reading="sigmoid")(IMAGES).sigmoid()[0, :, 0]
    expected = 0.25 * torch.tensor([4.0, -1.0]).sigmoid() + 0.75 * torch.tensor([-2.0, -1.0]).sigmoid()
    assert told == pytest.approx(expected, abs=1e-6)
    exclusive = CombinedNet(nets, weights, "mean", reading="softmax")(IMAGES).softmax(dim=1)[0, :, 0]
    by_net = [torch.tensor(one).softmax(dim=0) for one in ([4.0, -1.0], [-2.0, -1.0])]
    assert exclusive == pytest.approx(0.25 * by_net[0] + 0.75 * by_net[1], abs=1e-6)


def test_the_majority_counts_votes_however_sure_each_is() -> None:
    nets, weights = [Says(0.1, -5.0), Says(0.1, -5.0), Says(-90.0, 90.0)], [1 / 3] * 3
    told = CombinedNet(nets, weights, "majority", reading="sigmoid")(IMAGES)[0, :, 0]
    assert (told >= 0).tolist() == [True, False]
    exclusive = CombinedNet(nets, weights, "majority", reading="softmax")(IMAGES)[0, :, 0]
    assert int(exclusive.argmax()) == 0
    assert torch.isfinite(exclusive).all()


def test_numbers_are_averaged_and_have_no_majority() -> None:
    nets = [Says(10.0), Says(20.0)]
    assert CombinedNet(nets, [0.25, 0.75], "mean", reading="plain")(IMAGES).tolist() == [[[17.5]], [[17.5]]]
    with pytest.raises(ValueError, match="majority"):
        CombinedNet(nets, [0.5, 0.5], "majority", reading="plain")


def ensemble(folder: Path) -> tuple[Path, list[torch.nn.Module]]:
    """Two nets in one file."""
    nets = [build_net(NET, 1, 1, seed) for seed in (1, 2)]
    described, buffers, parts = manifest(nets[0]), {}, {}
    for number, net in enumerate(nets, 1):
        buffers[f"own-{number}"] = buffer = bytearray(described.nbytes)
        write_into(arrays_of(net), described, memoryview(buffer))
        digest = arrays_digest(arrays_of(net))
        parts[f"own-{number}"] = OwnModel(round=2, attempt=2 * number + 1, seal="0" * 64, model_digest=digest)
    weights = {"own-1": 0.25, "own-2": 0.75}
    named = name_ensemble("mean", {label: (one.model_digest, weights[label]) for label, one in parts.items()})
    combined = Combined(
        label="ensemble", rule="mean", weights=weights, parts=parts, manifest=described, model_digest=named
    )
    path = folder / "model.safetensors"
    save_ensemble(path, Experiment.model_validate(FILE), combined, buffers, 1)
    wrong = buffers | {"own-2": buffers["own-1"]}
    with pytest.raises(WorkFailed, match="own-2"):
        save_ensemble(path, Experiment.model_validate(FILE), combined, wrong, 1)
    return path, nets


def test_an_ensemble_is_exported_as_one_file_and_loaded_as_one_net(tmp_path: Path) -> None:
    path, nets = ensemble(tmp_path)
    loaded, metadata = load_model(path)
    assert metadata["ensemble"]["weights"] == {"own-1": 0.25, "own-2": 0.75}
    images = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        told = loaded(images).sigmoid()
        parts = [net.eval()(images).sigmoid() for net in nets]
    np.testing.assert_allclose(told, 0.25 * parts[0] + 0.75 * parts[1], atol=1e-6)


def test_a_changed_part_is_found_and_an_ensemble_is_no_single_model(tmp_path: Path) -> None:
    path, _nets = ensemble(tmp_path)
    assert list(read_ensemble(path)[0]) == ["own-1", "own-2"]
    with pytest.raises(ConfigError, match="is an ensemble"):
        read_model(path)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError):
        read_ensemble(path)
