"""A step's gradients by several processes: each takes a part of each batch, and the parts add up.

The loss of a batch is one number over all its patches (some losses count the batch as a whole), so that a mean of the
processes' losses would be another loss. Instead each process is told the others' outputs, and computes the whole loss.
Its gradient, by its own outputs alone, is its part of the whole one. So the sum of the parts is what one process
computes, but for rounding.

The leader alone holds an optimiser. It adds the parts, steps, and sends the weights with the next step. That moves as
many bytes as the all-reduce of DistributedDataParallel (Li et al. 2020, arXiv 2006.15704), and leaves checkpoints,
strategies and optimisers as they are with one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.distributed as dist

from site_agent.training.cases.sampling import Batch
from site_agent.training.tasks.base import Learner, cast_numbers, loss_of_outputs, weigh_batches

_MOST_AXES = 8


def find_obstacle(net: torch.nn.Module) -> str | None:
    """Why parts of a batch do not make what the whole makes, in words; None where they do."""
    for one in net.modules():
        if isinstance(one, torch.nn.modules.batchnorm._BatchNorm):
            return "its batch norms see a whole batch"
        if isinstance(one, torch.nn.modules.dropout._DropoutNd) and one.p > 0:
            return "its dropout draws for a whole batch"
        if getattr(one, "drop_prob", 0.0):
            return "its blocks are dropped by chance"
    return None


def split_rows(rows: int, size: int) -> list[slice]:
    """Which patches of a batch each of so many processes takes; the first ones take one more where it does not come
    out even, and the last ones none where there are too few."""
    ends = list(accumulate(rows // size + (rank < rows % size) for rank in range(size)))
    return [slice(begin, end) for begin, end in pairwise([0, *ends])]


def send_weights(net: torch.nn.Module, *, leads: bool) -> None:
    """Every process gets the leader's weights."""
    weights = torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    dist.broadcast(weights, 0)
    if not leads:
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(weights, net.parameters())


def add_gradients(
    net: torch.nn.Module,
    batches: Sequence[Batch],
    learner: Learner,
    *,
    precision: str,
    scale: float,
    rank: int,
    size: int,
    device: torch.device,
) -> torch.Tensor:
    """The gradients of one step, summed into the leader's net; the step's loss, detached, where there are patches.

    Args:
        scale: what the loss is multiplied by before the backward pass (mixed precision).
    """
    total = torch.zeros((), device=device)
    for (images, labels), share in weigh_batches(batches):
        rows = split_rows(len(images), size)
        own = None
        if rows[rank].stop > rows[rank].start:
            with cast_numbers(precision, device):
                own = net(images[rows[rank]]).float()
        pieces = _share_outputs(own, rows, rank, device)
        if own is not None:
            part = loss_of_outputs(learner, torch.cat(pieces), labels) * share
            (part * scale).backward()  # type: ignore[no-untyped-call]  # PyTorch leaves it untyped
            total += part.detach()
    parameters = list(net.parameters())
    whole = torch.cat([(torch.zeros_like(one) if one.grad is None else one.grad).reshape(-1) for one in parameters])
    dist.reduce(whole, 0)
    if rank == 0:
        begin = 0
        for one in parameters:
            if one.grad is not None:
                one.grad.copy_(whole[begin : begin + one.numel()].view_as(one))
            begin += one.numel()
    return total


def _share_outputs(
    own: torch.Tensor | None, rows: Sequence[slice], rank: int, device: torch.device
) -> list[torch.Tensor]:
    """Each process's outputs, in the order of the batch; only this one's have a way back."""
    told = torch.zeros(_MOST_AXES, dtype=torch.int64, device=device)
    if rank == 0 and own is not None:
        told[: own.ndim] = torch.tensor(own.shape, device=device)
    dist.broadcast(told, 0)
    shape = [edge for edge in told.tolist() if edge][1:]
    pieces = []
    for other, part in enumerate(rows):
        count = part.stop - part.start
        if not count:
            continue
        mine = other == rank and own is not None
        piece = own.detach().contiguous() if mine and own is not None else torch.empty((count, *shape), device=device)
        dist.broadcast(piece, other)
        pieces.append(own if mine and own is not None else piece)
    return pieces
