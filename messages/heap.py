"""How a process's heap gives back what it no longer needs.

A chunk of a tensor is a block of about a megabyte that one thread allocates and another frees, beside small things that
live long. glibc raises its threshold for mapping a block of its own with the first such block that is freed
(mallopt(3), M_MMAP_THRESHOLD), and then carves chunks out of its arenas, where what lives long keeps the holes between
from being given back. Measured (`benchmarks.rounds`, a coordinator's peak above idle): 12 sites of 10 MB 50 MB without,
28 MB with; 30 sites of 30 MB 124 MB and 114 MB, so there most of it is something else.
"""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
LARGE = 256 * 2**10


def map_large_blocks() -> bool:
    """Have every block from `LARGE` bytes on mapped on its own and unmapped when it is freed; False without glibc."""
    libc = ctypes.CDLL(None)
    return bool(hasattr(libc, "mallopt") and libc.mallopt(_M_MMAP_THRESHOLD, LARGE))
