"""Many sites: what one more site costs the coordinator in a round, from 10 to 1,000 of them.

    python -m benchmarks.scale --sites 10,100,1000 --rounds 3 --json

The coordinator is the real one (service, shell, state machine, journal, blobs) on the bus in memory; the sites are a
`benchmarks.crowd`. Each number of sites runs in a process of its own. Processor time is the process's without the
threads of crowd and measuring, so the broker's routing of what the coordinator publishes is in it. Memory is the
highest RssAnon without what the broker's queues hold, over its value once all is set up and idle: the names and
keys that broker and crowd keep for each site are in it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from benchmarks.crowd import RESEARCHER, Crowd, definitions
from coordinator.config import CoordinatorConfig
from coordinator.record.journal import open_readonly
from coordinator.service import Coordinator
from messages import envelope, kinds
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from messages.experiment import Experiment
from messages.ground import kernel
from messages.tensors.layout import manifest_of, write_into

CONSORTIUM, EXPERIMENT = "demo", "exp-1"
MARKS = ("experiment-accepted", "round-start", "evaluation-start", "experiment-complete")
WITHIN = 900.0


def build(_experiment: Experiment, out: Path, manifest: Path, _within: float, *, kilobytes: int = 20) -> None:
    """An initial model of so many kilobytes in 20 tensors, without torch."""
    arrays = {f"block.{index}.weight": np.zeros(kilobytes * 50 // 4, np.float32) for index in range(20)}
    described = manifest_of(arrays)
    buffer = bytearray(described.nbytes)
    write_into(arrays, described, memoryview(buffer))
    out.write_bytes(buffer)
    manifest.write_text(described.model_dump_json())


def experiment(sites: tuple[str, ...], rounds: int) -> dict[str, Any]:
    return {
        "schema": 1,
        "id": EXPERIMENT,
        "sites": list(sites),
        "task": {"kind": "segmentation", "channels": ["T1"], "regions": {"WT": ["ED"]}},
        "data": {"dataset": "glioma"},
        "net": {"name": "UNet", "channels": [4, 8], "strides": [2]},
        "rounds": {"count": rounds, "enrol_within": WITHIN, "train_within": WITHIN},
        "keep_updates": 1,
    }


def thread_seconds(*threads: threading.Thread) -> float:
    """Processor time of running threads."""
    idents = [thread.ident for thread in threads if thread.ident is not None]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(ident)) for ident in idents)


class Peak(threading.Thread):
    """The highest RssAnon of this process without the bytes in the broker's queues, looked at 20 times a second."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(name="peak", daemon=True)
        self._broker, self._end = broker, threading.Event()
        self.highest = 0

    def now(self) -> int:
        """As of now, in bytes."""
        lines = Path("/proc/self/status").read_text().splitlines()
        anonymous = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
        return anonymous - sum(stream.size for stream in self._broker.streams.values())

    def run(self) -> None:
        while not self._end.wait(0.05):
            self.highest = max(self.highest, self.now())

    def stop(self) -> None:
        """Look no more."""
        self._end.set()
        self.join()


class Marks:
    """Wall and processor time at each event that opens or ends a phase."""

    def __init__(self) -> None:
        self.at: list[tuple[str, float, float]] = []
        self.others: tuple[threading.Thread, ...] = ()
        self.done = threading.Event()

    def heard(self, event: envelope.Event) -> None:
        """Note it, if it is one of them."""
        if event.kind in MARKS:
            self.at.append((event.kind, time.monotonic(), time.process_time() - thread_seconds(*self.others)))
        elif event.kind in ("experiment-failed", "experiment-aborted", "experiment-refused"):
            sys.stderr.write(f"{event.kind}: {event.body}\n")
        if event.kind.startswith("experiment-") and event.kind != "experiment-accepted":
            self.done.set()

    def spans(self, kind: str) -> list[tuple[float, float]]:
        """(wall, processor) seconds from each such mark to the next one."""
        return [(b[1] - a[1], b[2] - a[2]) for a, b in zip(self.at, self.at[1:], strict=False) if a[0] == kind]


def measure(count: int, rounds: int, folder: Path) -> dict[str, Any]:
    """One run with so many sites.

    Raises:
        TimeoutError: the experiment did not end.
    """
    sites = tuple(f"site-{number:04}" for number in range(1, count + 1))
    broker = MemoryBroker(definitions(CONSORTIUM, sites))
    marks = Marks()
    crowd = Crowd(broker, CONSORTIUM, {site: 10 + place % 7 for place, site in enumerate(sites)}, marks.heard)
    config = CoordinatorConfig.model_validate(
        {
            "schema": 1,
            "coordinator": {"consortium": CONSORTIUM, "state": folder, "sites": sites, "researchers": [RESEARCHER]},
            "limits": {"disk_reserve": 0},
        }
    )
    coordinator = Coordinator(
        config, connect=lambda _config, notice: MemoryBus(broker, "coordinator", on_notice=notice), build=build
    )
    running = threading.Thread(target=coordinator.run, name="coordinator")
    running.start()
    peak = Peak(broker)
    peak.start()
    bystanders = [thread for thread in threading.enumerate() if thread.name in ("bus-crowd", "peak")]
    marks.others = (threading.main_thread(), *bystanders)
    time.sleep(1.0)
    idle, peak.highest = peak.now(), 0
    body = kinds.ExperimentStart(experiment=experiment(sites, rounds))
    said = Author(CONSORTIUM, RESEARCHER, 1).write_event(
        "experiment-start", body, time=time.time(), experiment=EXPERIMENT, seq=1
    )
    broker.publish(RESEARCHER, said.key, said.raw)
    if not marks.done.wait(WITHIN):
        raise TimeoutError(f"{count} sites: no end within {WITHIN:.0f} s")
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    coordinator.stop()
    running.join()
    peak.stop()
    crowd.close()
    return summary(count, marks, peak.highest - idle, folder) | {"threads": threads, "descriptors_at_end": descriptors}


def summary(count: int, marks: Marks, memory: int, folder: Path) -> dict[str, Any]:
    """The row of one number of sites."""
    entries = [(entry.type, len(entry.encode())) for entry in open_readonly(folder)]
    rounds = marks.spans("round-start")
    return {
        "sites": count,
        "cpu_us_per_site_and_round": round(statistics.median(cpu for _wall, cpu in rounds) / count * 1e6),
        "cpu_us_per_site_joining": round(sum(cpu for _w, cpu in marks.spans("experiment-accepted")) / count * 1e6),
        "cpu_us_per_site_evaluating": round(sum(cpu for _w, cpu in marks.spans("evaluation-start")) / count * 1e6),
        "seconds_per_round": round(statistics.median(wall for wall, _cpu in rounds), 3),
        "memory_over_idle_mb": round(memory / 1e6, 1),
        "journal_bytes_per_site_and_round": round(sum(size for _type, size in entries) / count / (len(rounds) + 1)),
        "journal_entries": len(entries),
    }


def table(rows: list[Mapping[str, Any]]) -> str:
    """For a terminal: one line a number of sites."""
    names = list(rows[0])
    widths = [max(len(name), *(len(str(row[name])) for row in rows)) for name in names]
    lines = [names, *([str(row[name]) for name in names] for row in rows)]
    return "\n".join("  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)) for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sites", default="10,100,1000", help="numbers of sites, with commas between")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        structlog.configure(
            # The crowd sends no sign of life, which the coordinator notes of each site: warnings would hide errors.
            wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
            logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        )
        kernel.allow_many_files()
        print(json.dumps(measure(int(given.sites), given.rounds, given.one)))
        return
    rows: list[Mapping[str, Any]] = []
    for count in given.sites.split(","):
        with tempfile.TemporaryDirectory(prefix="konsil-scale-") as folder:
            command = [sys.executable, "-m", "benchmarks.scale", "--sites", count, "--rounds", str(given.rounds)]
            done = subprocess.run([*command, "--one", folder], stdout=subprocess.PIPE, check=True, text=True)
            rows.append(json.loads(done.stdout))
    print(json.dumps({"rows": rows}) if given.json else table(rows))


if __name__ == "__main__":
    main()
