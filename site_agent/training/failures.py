"""Errors of training → reason codes; their advice is in `messages.reasons`."""

from __future__ import annotations

import errno

import torch
from torch.cuda import DeferredCudaCallError

from messages.ground.durable import is_out_of_space
from messages.ground.errors import PacsRefused, PacsUnreachable
from messages.reasons import Reason

_GPU_WORDS = (
    "CUDA error", "CUDA driver", "cuDNN error", "CUDNN_STATUS_", "CUBLAS_STATUS_", "CUSOLVER_STATUS_", "NVML",
    "cudaGetDeviceCount", "No CUDA GPUs are available", "Found no NVIDIA driver",
)  # fmt: skip


def code_of(error: BaseException) -> Reason:
    """The code that may leave the site; the error's own words stay in the local log."""
    reason = Reason.TRAINING_ERROR
    named = getattr(error, "reason", None)
    if isinstance(named, Reason):  # our own errors carry their code
        reason = named
    elif isinstance(error, PacsUnreachable | PacsRefused):
        reason = Reason.RETRIEVE_FAILED
    elif isinstance(error, torch.cuda.OutOfMemoryError) or _gpu_memory_gave_out(error):
        reason = Reason.CUDA_OOM
    elif isinstance(error, MemoryError) or _cpu_allocator_gave_up(error):
        reason = Reason.OUT_OF_MEMORY
    elif isinstance(error, OSError) and is_out_of_space(error):
        reason = Reason.DISK_FULL
    elif isinstance(error, OSError) and error.errno == errno.ENOMEM:
        reason = Reason.OUT_OF_MEMORY
    elif isinstance(error, torch.AcceleratorError | DeferredCudaCallError) or _gpu_library_failed(error):
        reason = Reason.GPU_ERROR
    return reason


def _gpu_memory_gave_out(error: BaseException) -> bool:
    """Outside PyTorch's allocator: cudaErrorMemoryAllocation, and what the libraries make of it."""
    words = str(error)
    if isinstance(error, torch.AcceleratorError):
        return "CUDA error: out of memory" in words
    return isinstance(error, RuntimeError) and "_STATUS_ALLOC_FAILED" in words


def _gpu_library_failed(error: BaseException) -> bool:
    """cuDNN, cuBLAS, NVML and the driver, too, raise a plain RuntimeError; so does a GPU that is gone."""
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _GPU_WORDS)


def _cpu_allocator_gave_up(error: BaseException) -> bool:
    """PyTorch's CPU allocator raises a plain RuntimeError."""
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator" in str(error) or "could not create a memory" in str(error)
    )


def spoils_the_process(error: BaseException) -> bool:
    """Whether the process cannot be used further: after most CUDA errors the context is dead."""
    return code_of(error) is Reason.GPU_ERROR
