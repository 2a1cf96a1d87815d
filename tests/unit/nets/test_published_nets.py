"""Nets that others have published are those nets: as many parameters, counted on torch's meta device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from places import ROOT

from messages.ground.errors import ConfigError
from nets import registry
from nets.build import build_net

TORCHVISION = {
    ("ResNet18", ()): 11_689_512,
    ("ResNet34", ()): 21_797_672,
    ("ResNet50", ()): 25_557_032,
    ("DenseNet121", ()): 7_978_856,
    ("EfficientNetB0", ()): 5_288_548,
    ("VGG16", ()): 138_357_544,
    ("GoogLeNet", (("kernel", 3),)): 6_624_904,
}
"""`num_params` of torchvision's weights for ImageNet, IMAGENET1K_V1: three channels, 1000 classes, in 2D; of GoogLeNet
without the classifiers beside (torchvision.models, https://pytorch.org/vision/stable/models.html)."""


def count_parameters(name: str, inputs: int, outputs: int, dims: int, **parameters: Any) -> int:
    with torch.device("meta"):
        net = registry.read_spec({"name": name, **parameters}).build(inputs, outputs, dims)
    return sum(weight.numel() for weight in net.parameters())


@pytest.mark.parametrize(("net", "published"), TORCHVISION.items())
def test_a_classifier_has_as_many_parameters_as_torchvisions(net: tuple[str, Any], published: int) -> None:
    name, parameters = net
    assert count_parameters(name, 3, 1000, 2, **dict(parameters)) == published


@pytest.mark.parametrize("name", [name for name, net in registry.NETS.items() if net().size_without_net() is None])
def test_the_page_of_the_experiment_file_says_how_large_a_net_is_in_its_dimensions(name: str) -> None:
    page = (ROOT / "docs" / "experiment-file.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f'| `"{name}"`'))
    found = [count_parameters(name, 1, 2, dims) if dims in registry.NETS[name].dimensions else 0 for dims in (2, 3)]
    assert row.split(" | ")[-2:] == [f"{found[0] / 1e6:.2f}", f"{found[1] / 1e6:.2f} |"]


def test_v_net_has_the_size_of_its_paper() -> None:
    """45.61 million: the count that Milletari et al.'s net is cited with, for one channel and two outputs."""
    assert round(count_parameters("VNet", 1, 2, 3) / 1e6, 1) == 45.6


def test_swin_unetr_has_the_size_of_its_paper() -> None:
    """Hatamizadeh et al. 2022 (arXiv 2201.01266) for BraTS: 61.98 million, and MONAI's has 0.2 more."""
    assert round(count_parameters("SwinUNETR", 4, 3, 3) / 1e6) == 62


def test_googlenet_has_the_widths_of_its_papers_table() -> None:
    """Szegedy et al. 2015 (arXiv 1409.4842), table 1, in units of 1024 and to 6 %. Its 463 for module 4c does not
    follow from the widths in the same row, which give 498."""
    rows = (159, 380, 364, 437, 498, 580, 840, 1072, 1388)
    with torch.device("meta"):
        net = registry.read_spec({"name": "GoogLeNet", "norm": "none"}).build(3, 1000, 2)
    modules = [module for module in net.modules() if type(module).__name__ == "Branches"]
    counted = [sum(weight.numel() for weight in module.parameters()) / 1024 for module in modules]
    assert counted == pytest.approx(rows, rel=0.06)


def test_v_net_drops_as_its_file_says_at_each_level_and_in_its_dimensions() -> None:
    chances = {"dropout_down": 0.1, "dropout_up": 0.2, "dropout_skip": 0.3}
    for dims in (2, 3):
        with torch.device("meta"):
            net = registry.read_spec({"name": "VNet", **chances}).build(1, 1, dims)
        found = {
            name: module.p
            for name, module in net.named_modules()
            if isinstance(module, torch.nn.Dropout2d if dims == 2 else torch.nn.Dropout3d)
        }
        assert {chance for name, chance in found.items() if name.endswith("dropout2")} == {0.3}
        assert sum(name.endswith("dropout2") for name in found) == 4
        assert {found[f"up_tr{level}.dropout"] for level in (256, 128)} == {0.2}
        assert {chance for name, chance in found.items() if name.startswith("down")} == {0.1}


def test_dints_says_nothing_on_standard_output_over_which_processes_speak(capfd: pytest.CaptureFixture[str]) -> None:
    build_net({"name": "DiNTS", "levels": 2, "blocks": 2, "width": 0.125}, 1, 1, 1)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("net", "words"),
    [
        ({"name": "DynUNet", "filters": [4, 8, 8], "strides": [2, 2, 2]}, "one fewer than filters"),
        ({"name": "DynUNet", "filters": [4, 8, 8], "strides": [2, 5]}, "at most one more than the kernel"),
        ({"name": "DynUNet", "filters": [4, 8, 8], "strides": [2, 4], "residual": True}, "strides of 1 and 2"),
        ({"name": "DynUNet", "filters": [4, 8, 8], "strides": [2, 2], "kernel_size": 4}, "1, 3, 5 or 7"),
        ({"name": "DynUNet", "filters": [4, 8, 8], "strides": [2, 2], "kernel_size": [3, 3]}, "as many as filters"),
        ({"name": "BasicUNet", "features": [4, 4, 8, 7, 8, 4]}, "must be even"),
        ({"name": "BasicUNet", "features": [4, 4, 8]}, "at least 6"),
        ({"name": "SwinUNETR", "heads": [5, 6, 12, 24]}, "heads must divide"),
        ({"name": "SwinUNETR", "feature_size": 20}, "multiple of 12"),
        ({"name": "DiNTS", "blocks": 3}, "blocks must be 6 or more"),
        ({"name": "DiNTS", "paths": [[1]]}, "give paths and operations"),
        ({"name": "DiNTS", "levels": 2, "blocks": 2, "paths": [[1, 0, 0, 0], [0, 1, 0, 0]],
          "operations": [[1, 0, 0, 0], [0, 1, 0, 0]]}, "block 2 of paths"),
        ({"name": "DiNTS", "levels": 2, "blocks": 2, "paths": [[1, 0, 0, 0]] * 2,
          "operations": [[5, 0, 0, 0]] * 2}, "operations are 0 to 4"),
        ({"name": "InceptionSeg", "channels": [12]}, "multiples of 8"),
        ({"name": "AHNet", "pyramid": 5}, "pyramid"),
        ({"name": "VGG16", "norm": "instance"}, "norm"),
        ({"name": "CNN", "channels": [0]}, "1 or more"),
        ({"name": "DilatedCNN", "dilations": [0]}, "1 to 64"),
    ],
)  # fmt: skip
def test_parameters_that_do_not_fit_each_other_are_refused_with_the_reason(net: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        registry.read_spec(net)


@pytest.mark.parametrize(
    ("net", "kind", "patch", "words"),
    [
        ({"name": "ResNet18"}, "segmentation", (64, 64), "'ResNet18' is for classification or regression, not"),
        ({"name": "UNet"}, "classification", (64, 64), "in 2D: CNN, DenseNet121, EfficientNetB0, GoogLeNet, Re"),
        ({"name": "ResNet18"}, "classification", (32, 32), "divides the grid by 32, which leaves 1 voxel"),
        ({"name": "VGG16"}, "classification", (16, 16), "which leaves 0 voxels"),
        ({"name": "AHNet"}, "segmentation", (64, 32), "multiple of 128 × 32"),
        ({"name": "AHNet"}, "segmentation", (128, 64, 32), "multiple of 128 × 128 × 32"),
        ({"name": "DynUNet", "filters": [4, 8, 8], "strides": [[1, 2, 2], 2]}, "segmentation", (32, 32),
         r"strides = \[1, 2, 2\]: give one number, or 2"),
        ({"name": "DiNTS", "levels": 2, "blocks": 2, "paths": [[1, 0, 0, 0]] * 2,
          "operations": [[3, 0, 0, 0]] * 2}, "segmentation", (32, 32), "operations are 0 to 1 in 2D"),
    ],
)  # fmt: skip
def test_a_net_that_does_not_fit_is_refused_in_one_line(
    net: dict[str, Any], kind: str, patch: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        registry.require_fit(registry.read_spec(net), kind, 1, 2, patch)
    assert len(str(refused.value).splitlines()) == 1


def test_kernels_and_strides_may_differ_by_axis() -> None:
    one = registry.read_spec(
        {"name": "DynUNet", "filters": [4, 8, 8], "strides": [[1, 2, 2], 2], "kernel_size": [[1, 3, 3], 3, 3]}
    )
    assert one.divisors(3) == (2, 4, 4)
    assert one.smallest_patch(3) == (8, 8, 8)
    with torch.device("meta"):
        assert one.build(1, 2, 3)(torch.empty(1, 1, 8, 8, 16)).shape == (1, 2, 8, 8, 16)
