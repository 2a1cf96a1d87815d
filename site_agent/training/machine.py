"""The machine under the training process: torch set up for the same bits each time, and what decides those bits."""

from __future__ import annotations

import platform
from typing import Any, Literal

import numpy as np
import torch

from messages.ground.errors import WorkFailed
from messages.reasons import Reason
from nets.monai_parts import MONAI_VERSION


class GpuGone(WorkFailed):
    """The site lends a GPU and none is to be seen; `messages.reasons.Reason.GPU_ERROR`."""

    reason = Reason.GPU_ERROR


def choose_device(gpus: list[int], threads: int, *, strict: bool) -> torch.device:
    """Set up torch for the same bits each time, and choose the device.

    The process sees only the GPUs that its site lends (CUDA_VISIBLE_DEVICES), so the first is number 0.

    Raises:
        GpuGone: none of them is to be seen. Training on the CPU instead would take days, and make other bits.
    """
    if gpus and not torch.cuda.is_available():
        raise GpuGone("the GPU that the site lends is not to be seen", where="limits.gpus", advice="Run nvidia-smi")
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=bool(gpus) and not strict)
    # By default the mode also fills every new tensor with NaN, 7 % of a round (benchmarks.training_loop). That makes
    # reading memory before it is written reproducible; nothing here does (a test trains both ways).
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of a module
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    kind: Literal["cuda", "cpu"] = "cuda" if gpus else "cpu"
    return torch.device(kind)


def describe_machine(device: torch.device, versions: dict[str, str]) -> dict[str, Any]:
    """The fields of `Prepared` that say on what it is trained; `versions`: what decides the bits beside libraries."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "device_type": "cuda" if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "versions": {**_library_versions(), **versions},
        "deterministic": not cuda or not torch.is_deterministic_algorithms_warn_only_enabled(),
    }


def _library_versions() -> dict[str, str]:
    """Of what decides the bits."""
    found = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "monai": MONAI_VERSION,
        "numpy": np.__version__,
    }
    if torch.cuda.is_available():
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
        found |= {"cuda": str(torch.version.cuda), "cudnn": str(cudnn)}
    return found
