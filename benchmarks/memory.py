"""Peak memory of running processes: anonymous and shared pages, sampled; mapped files are the kernel's to drop."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

INTERVAL = 0.02


def resident(pid: int) -> int:
    """RssAnon + RssShmem of a process in bytes (proc(5)); 0 where it is gone."""
    try:
        lines = Path("/proc", str(pid), "status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, its threads and its waited-for children, in seconds (proc(5), stat)."""
    try:
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(value) for value in fields[11:15]) / 100


def children(pid: int) -> list[int]:
    """Direct children of a process's threads."""
    found: list[int] = []
    for task in Path("/proc", str(pid), "task").glob("*/children"):
        try:
            found += [int(word) for word in task.read_text().split()]
        except OSError:
            continue
    return found


class Sampler:
    """Samples named processes until stopped; `peaks` and `now` are bytes by name."""

    def __init__(self, processes: Mapping[str, int], interval: float = INTERVAL) -> None:
        self._processes = dict(processes)
        self._interval = interval
        self._stop = threading.Event()
        self.peaks = dict.fromkeys(processes, 0)
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            for name, size in sizes(self._processes).items():
                self.peaks[name] = max(self.peaks[name], size)
            if self._stop.wait(self._interval):
                return


def sizes(processes: Mapping[str, int]) -> dict[str, int]:
    """What each process holds now, bytes by name."""
    return {name: resident(pid) for name, pid in processes.items()}


def loopback_bytes() -> int:
    """Bytes that have crossed the loopback interface since boot, each once (proc_net_dev)."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            return int(rest.split()[0])
    return 0
