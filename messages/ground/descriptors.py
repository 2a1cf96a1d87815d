"""How many files a process may hold open: raised as far as the system lets an ordinary user raise it.

The soft limit is 1,024 for the sake of select(2) (https://0pointer.net/blog/file-descriptor-limits.html), which
nothing here uses. A coordinator holds one descriptor for each mapped update that it averages (Python's mmap keeps
one) and two for each update that it receives: 1,000 sites need more.
"""

from __future__ import annotations

import resource

ENOUGH = 65536


def allow_many(most: int = ENOUGH) -> int:
    """Raise the soft limit to the hard one, or to `most` if that is less; returns what holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
