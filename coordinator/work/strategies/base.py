"""What a strategy is: what the coordinator keeps, how much each site counts, how blocks combine.

What a site is told to do differently stands in the strategy's table of the experiment file (`messages.strategies`),
which every site has. The rest is here, with a default for each that says "as federated averaging". A new strategy is a
model in `messages.strategies`, a file in this folder, and a row of `table`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import ClassVar

from coordinator.work.strategies.block import Block, Values
from messages.tensors.layout import Manifest, TensorSpec
from messages.tensors.travelling import is_trained

BLOCK = 2**18
"""Elements at a time. Smaller blocks fit a nearer cache, but then two threads wait for the interpreter's lock more than
they work (`python -m benchmarks.aggregation`)."""

Shares = tuple[float, ...]
Steps = tuple[int, ...]


class Strategy:
    """Federated averaging, until a subclass says otherwise. Pure: holds its parameters and nothing else."""

    parts: ClassVar[tuple[str, ...]] = ()
    """What the coordinator keeps from round to round: so many float32 vectors, by name, each with one number for every
    trained number of the model, in the manifest's order. They lie in one blob and never travel."""

    most_change: ClassVar[float] = math.inf
    """Magnitude of one number's change in one round that it still bears."""

    shares_trained: ClassVar[bool] = False
    """Whether `shares` counts for trained numbers alone. They need not add up to 1 then, and all else is averaged by
    the shares as they were given."""

    def begin(self, part: str) -> float:
        """What each number of a part is before the first round."""
        return 0.0

    def block_elements(self, sites: int) -> int:
        """Elements of a block: fewer where a strategy holds a block of every site at once."""
        return BLOCK

    def shares(self, shares: Shares, updates: Iterable[Block], steps: Steps) -> Shares:
        """How much each site counts, in the order of their names.

        Args:
            shares: by cases or equal, capped, as the experiment says; they add up to 1.
            updates: every block of every tensor, for a strategy that looks at all updates first; a pass over all files.
            steps: local steps that each site took, for a strategy that counts them (`StrategySpec.counts_steps`).
        """
        return shares

    def combine(self, block: Block) -> Values:
        """One block of the next model, in float64, before the one rounding; writes the block of each part into
        `block.target.after`. Called on several threads."""
        return block.mean()

    def memory(self, manifest: Manifest) -> Manifest | None:
        """How the blob of `parts` is laid out for a model; None where nothing is kept."""
        if not self.parts:
            return None
        size = sum(spec.size for spec in manifest.tensors if is_trained(spec))
        tensors = tuple(TensorSpec(name=part, shape=(size,), dtype="float32") for part in self.parts)
        return Manifest(tensors=tensors, chunk_bytes=manifest.chunk_bytes)
