"""What Konsil uses of MONAI, and the only place that imports it.

`import monai` runs every module of MONAI. Some of them try libraries that Konsil's processes never call, such as
matplotlib for notebooks. Together those take about two of the 3.3 seconds of a processor that the import takes, at each
start of a training process. So they count as not installed while MONAI is imported; MONAI then does without them
(`monai.utils.optional_import`). Afterwards everybody can import them again. `python -m benchmarks.imports` prints the
times.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
    from monai.networks.nets import SegResNet, UNet, VNet
    from monai.transforms import NormalizeIntensity

MONAI_VERSION = str(monai.__version__)

__all__ = [
    "MONAI_VERSION",
    "DiceCELoss",
    "DiceLoss",
    "NormalizeIntensity",
    "SegResNet",
    "UNet",
    "VNet",
    "sliding_window_inference",
]
