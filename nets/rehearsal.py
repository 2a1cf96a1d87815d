"""The rehearsal model: seeded numbers in tensors of one size, without torch."""

from __future__ import annotations

import numpy as np

from messages.tensors.layout import Manifest, TensorSpec, views
from nets.registry import RehearsalSpec


def rehearsal_model(spec: RehearsalSpec, seed: int) -> tuple[Manifest, bytearray]:
    """Manifest and buffer of the model before round 1: standard normal float32, the same for the same seed."""
    manifest = Manifest(
        tensors=tuple(
            TensorSpec(name=f"tensor-{number:03}", shape=(spec.elements,), dtype="float32")
            for number in range(spec.tensors)
        )
    )
    buffer = bytearray(manifest.nbytes)
    draw = np.random.Generator(np.random.PCG64(seed))
    for array in views(manifest, buffer).values():
        draw.standard_normal(dtype=np.float32, out=array)
    return manifest, buffer
