"""`masked32`: a weighted difference as whole numbers modulo 2^32, whose sum over all sites cannot wrap.

    q = rint((θ - θ_global) * s * w / W * 2^30 / c)

θ_global is the tensor as the site received it, c its *bound*: the power of two >= max(1, max |θ_global|). A difference
beyond c is clipped. w is the site's weight, W the weight of U2, s what shortens a difference to `update_norm_max`.
|q| <= 2^30 w/W + 1/2, so a sum over n sites is at most 2^30 + n/2 in magnitude: below 2^31 for up to 2^31 sites.
Only float32 tensors are encoded. Everything is computed in float64, block by block.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from messages.secure.context import Context

SCALE = 2.0**30
MOST_CLIPPED = 1e-4
"""Share of a site's elements that may be clipped; an update with more of them is refused (`update-out-of-range`)."""
BLOCK = 2**15
"""Elements at a time."""
_SLACK = 1e-6
"""Relative; what float64 rounds off norms is less."""
Floats = NDArray[np.float32]


def find_bound(received: Floats) -> float:
    """The bound c of a tensor: the smallest power of two >= max(1, max |element|); 1 where it is empty.

    Raises:
        ValueError: an element is not finite.
    """
    largest = max(1.0, float(np.max(received, initial=0)), -float(np.min(received, initial=0)))
    if not math.isfinite(largest):
        raise ValueError("the model holds NaN or infinity")
    fraction, exponent = math.frexp(largest)
    return 2.0 ** (exponent - 1 if fraction == 0.5 else exponent)


def find_share(context: Context, site: str) -> float:
    """w/W: the part that a site has in a sum of all of U2."""
    return context.weight_of[site] / context.whole


def sum_squares(trained: Floats, received: Floats) -> float:
    """Sum of the squared differences of one tensor: `find_shrink` takes the square root of all tensors' sum."""
    total = 0.0
    for new, old in _each_block(trained, received):
        difference = np.subtract(new, old, dtype=np.float64)
        total += float(difference @ difference)
    return total


def find_shrink(squares: float, norm_max: float | None) -> float:
    """What a difference is multiplied with so that its L2 norm is at most `norm_max`; 1 where it is already, or
    nothing is asked for."""
    norm = math.sqrt(squares)
    return 1.0 if norm_max is None or norm <= norm_max else norm_max / norm


def quantise_tensor(trained: Floats, received: Floats, *, share: float, shrink: float, out: NDArray[np.uint32]) -> int:
    """Encode one tensor's difference into `out`: flat, contiguous, as many words as elements.

    Args:
        trained: the tensor after training.
        received: the same as the site received it, of one shape.
        share: `find_share`.
        shrink: `find_shrink` over all tensors.

    Returns:
        How many elements were clipped to the bound.

    Raises:
        ValueError: shapes differ, or a number is not finite.
    """
    bound, clipped, start = find_bound(received), 0, 0
    numbers = out.view(np.int32)
    if numbers.shape != (received.size,):
        raise ValueError(f"{received.size} elements need as many words, not {numbers.shape}")
    for new, old in _each_block(trained, received):
        difference = np.subtract(new, old, dtype=np.float64)
        difference *= shrink
        magnitude = np.abs(difference)
        if not math.isfinite(float(magnitude.max())):
            raise ValueError("the update holds NaN or infinity")
        clipped += int(np.count_nonzero(magnitude > bound))
        np.clip(difference, -bound, bound, out=difference)
        difference *= share * SCALE / bound
        np.rint(difference, out=difference)
        numbers[start : start + difference.size] = difference
        start += difference.size
    return clipped


def is_out_of_range(clipped: int, elements: int) -> bool:
    """Whether more than one element in 10,000 was clipped."""
    return clipped > elements * MOST_CLIPPED


@dataclass(frozen=True, slots=True)
class Arrival:
    """What arrived of a round's updates.

    Attributes:
        part: the weights of U3 over those of U2.
        sites: number of sites in U3.
        reach: the largest magnitude that a word of an honest sum can have.
        unit: what a word is worth in every tensor (`messages.secure.shared`); None: that follows from its bound.
    """

    part: float
    sites: int
    reach: int
    unit: float | None = None


def find_arrival(context: Context, sites: Collection[str]) -> Arrival:
    """What a sum over `sites` (U3) can be."""
    weight = sum(context.weight_of[site] for site in sites)
    return Arrival(weight / context.whole, len(sites), int(SCALE) * weight // context.whole + len(sites))


@dataclass(frozen=True, slots=True)
class RestoredSum:
    """What was seen of a tensor, or by `+` of several, while they were restored.

    Attributes:
        largest: largest magnitude of a word.
        squares: sum of the squared elements of the mean difference.
        rounded: the largest sum of squares that rounding to whole numbers can have added.
        finite: whether the new tensor is.
    """

    largest: int = 0
    squares: float = 0.0
    rounded: float = 0.0
    finite: bool = True

    def __add__(self, other: RestoredSum) -> RestoredSum:
        return RestoredSum(
            max(self.largest, other.largest),
            self.squares + other.squares,
            self.rounded + other.rounded,
            self.finite and other.finite,
        )

    def is_sound(self, arrival: Arrival, norm_max: float | None) -> bool:
        """Whether this can be a sum of honest updates (else `sum-out-of-range`): no word beyond their reach, the mean
        difference no longer than `norm_max`, the model finite. Masks that did not cancel give words all over the range.
        """
        longest = math.inf if norm_max is None else norm_max * (1 + _SLACK) + math.sqrt(self.rounded)
        return self.finite and self.largest <= arrival.reach and math.sqrt(self.squares) <= longest


def restore_tensor(total: NDArray[np.uint32], received: Floats, arrival: Arrival, out: Floats) -> RestoredSum:
    """The new tensor out of an unmasked sum: `received` plus the mean difference, rounded to float32 once.

    Args:
        total: the sum's words, flat and contiguous.
        received: the round's model.
        arrival: `find_arrival`.
        out: contiguous float32 of `received`'s shape; may be the memory of `total`.

    Raises:
        ValueError: sizes differ.
    """
    unit = find_bound(received) / SCALE / arrival.part if arrival.unit is None else arrival.unit
    numbers, flat, seen, start = total.view(np.int32), out.reshape(-1), RestoredSum(), 0
    if numbers.shape != (received.size,) or out.shape != received.shape or not out.flags.c_contiguous:
        raise ValueError(f"a sum of {numbers.shape} words, a model of {received.shape} and room for {out.shape}")
    for (old,) in _each_block(received):
        words = numbers[start : start + old.size].astype(np.float64)
        largest = int(np.abs(words).max())
        words *= unit
        squares = float(words @ words)
        words += old
        with np.errstate(over="ignore"):
            flat[start : start + old.size] = words
        finite = bool(np.isfinite(flat[start : start + old.size]).all())
        start += old.size
        seen += RestoredSum(largest, squares, old.size * (unit * arrival.sites / 2) ** 2, finite)
    return seen


def _each_block(*tensors: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    """The same flat block of each; an empty tensor has none."""
    if any(one.shape != tensors[0].shape for one in tensors):
        raise ValueError(f"shapes differ: {[one.shape for one in tensors]}")
    flat = [one.reshape(-1) for one in tensors]
    for start in range(0, flat[0].size, BLOCK):
        yield tuple(one[start : start + BLOCK] for one in flat)
