"""What a simulated site costs: CPU of `konsil simulate`'s own process for a site's part in a round, training left out.

    python -m benchmarks.simulation --sites 10 100 1000 --megabytes 1 --rounds 4 --json

The whole consortium is in this process, so a site's part is all of it: its agent, its share of coordinator and broker,
and of the researcher who looks on. The null trainer is a process of its own, and not counted. The first round is left
out. Memory is this process's (RssAnon + RssShmem).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.memory import resident
from deploy.demo.experiments import glioma_demo
from deploy.demo.layout import DemoLayout
from deploy.demo.processes import Child, Children
from deploy.simulate.crew import Crew
from deploy.simulate.run import RunOrder, run_simulation
from deploy.simulate.wishes import Faults
from deploy.story.story import ExperimentStory
from messages.experiment import Experiment
from messages.ground import kernel, settings

NULL = (sys.executable, "-m", "site_agent.training.null", "--cases", "40", "--seconds", "0")
TENSORS = 10


class NoImages:
    """An empty folder a site: the null trainer reads none."""

    cases, first = 0, True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def bring_images(self, children: Children) -> list[Child]:
        del children
        return []

    def count_written(self) -> int:
        return 0

    def describe_source(self, site: str) -> dict[str, Any]:
        folder = self._folder / site
        folder.mkdir(parents=True, exist_ok=True)
        return {"source": "brats", "path": folder, "labels": {"1": "NCR", "2": "ED", "3": "ET"}}

    def tell_origins(self) -> Mapping[str, str]:
        return {}

    def close(self) -> None:
        pass


class Stopwatch:
    """A view that notes the CPU time at the end of each round."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def show_story(self, story: ExperimentStory, now: float, coordinator_at: float | None) -> None:
        if story.completed_rounds > len(self.marks):
            self.marks.append((time.process_time(), time.monotonic()))

    def close_view(self, story: ExperimentStory) -> None:
        pass


def describe_experiment(sites: int, rounds: int, megabytes: float) -> Experiment:
    plain = glioma_demo(rounds=rounds, seed=1, sites=[f"site-{number:04d}" for number in range(sites)])
    plain["net"] = {"name": "Rehearsal", "tensors": TENSORS, "kilobytes": round(1000 * megabytes / TENSORS)}
    plain["training"] |= {"local_epochs": None, "local_steps": 1}
    plain["training"].pop("local_epochs")
    plain["rounds"] |= {"enrol_within": "2h", "train_within": "2h"}
    plain["keep_updates"] = "none"
    return settings.parse_settings(plain, Experiment, "benchmark")


def measure_sites(sites: int, rounds: int, megabytes: float, jobs: int, step_seconds: float = 1.0) -> dict[str, Any]:
    """One simulation."""
    with tempfile.TemporaryDirectory(prefix="konsil-simulation-") as folder:
        layout = DemoLayout(Path(folder) / "run")
        order = RunOrder(
            describe_experiment(sites, rounds, megabytes), layout, 1, False, Faults(), step_seconds=step_seconds
        )
        crew = Crew(jobs, Path(folder) / "logs", program=NULL)
        watch = Stopwatch()
        began = time.monotonic()
        try:
            outcome = run_simulation(order, NoImages(Path(folder) / "data"), crew, watch, lambda _text: None)
        finally:
            crew.close()
        cpu = [later[0] - earlier[0] for earlier, later in zip(watch.marks, watch.marks[1:], strict=False)]
        wall = [later[1] - earlier[1] for earlier, later in zip(watch.marks, watch.marks[1:], strict=False)]
        return {
            "sites": sites,
            "state": outcome.story.phase,
            "cpu_ms_per_site_round": round(1000 * statistics.median(cpu) / sites, 2),
            "round_seconds": round(statistics.median(wall), 2),
            "seconds": round(time.monotonic() - began, 1),
            "memory_mb": round(resident(os.getpid()) / 1e6),
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--megabytes", type=float, default=1.0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    kernel.allow_many_files()
    for sites in options.sites:
        found = measure_sites(sites, options.rounds, options.megabytes, options.jobs)
        print(
            json.dumps(found) if options.json else "  ".join(f"{key} {value}" for key, value in found.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
