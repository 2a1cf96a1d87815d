"""One run: `konsil simulate`, or `deploy.baseline` on the same cases pooled. What is finished is kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.headline.dealing import deal_cases
from benchmarks.headline.studies import Run, Study
from deploy.demo.consortium import derive_secret
from deploy.demo.data import read_real
from deploy.demo.tabled import read_table_set
from deploy.demo.toml import write_toml
from messages.experiment import read_experiment
from messages.ground.durable import replace_file
from messages.ground.errors import RequestError, WorkFailed

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE"}


class Shelf:
    """The folder of a study's runs.

    OUT/SPLIT/data-SEED/SITE          links to the cases
    OUT/SPLIT/ARM/SEED/experiment.toml
    OUT/SPLIT/ARM/SEED/simulated/     what `konsil simulate` leaves
    OUT/SPLIT/ARM/SEED/pooled.json    or what `deploy.baseline` leaves
    """

    def __init__(self, study: Study, data: Path, out: Path) -> None:
        self.study, self._data, self._out = study, data, out.absolute()

    def folder_of(self, run: Run) -> Path:
        return self._out / run.place

    def images_of(self, run: Run) -> Path:
        """The sites' folders; only an even split is another with each seed."""
        return self._out / run.split / (f"data-{run.seed}" if run.split == "even" else "data")

    def result_of(self, run: Run) -> Path:
        """The file that a finished run leaves as its last."""
        inside = "pooled.json" if run.arm.plan is None else f"simulated/seed-{run.seed}/result.json"
        return self.folder_of(run) / inside

    def log_of(self, run: Run) -> Path:
        """The event log of a finished run."""
        identity = self.study.describe_run(run)["id"]
        return self.folder_of(run) / "simulated" / f"seed-{run.seed}" / f"{identity}.konsil-log"

    def is_done(self, run: Run) -> bool:
        return self.result_of(run).exists()

    def finish_run(self, run: Run, rounds: int | None, jobs: int, say: Callable[[str], None]) -> None:
        """Run it, unless it is finished.

        Raises:
            RequestError: what lies there is of another experiment file. WorkFailed: it did not come to an end.
        """
        folder = self.folder_of(run)
        file = self._place_experiment(run, rounds, folder)
        if self.is_done(run):
            return
        deal_cases(self._data, run.split, self.study.sites, run.seed, self.images_of(run))
        say(f"{self.study.name}: {run.place}")
        command = self._pool(run, file) if run.arm.plan is None else self._simulate(run, file, jobs)
        with (folder / "said.txt").open("a", encoding="utf-8") as said:
            status = subprocess.run(
                command, stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **PASSIVE}, check=False
            ).returncode
        if status != 0 or not self.is_done(run):
            raise WorkFailed(f"the run ended with status {status}", where=str(folder / "said.txt"))

    def _place_experiment(self, run: Run, rounds: int | None, folder: Path) -> Path:
        file = folder / "experiment.toml"
        content = write_toml(self.study.describe_run(run, rounds)).encode()
        if file.exists() and file.read_bytes() != content:
            raise RequestError("a run of other settings lies here", where=str(folder), advice="Remove it")
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(file, content)
        return file

    def _describe_table(self, folder: Path) -> Path | None:
        if self.study.described is None:
            return None
        file = folder / "described.toml"
        replace_file(file, write_toml(self.study.described).encode())
        return file

    def _simulate(self, run: Run, file: Path, jobs: int) -> list[str]:
        command = [sys.executable, "-m", "deploy.cli", "simulate", str(file), "--data", str(self.images_of(run))]
        command += ["--out", str(self.folder_of(run) / "simulated"), "--jobs", str(jobs), "--threads", "1"]
        described = self._describe_table(self.folder_of(run))
        return [*command, *(["--described-by", str(described)] if described else [])]

    def _pool(self, run: Run, file: Path) -> list[str]:
        """The sites' cases and secrets, so that each case is in the split that it has in the federation."""
        folder, images = self.folder_of(run), self.images_of(run)
        cache = folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        sites = {}
        for site in self.study.sites:
            (cache / f"{site}-state").mkdir(parents=True)
            sites[site] = {
                "dataset": self._describe_source(images / site, file, folder),
                "secret": derive_secret(run.seed, site).hex(),
                "cache": str(cache / site),
                "state": str(cache / f"{site}-state"),
            }
        replace_file(folder / "sites.json", json.dumps(sites).encode())
        command = [sys.executable, "-m", "deploy.baseline", "--experiment", str(file), "--threads", "1"]
        command += ["--sites", str(folder / "sites.json"), "--baselines", "pooled"]
        return [*command, "--out", str(self.result_of(run))]

    def _describe_source(self, images: Path, file: Path, folder: Path) -> dict[str, Any]:
        described = self._describe_table(folder)
        given = read_real(images) if described is None else read_table_set(images, read_experiment(file), described)
        plain = given.describe_source(images)
        return {**plain, "path": str(images)}
