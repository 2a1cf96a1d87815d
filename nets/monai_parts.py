"""What Konsil uses of MONAI, and the only place that imports it.

`import monai` runs every module of MONAI. Some of them try libraries that Konsil's processes never call, such as
matplotlib for notebooks. Together those take about two of the 3.3 seconds of a processor that the import takes, at each
start of a training process. So they count as not installed while MONAI is imported; MONAI then does without them
(`monai.utils.optional_import`). Afterwards everybody can import them again. `python -m benchmarks.imports` prints the
times.

Two of MONAI's modules are given what they lack here: `swin_unetr` asks einops, which is not installed, only to move
axes; `dints` prints to standard output, over which our processes speak.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

UNUSED = (
    "matplotlib",
    "matplotlib.pyplot",
    "pandas",
    "scipy.optimize",
    "scipy.signal",
    "scipy.sparse",
    "scipy.spatial",
)
"""Import names that MONAI tries and that nothing in `__all__` calls."""


@contextmanager
def _hide_modules(names: tuple[str, ...]) -> Iterator[None]:
    """Importing these names fails inside, where they are not imported yet (None in `sys.modules`)."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


with _hide_modules(UNUSED):
    import monai
    from monai.inferers import sliding_window_inference
    from monai.losses import DiceCELoss, DiceLoss
    from monai.networks.nets import (
        AHNet,
        BasicUNet,
        DenseNet121,
        DiNTS,
        DynUNet,
        EfficientNetBN,
        ResNet,
        SegResNet,
        SwinUNETR,
        TopologyInstance,
        UNet,
        VNet,
        dints,
        swin_unetr,
    )
    from monai.transforms import AdjustContrast, GaussianSmooth, NormalizeIntensity, RandSimulateLowResolution


def _move_axes(tensor: Any, pattern: str) -> Any:
    """`einops.rearrange` of a pattern that only moves axes: "b c h w -> b h w c"."""
    before, after = (side.split() for side in pattern.split("->"))
    return tensor.permute([before.index(axis) for axis in after])


class _LineOnCpu(TorchFunctionMode):
    """`torch.linspace` has values, also where everything else is made on torch's meta device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        on_cpu = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **(kwargs or {}), **on_cpu)


def build_swin_unetr(**settings: Any) -> torch.nn.Module:
    """MONAI's `SwinUNETR`, which looks at values while it is built (the chance to drop each block)."""
    with _LineOnCpu():
        net: torch.nn.Module = SwinUNETR(**settings)
    return net


class SupervisedUNet(DynUNet):  # type: ignore[misc]  # MONAI is not typed
    """MONAI's `DynUNet`, which keeps no output of its levels after a pass: they hold the pass's memory, and cannot be
    copied."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = super().forward(x)
        self.heads[:] = [torch.empty(0)] * len(self.heads)
        return out


swin_unetr.rearrange = _move_axes
dints.print = lambda *_: None
MONAI_VERSION = str(monai.__version__)

__all__ = [
    "MONAI_VERSION",
    "AHNet",
    "AdjustContrast",
    "BasicUNet",
    "DenseNet121",
    "DiNTS",
    "DiceCELoss",
    "DiceLoss",
    "EfficientNetBN",
    "GaussianSmooth",
    "NormalizeIntensity",
    "RandSimulateLowResolution",
    "ResNet",
    "SegResNet",
    "SupervisedUNet",
    "TopologyInstance",
    "UNet",
    "VNet",
    "build_swin_unetr",
    "sliding_window_inference",
]
