"""`training.compile` of a site: torch compiles the net for training, where this machine can (Ansel et al. 2024)."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch

Forward = Callable[[torch.Tensor], torch.Tensor]
UNAVAILABLE = "compile-unavailable"
"""Code in the trainer's log: the net is trained as it is."""


def can_compile(device: torch.device, backend: str = "inductor") -> bool:
    """Whether a compiler is here that works: torch needs a C++ compiler on a CPU, and Triton on a GPU.

    It is found out before any round, since it decides a round's bits.
    """
    try:
        compiled = torch.compile(lambda x: x * 2 + 1, backend=backend, dynamic=False)
        return bool(compiled(torch.ones(8, device=device)).sum().item() == 24)
    except Exception as error:  # noqa: BLE001 (whatever is not there, the net is trained without it)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        print(f"{UNAVAILABLE}: {lines[0][:200]}", file=sys.stderr, flush=True)  # noqa: T201 (the local log)
        return False


def compile_net(net: torch.nn.Module, backend: str = "inductor") -> Forward:
    """The net's pass, compiled: for each shape apart, so that the bits do not depend on which shape came first.

    The weights are the net's own.
    """
    compiled: Forward = torch.compile(net, backend=backend, dynamic=False)
    return compiled
