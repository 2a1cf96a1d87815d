"""What this machine has, found without torch (importing it takes seconds)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def count_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def count_gpus() -> int:
    """NVIDIA GPUs that the driver shows; 0 where there is none."""
    listed = Path("/proc/driver/nvidia/gpus")
    if listed.is_dir() and (found := sum(1 for _ in listed.iterdir())):
        return found
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    try:
        answer = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return sum(line.startswith("GPU ") for line in answer.stdout.splitlines()) if answer.returncode == 0 else 0


def share_gpus(index: int, count: int) -> list[int]:
    """The GPU that site number `index` trains on, of `count`; none without a GPU."""
    return [index % count] if count else []


def share_threads(sites: int) -> int:
    """CPU threads for each of so many sites that train at once."""
    return max(1, count_cores() // sites)
