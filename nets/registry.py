"""Which nets exist, and whether one fits an experiment. Torch-free: coordinator and CLI read it too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.ground.settings import parse_settings, suggest_word
from messages.sections import AUTO
from nets.architectures.auto import AutoSpec
from nets.architectures.base import NetSpec
from nets.architectures.classification.cnn import CNNSpec
from nets.architectures.classification.densenet import DenseNet121Spec
from nets.architectures.classification.efficientnet import EfficientNetB0Spec
from nets.architectures.classification.googlenet import GoogLeNetSpec
from nets.architectures.classification.resnet import ResNet18Spec, ResNet34Spec, ResNet50Spec
from nets.architectures.classification.vgg import VGG16Spec
from nets.architectures.rehearsal import RehearsalSpec
from nets.architectures.segmentation.ahnet import AHNetSpec
from nets.architectures.segmentation.basicunet import BasicUNetSpec
from nets.architectures.segmentation.dilated import DilatedCNNSpec
from nets.architectures.segmentation.dints import DiNTSSpec
from nets.architectures.segmentation.dynunet import DynUNetSpec
from nets.architectures.segmentation.inception import InceptionSegSpec
from nets.architectures.segmentation.jets import GaussianJetsSpec
from nets.architectures.segmentation.segresnet import SegResNetSpec
from nets.architectures.segmentation.swinunetr import SwinUNETRSpec
from nets.architectures.segmentation.unet import UNetSpec
from nets.architectures.segmentation.vnet import VNetSpec
from nets.architectures.tensors import TensorsSpec

NETS: Mapping[str, type[NetSpec]] = {
    "UNet": UNetSpec,
    "SegResNet": SegResNetSpec,
    "VNet": VNetSpec,
    "BasicUNet": BasicUNetSpec,
    "DynUNet": DynUNetSpec,
    "AHNet": AHNetSpec,
    "DiNTS": DiNTSSpec,
    "SwinUNETR": SwinUNETRSpec,
    "InceptionSeg": InceptionSegSpec,
    "DilatedCNN": DilatedCNNSpec,
    "GaussianJets": GaussianJetsSpec,
    "DenseNet121": DenseNet121Spec,
    "ResNet18": ResNet18Spec,
    "ResNet34": ResNet34Spec,
    "ResNet50": ResNet50Spec,
    "EfficientNetB0": EfficientNetB0Spec,
    "VGG16": VGG16Spec,
    "GoogLeNet": GoogLeNetSpec,
    "CNN": CNNSpec,
    "Rehearsal": RehearsalSpec,
    "Tensors": TensorsSpec,
}


def known_nets() -> list[str]:
    """Names of all nets, and the one that stands for none yet."""
    return sorted({*NETS, AUTO})


def spec_of(experiment: Experiment) -> NetSpec:
    """An experiment's net: it exists and takes these parameters.

    Raises:
        ConfigError: as `read_spec`.
    """
    return read_spec({"name": experiment.net.name, **experiment.net.parameters})


def check_net(experiment: Experiment) -> NetSpec:
    """An experiment's net: it exists, takes these parameters, and fits the experiment's task, channels and patch.

    Raises:
        ConfigError: names key, value and what is allowed.
    """
    spec, task = spec_of(experiment), experiment.task
    if spec.foreign and experiment.training.trainer is None:
        raise ConfigError(
            f"net {spec.name!r} is known to a site's own trainer alone",
            where="net.name",
            advice="Say which one under training.trainer, or choose another net",
        )
    if spec.keeps_statistics and experiment.privacy.dp is not None:
        what = f"{spec.name} with batch normalisation mixes patients and tells statistics of them (net-not-private)"
        raise ConfigError(what, where="net", advice='Under [privacy.dp] choose norm = "instance", or another net')
    if spec.supervised_levels and experiment.plan.strategy.name == "MOON":
        what = "MOON compares what goes into a net's last layer, and with deep supervision there are several last ones"
        raise ConfigError(what, where="net.deep_supervision", advice="Choose another strategy, or leave the key out")
    require_fit(spec, task.kind, len(task.channels), task.out_channels, experiment.training.patch)
    return spec


def require_fit(spec: NetSpec, kind: str, inputs: int, outputs: int, patch: Sequence[int]) -> None:
    """A net can learn a kind of task, from so many channels, with so many outputs, on such patches.

    Raises:
        ConfigError: names what does not fit, and what would.
    """
    dims = len(patch)
    _require_task(spec, kind, dims)
    if (why := spec.find_misfit(inputs, outputs, dims)) is not None:
        raise ConfigError(why, where="net")
    words, divisors, reductions = f"training.patch = {list(patch)}", spec.divisors(dims), spec.reductions(dims)
    if any(edge % divisor for edge, divisor in zip(patch, divisors, strict=True)):
        raise ConfigError(
            f"{words}: each edge must be a multiple of {_by_axis(divisors)}",
            where="net",
            advice=f"{spec.name} divides the grid by that with these parameters",
        )
    left = prod(edge // one for edge, one in zip(patch, reductions, strict=True))
    if left < spec.least_voxels():
        some = f"{left} voxel" if left == 1 else f"{left} voxels"
        raise ConfigError(
            f"{words}: {spec.name} divides the grid by {_by_axis(reductions)}, which leaves {some}",
            where="net",
            advice="Use a larger patch, or fewer levels",
        )


def _by_axis(factors: Sequence[int]) -> str:
    return str(factors[0]) if len(set(factors)) == 1 else " × ".join(map(str, factors))


def _require_task(spec: NetSpec, kind: str, dims: int) -> None:
    """A kind of task that no net names (an operator's own) goes with each."""
    known = any(kind in net.tasks for net in NETS.values())
    if known and kind not in spec.tasks:
        what = f"net {spec.name!r} is for {' or '.join(sorted(spec.tasks))}, not for {kind}"
    elif dims not in spec.dimensions:
        what = f"net {spec.name!r} does not exist in {dims}D, and training.patch has {dims} numbers"
    else:
        return
    fitting = [name for name, net in NETS.items() if dims in net.dimensions and (kind in net.tasks or not known)]
    raise ConfigError(what, where="net", advice=f"Nets for {kind} in {dims}D: {', '.join(sorted(fitting))}")


def read_spec(spec: Mapping[str, Any], where: str = "net") -> NetSpec:
    """Check a `[net]` table: its name and that net's parameters.

    Raises:
        ConfigError: no such net, unknown parameter, or a value that is not allowed.
    """
    known: Mapping[str, type[NetSpec]] = {**NETS, AUTO: AutoSpec}
    name = spec.get("name")
    if not isinstance(name, str) or name not in known:
        meant = suggest_word(name, known) if isinstance(name, str) else ""
        what = f"net {name!r} does not exist{meant}"
        raise ConfigError(what, where=where, advice=f"Known nets: {', '.join(known_nets())}")
    return parse_settings(dict(spec), known[name], where)
