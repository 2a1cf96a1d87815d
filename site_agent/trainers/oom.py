"""Whether the kernel's out-of-memory killer struck: how many processes it has ended, as far as that can be read.

The count is raised before the signal is sent (Linux `mm/oom_kill.c`), so it is there when the process's end is seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")

_COUNT = re.compile(r"^oom_kill (\d+)$", re.MULTILINE)


def count_kills() -> int | None:
    """Processes ended so far in this agent's control group, trainers included; None where no count can be read.

    In the order of preference: cgroup v2 `memory.events` (Linux `admin-guide/cgroup-v2`, whose count holds kills of
    any out-of-memory killer), cgroup v1 `memory.oom_control`, and the whole machine's count in `/proc/vmstat`.
    """
    for file in _count_files():
        try:
            found = _COUNT.search(file.read_text())
        except OSError:  # not this version of cgroups, or hidden from the service
            continue
        if found is not None:
            return int(found[1])
    return None


def _count_files() -> Iterator[Path]:
    try:
        groups = (ROOT / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        groups = []
    mounted = ROOT / "sys/fs/cgroup"
    for line in sorted(groups, key=lambda one: not one.startswith("0::")):
        number, controllers, place = line.split(":", 2)
        if number == "0" and not controllers:
            yield mounted / place.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            yield mounted / "memory" / place.lstrip("/") / "memory.oom_control"
    yield ROOT / "proc/vmstat"
