"""What every net says of itself: parameters, how it is built, what fits it, and what the tests hold it to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from messages.ground.settings import Settings
from messages.tensors.layout import Manifest

if TYPE_CHECKING:
    import torch

SMALLEST_EDGE = 8
"""Voxels along an edge of the smallest patch that an experiment file may name."""
SEGMENTATION = frozenset({"segmentation"})
"""Tasks of nets with logits for each voxel: (B, outputs, *grid)."""
CLASSIFICATION = frozenset({"classification", "regression"})
"""Tasks of nets with logits for each case: (B, outputs)."""
NORM_LEAST = 2
"""Voxels that a norm over a grid needs: over a single one it is nothing, and torch refuses it in training.

The last batch of an epoch may hold one case, so that a batch does not help.
"""


@dataclass(frozen=True, slots=True)
class NetSize:
    """How large a net is.

    Attributes:
        parameters: elements that travel: weights and averaged buffers.
        kept_bytes: what one sample's forward pass keeps in memory until its backward pass, in float32.
    """

    parameters: int
    kept_bytes: int


class NetSpec(Settings):
    """Parameters of one net. Subclasses name their paper and MONAI class.

    A new net is one file with one subclass, one line in `nets.registry`, and one row in docs/experiment-file.md;
    `tests/unit/nets/test_each_net.py` then holds it to all that is said here.

    Parameters and buffers travel and are averaged; so are the running statistics of batch norms, as in McMahan et al.'s
    federated averaging of a whole model. Its counters do not travel (`nets.weights`).
    """

    name: str
    tasks: ClassVar[frozenset[str]] = SEGMENTATION
    """Kinds of task (`task.kind`) that it can learn."""
    foreign: ClassVar[bool] = False
    """Whether only a trainer of a site's own knows what its tensors mean."""
    dimensions: ClassVar[frozenset[int]] = frozenset({2, 3})
    """Spatial dimensions in which it exists: 2, 3 or both."""
    deterministic_on_cuda: ClassVar[frozenset[int]] = frozenset({2, 3})
    """Dimensions in which every operation has a backward pass that gives the same bits on a GPU."""
    batch_norm: ClassVar[bool] = False
    """Whether it has batch normalisation whatever its parameters; where they decide, `norm` says it."""
    tried: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    """Parameters with which the tests build it; small ones, where it can be small."""

    def build(self, inputs: int, outputs: int, dims: int) -> torch.nn.Module:
        """The net: input (B, inputs, *grid) with `dims` edges, output logits as its tasks need them (see `tasks`).

        Draws its weights from torch's own generator, which `nets.build.build_net` seeds; on torch's meta device it
        draws nothing, and `nets.measure` counts.

        Raises:
            ConfigError: the name stands for something without a net.
        """
        raise NotImplementedError

    @property
    def keeps_statistics(self) -> bool:
        """Whether it keeps statistics of what it is trained on: they travel, and have no noise."""
        return self.batch_norm or getattr(self, "norm", None) == "batch"

    @property
    def supervised_levels(self) -> int:
        """Outputs beside the last one that it is trained by (deep supervision): then its output in training mode is
        (B, 1 + levels, outputs, *grid), the finest first, all on the patch's own grid."""
        return 0

    def divisors(self, dims: int) -> tuple[int, ...]:
        """Along each axis: the edge of a patch must be a multiple of this."""
        return (1,) * dims

    def reductions(self, dims: int) -> tuple[int, ...]:
        """Along each axis: how many times smaller the coarsest level is than the patch. More than the divisor where a
        net rounds what is odd."""
        return self.divisors(dims)

    def least_voxels(self) -> int:
        """Voxels of a patch that must be left at the coarsest level for training."""
        return 1

    def find_misfit(self, inputs: int, outputs: int, dims: int) -> str | None:
        """Why the net cannot have so many inputs, outputs or dimensions; None where it can."""
        return None

    def smallest_patch(self, dims: int) -> tuple[int, ...]:
        """The smallest patch on which it trains, as an experiment file may name it."""
        reductions = self.reductions(dims)
        edges = [-(-SMALLEST_EDGE // one) * one for one in reductions]
        left = prod(edge // one for edge, one in zip(edges, reductions, strict=True))
        return (*edges[:-1], edges[-1] * -(-self.least_voxels() // left))

    def draw_without_net(self, seed: int) -> tuple[Manifest, bytearray] | None:
        """The initial model of a name that stands for no net; None where there is one to build."""
        return None

    def size_without_net(self) -> NetSize | None:
        """The size of what `draw_without_net` makes; None where there is a net to measure."""
        return None
