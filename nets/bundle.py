"""A MONAI bundle's configuration, out of what a model file says of its model. Torch-free and pure.

Whoever opens a bundle has MONAI evaluate what its configuration holds: strings that begin with "$" run as Python, "@"
and "%" look things up, and "_target_" names what is called (https://docs.monai.io/en/stable/config_syntax.html).
A model file may come from anybody. So names out of it are put in only where they are plain, nothing here is an
expression, and what is called and looked up is named here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from messages.ground.errors import ConfigError
from messages.tasks.described import is_of_voxels, list_outputs, name_kind

NETWORK = "models/model.ts"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.,:;()+-]*")


def describe_bundle(about: Mapping[str, Any], versions: Mapping[str, str]) -> dict[str, Any]:
    """metadata.json, as MONAI's specification of bundles has it (https://docs.monai.io/en/stable/mb_specification.html).

    Args:
        about: what the model file says (`nets.model_file.read_metadata`).
        versions: of MONAI, PyTorch and NumPy: "monai", "torch", "numpy".

    Raises:
        ConfigError: it names something in other than plain words.
    """
    outputs = read_outputs(about)
    shape = [int(edge) for edge in about["patch"]]
    segments = is_of_voxels(about)
    return {
        "version": "1.0.0",
        "changelog": {"1.0.0": "exported by Konsil"},
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"],
        "numpy_version": versions["numpy"],
        "required_packages_version": {},
        "name": hold_plain(str(about.get("experiment", "model"))),
        "task": f"{name_kind(about)} of medical images",
        "description": f"model {hold_plain(str(about['model_digest']))} of a federated experiment; for research only",
        "authors": "see the experiment",
        "copyright": "see the experiment",
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "num_channels": len(about["channels"]),
                    "spatial_shape": shape,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": segments,
                    "channel_def": {str(n): hold_plain(str(one)) for n, one in enumerate(about["channels"])},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image" if segments else "probabilities",
                    "format": "logits",
                    "num_channels": int(about["out_channels"]),
                    "spatial_shape": shape if segments else [],
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": segments,
                    "channel_def": {str(number): name for number, name in enumerate(outputs)},
                }
            },
        },
    }


def describe_inference(about: Mapping[str, Any]) -> dict[str, Any]:
    """inference.json: the network, how it is asked, and `run`: from a file of prepared images to one of logits.

    Read and run from the bundle's own folder.
    """
    kind, arguments = "SimpleInferer", {}
    if is_of_voxels(about):
        kind = "SlidingWindowInferer"
        arguments = {
            "roi_size": [int(edge) for edge in about["patch"]],
            "sw_batch_size": 1,
            "overlap": float(about["overlap"]),
            "mode": "gaussian",
        }
    asked = {"_target_": f"monai.inferers.{kind}.__call__", "self": "@inferer"}
    return {
        "images": "images.pt",
        "logits": "logits.pt",
        "network_def": {"_target_": "torch.jit.load", "f": NETWORK, "map_location": "cpu"},
        "inferer": {"_target_": f"monai.inferers.{kind}", **arguments},
        "prepared": {"_target_": "torch.load", "f": "@images", "map_location": "cpu", "weights_only": True},
        "run": [
            {
                "_target_": "torch.save",
                "obj": {**asked, "inputs": "@prepared", "network": "@network_def"},
                "f": "@logits",
            }
        ],
    }


MIRRORED = (
    "The experiment's scores are means over mirror images (`evaluation.mirror`). The bundle asks once: "
    "`konsil predict` answers as the experiment did."
)


def describe_use(about: Mapping[str, Any]) -> str:
    """docs/README.md: what goes in, what comes out."""
    prepared = [f"- {hold_plain(key)}: {_say(value)}" for key, value in sorted(dict(about["preprocessing"]).items())]
    answers = "numbers" if "quantity" in about else "logits"
    slices = "A 3D image is asked slice by slice, along its last axis." if len(about["patch"]) == 2 else ""
    return "\n".join(
        [
            f"# {hold_plain(str(about.get('experiment', 'model')))}",
            "",
            "Exported by Konsil. For research only: no medical device, and not for diagnosis.",
            "",
            f"The network takes float32 (batch, {len(about['channels'])} channels, grid) and answers with float32 "
            f"{answers}: {', '.join(read_outputs(about))}. {slices}".rstrip(),
            "",
            "Images are prepared by these settings of the experiment file (docs/experiment-file.md, [preprocessing]):",
            "",
            *prepared,
            "",
            *([MIRRORED, ""] if about.get("mirror") else []),
            "Read and run the bundle from its own folder: paths in `configs/inference.json` are relative to it.",
            "",
            "    python -m monai.bundle run --config_file configs/inference.json --images images.pt --logits logits.pt",
            "",
            "`images.pt` is a tensor of prepared images (torch.save), and `logits.pt` becomes one.",
            "",
        ]
    )


def read_outputs(about: Mapping[str, Any]) -> list[str]:
    """The net's outputs by name, in their order.

    Raises:
        ConfigError: there are more or fewer of them than the net has, or a name is not plain.
    """
    names = list_outputs(about)
    if len(names) != int(about["out_channels"]):
        raise ConfigError(f"names {len(names)} outputs of {about['out_channels']}", where="the model file")
    return [hold_plain(str(name)) for name in names]


def hold_plain(text: str) -> str:
    """The text, if no reader could take it for more than words.

    Raises:
        ConfigError: it has a character that begins an expression, a reference or a macro, or another unusual one.
    """
    if _PLAIN.fullmatch(text) is None or len(text) > 500:
        raise ConfigError(
            f"{text[:60]!r} is no plain name, and a bundle's reader evaluates such words",
            where="the model file",
            advice="Use --format onnx or torchscript, which hold no such words",
        )
    return text


def _say(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_say(one) for one in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{hold_plain(str(key))} {_say(one)}" for key, one in value.items())
    return str(value) if isinstance(value, int | float) else hold_plain(str(value))
