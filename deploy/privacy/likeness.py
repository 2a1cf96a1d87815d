"""How like an image a reconstruction is: PSNR and SSIM; pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Picture = NDArray[np.float64]


def find_psnr(truth: Picture, found: Picture) -> float:
    """Peak signal-to-noise ratio, dB, of images in [0, 1]; 100 where they are equal."""
    error = float(np.mean(np.square(truth - found)))
    return 100.0 if error < 1e-10 else -10 * float(np.log10(error))


def find_ssim(truth: Picture, found: Picture) -> float:
    """Structural similarity of images in [0, 1], 1 where they are equal (Wang et al. 2004).

    With the paper's window, a Gaussian of 1.5 pixels, and constants; in two or three dimensions.
    """
    small, large = 0.01**2, 0.03**2

    def blur(image: Picture) -> Picture:
        return np.asarray(gaussian_filter(image, 1.5, truncate=3.5))

    mean_a, mean_b = blur(truth), blur(found)
    var_a, var_b = blur(truth**2) - mean_a**2, blur(found**2) - mean_b**2
    both = blur(truth * found) - mean_a * mean_b
    score = (2 * mean_a * mean_b + small) * (2 * both + large)
    score /= (mean_a**2 + mean_b**2 + small) * (var_a + var_b + large)
    return float(np.mean(score))
