"""Pictures for a page: an image in [0, 1] as a small PNG, as text."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PIXELS = 224


def draw_thumbnail(picture: NDArray[np.float64]) -> str:
    """A data URI (RFC 2397) of a grey picture; of a volume its middle slice.

    The first axis runs to the right, the second up, as sheets of NIfTI have them.
    """
    flat = picture[..., picture.shape[2] // 2] if picture.ndim == 3 else picture
    grey = np.rint(np.clip(flat, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(grey.T[::-1])).resize((PIXELS, PIXELS), Image.Resampling.NEAREST)
    content = BytesIO()
    image.save(content, format="PNG", optimize=True)
    return "data:image/png;base64," + b64encode(content.getvalue()).decode()
