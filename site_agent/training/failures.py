"""Errors of training → reason codes; their advice is in `messages.reasons`."""

from __future__ import annotations

import errno

import torch

from messages.reasons import Reason


def code_of(error: BaseException) -> Reason:
    """The code that may leave the site; the error's own words stay in the local log."""
    reason = Reason.TRAINING_ERROR
    named = getattr(error, "reason", None)
    if isinstance(named, Reason):  # our own errors carry their code
        reason = named
    elif isinstance(error, torch.cuda.OutOfMemoryError):
        reason = Reason.CUDA_OOM
    elif isinstance(error, MemoryError) or _cpu_allocator_gave_up(error):
        reason = Reason.OUT_OF_MEMORY
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = Reason.DISK_FULL
    elif isinstance(error, OSError) and error.errno == errno.ENOMEM:
        reason = Reason.OUT_OF_MEMORY
    elif isinstance(error, torch.AcceleratorError):
        reason = Reason.GPU_ERROR
    return reason


def _cpu_allocator_gave_up(error: BaseException) -> bool:
    """PyTorch's CPU allocator raises a plain RuntimeError."""
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in str(error) or "could not create a memory" in str(error)
    )


def spoils_the_process(error: BaseException) -> bool:
    """Whether the process cannot be used further: after most CUDA errors the context is dead."""
    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.cuda.OutOfMemoryError)
