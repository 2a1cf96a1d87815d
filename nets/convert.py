"""`python -m nets.convert MODEL --format NAME --out PATH`: a model file in a form that other tools load.

| format | is | loaded by |
|---|---|---|
| torchscript | one file, a trace of the net; "konsil.json" in it has what the model file says | torch.jit.load |
| onnx | one file, opset 17; the metadata property "konsil" has the same | ONNX Runtime and others |
| monai-bundle | a folder: configs, a TorchScript net, a page | MONAI's ConfigParser and bundle tools |

The net answers with its logits, as it does here, for any batch of the grid that it was trained on. An ensemble is one
net that combines its parts. What was written is loaded again and held against the original on invented images before it
gets its name. `TOLERANCE` says how near it has to be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from messages.ground.errors import KonsilError, RequestError, WorkFailed
from nets.bundle import NETWORK, describe_bundle, describe_inference, describe_use
from nets.export import load_model

TOLERANCE = {"torchscript": 1e-6, "onnx": 1e-3, "monai-bundle": 1e-6}
"""Largest difference of an output, as a part of the largest output (or of 1, where all are smaller)."""
OPSET = 17
INSTALL = "pip install 'konsil[onnx]'"
Ask = Callable[[torch.Tensor], torch.Tensor]


def convert_model(path: Path, form: str, out: Path, own: Path | None = None) -> float:
    """Write a model file in another form, whole or not at all; returns the largest relative difference of its outputs.

    Args:
        own: what a site kept of its own, as `nets.export.load_model` takes it.

    Raises:
        KonsilError: as `load_model`; also where `out` is there, a library is missing, or what was written answers
            otherwise than the original.
    """
    if out.is_dir():
        raise RequestError("is a folder", where=str(out), advice="Name another place with --out")
    net, about = _load_whole(path, own)
    images = _invent_images(about)
    with torch.inference_mode():
        wanted = net(images)
    with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".konsil-") as folder:
        beside = Path(folder, out.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing: what depends on values is found by the comparison
            ask = _WRITERS[form](net, images[:1], about, beside)
        difference = float((ask(images) - wanted).abs().max()) / max(1.0, float(wanted.abs().max()))
        if not difference <= TOLERANCE[form]:
            what = f"as {form} its outputs differ by {difference:.1e}"
            raise WorkFailed(what, where=str(path), advice="Use --format safetensors")
        beside.replace(out)
    return difference


def _load_whole(path: Path, own: Path | None) -> tuple[torch.nn.Module, dict[str, Any]]:
    try:
        return load_model(path, own)
    except WorkFailed as error:
        if own is not None:
            raise
        raise RequestError(
            f"is not a whole net: {error.what}",
            where=str(path),
            advice="A part stays at the sites (FedBN): add --own with a site's file, or use --format safetensors",
        ) from None


def _invent_images(about: dict[str, Any]) -> torch.Tensor:
    """Three images of the net's grid."""
    shape = (3, len(about["channels"]), *(int(edge) for edge in about["patch"]))
    return torch.from_numpy(np.random.default_rng(1).normal(size=shape).astype(np.float32))


def _write_torchscript(net: torch.nn.Module, example: torch.Tensor, about: dict[str, Any], out: Path) -> Ask:
    net.requires_grad_(requires_grad=False)  # whoever loads it only asks it
    traced = torch.jit.trace(net, example, check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, str(out), _extra_files={"konsil.json": json.dumps(about)})
    return _ask_torchscript(out)


def _ask_torchscript(path: Path) -> Ask:
    loaded = torch.jit.load(str(path))  # type: ignore[no-untyped-call]

    def ask(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            answer: torch.Tensor = loaded(images)
            return answer

    return ask


def _write_onnx(net: torch.nn.Module, example: torch.Tensor, about: dict[str, Any], out: Path) -> Ask:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise RequestError(f"--format onnx needs {error.name}", advice=f"Install it: {INSTALL}") from None
    axes = {"image": {0: "batch"}, "logits": {0: "batch"}}
    torch.onnx.export(
        net,
        (example,),
        str(out),
        dynamo=False,  # the exporter by torch.export takes half a minute for a small net, and needs a third library
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes=axes,
    )
    graph = onnx.load(str(out))
    onnx.helper.set_model_props(graph, {"konsil": json.dumps(about)})
    onnx.checker.check_model(graph)
    onnx.save(graph, str(out))
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"image": images.numpy()})[0])


def _write_bundle(net: torch.nn.Module, example: torch.Tensor, about: dict[str, Any], out: Path) -> Ask:
    from nets.monai_parts import MONAI_VERSION

    versions = {"monai": MONAI_VERSION, "torch": torch.__version__.split("+")[0], "numpy": np.__version__}
    said = {
        "configs/metadata.json": json.dumps(describe_bundle(about, versions), indent=2),
        "configs/inference.json": json.dumps(describe_inference(about), indent=2),
        "docs/README.md": describe_use(about),
    }
    for name, text in said.items():
        file = out / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (out / NETWORK).parent.mkdir()
    return _write_torchscript(net, example, about, out / NETWORK)


_WRITERS = {"torchscript": _write_torchscript, "onnx": _write_onnx, "monai-bundle": _write_bundle}


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="nets.convert", description="A model file in another form.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--format", required=True, choices=sorted(_WRITERS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--own", type=Path)
    options = parser.parse_args()
    try:
        difference = convert_model(options.model, options.format, options.out, options.own)
    except KonsilError as error:
        print(json.dumps({"what": error.what, "where": error.where, "advice": error.advice}), file=sys.stderr)  # noqa: T201
        return error.exit_status
    except OSError as error:
        told = {"what": f"cannot be written ({error.strerror})", "where": str(options.out), "advice": ""}
        print(json.dumps(told), file=sys.stderr)  # noqa: T201
        return 1
    print(json.dumps({"difference": difference}))  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
