"""Every random choice of training comes from here: hashed from (seed, round, site, purpose), never the clock."""

from __future__ import annotations

from hashlib import sha256

import numpy as np

from messages import codec


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) from what it is for; differs for any different parts."""
    return int.from_bytes(sha256(codec.pack(list(parts))).digest()[:8], "big") >> 1


def make_generator(key: int, step: int, row: int = 0) -> np.random.Generator:
    """The random numbers of one step: Philox (Salmon et al. 2011) under `key`, counter set by the step.

    The choices of step n are the same whether or not the steps before it were drawn in this process.

    Args:
        row: from 1, of one patch in the step; 0: what the whole step shares.
    """
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, row, step]))
