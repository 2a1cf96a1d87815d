"""Which of a net's tensors travel, and which travel beside them: coordinator and site come to the same list by names.

torch names a tensor by its layer: `down.0.bn.running_mean`. A layer with a running mean is batch normalisation.
"""

from __future__ import annotations

import numpy as np

from messages.tensors.layout import TensorSpec

STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
"""What torch calls batch normalisation's buffers: measured, not trained."""
CONTROL = "control:"
"""Before a weight's name: the control variate for it (SCAFFOLD, FedDC). No layer of torch has such a name."""

Tensors = tuple[TensorSpec, ...]


def is_beside(name: str) -> bool:
    """Whether a tensor is none of the net's, and travels beside them."""
    return name.startswith(CONTROL)


def is_trained(spec: TensorSpec) -> bool:
    """Whether an optimiser steps this tensor: floating point, of the net, and no measured statistic, whose variance a
    step could make negative."""
    return (
        np.dtype(spec.dtype).kind == "f" and spec.name.rpartition(".")[2] not in STATISTICS and not is_beside(spec.name)
    )


def leave_batch_norms(built: Tensors) -> Tensors:
    """All but batch normalisation's weights and statistics (FedBN)."""
    layers = {spec.name.rpartition(".")[0] for spec in built if spec.name.endswith("running_mean")}
    return tuple(spec for spec in built if spec.name.rpartition(".")[0] not in layers)


def add_controls(built: Tensors) -> Tensors:
    """The same, and a control variate for each tensor that is trained (SCAFFOLD, FedDC)."""
    return built + tuple(spec.model_copy(update={"name": CONTROL + spec.name}) for spec in built if is_trained(spec))
