"""Where the demo puts what: one folder, and nothing outside it.

OUT/report.html  OUT/model.safetensors  OUT/ID.konsil-log  OUT/experiment.toml
OUT/run/       configuration, state and logs of broker, coordinator and sites
OUT/data/      each site's images
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from messages.ground.errors import RequestError, WorkFailed

MARK = ".konsil-demo"
LEAST_FREE = 1.5e9
"""Bytes: images, caches, the broker's streams (measured: about 0.3 GB) with room to spare."""


@dataclass(frozen=True, slots=True)
class DemoLayout:
    """The folder of one demo run."""

    out: Path

    @property
    def run(self) -> Path:
        return self.out / "run"

    @property
    def data(self) -> Path:
        return self.out / "data"

    @property
    def logs(self) -> Path:
        return self.run / "logs"

    @property
    def broker(self) -> Path:
        return self.run / "broker"

    @property
    def parties(self) -> Path:
        """Keys and certificates: the operator's folder, and each party's."""
        return self.run / "parties"

    @property
    def pacs(self) -> Path:
        """Each hospital's PACS, where the images come from one."""
        return self.run / "pacs"

    @property
    def coordinator(self) -> Path:
        """The coordinator's state: journal and blobs."""
        return self.run / "coordinator"

    @property
    def report(self) -> Path:
        return self.out / "report.html"

    @property
    def model(self) -> Path:
        return self.out / "model.safetensors"

    @property
    def experiment(self) -> Path:
        return self.out / "experiment.toml"

    @property
    def profile(self) -> Path:
        return self.run / "profile.toml"

    def log_of(self, name: str) -> Path:
        """The log file of one process."""
        return self.logs / f"{name}.log"

    def site_folder(self, name: str) -> Path:
        """A site agent's state folder."""
        return self.run / name

    def exported_log(self, experiment: str) -> Path:
        """The exported event log."""
        return self.out / f"{experiment}.konsil-log"

    def tidy_up(self) -> None:
        """Remove what only the run needed; configuration, logs, journal and stored updates stay (for replay)."""
        for folder in (self.data, self.broker, self.pacs, *self.run.glob("site-*/")):
            shutil.rmtree(folder, ignore_errors=True)


def default_out() -> Path:
    """demo-out/<date-time> in the current folder."""
    return Path("demo-out", time.strftime("%Y%m%d-%H%M%S"))


def prepare_layout(out: Path) -> DemoLayout:
    """Make the folder of a run, or take an earlier run's and clear it.

    Raises:
        RequestError: it is a file, or holds something that no demo wrote.
        WorkFailed: it cannot be made, or the disk is too full.
    """
    out = out.absolute()
    if out.exists() and not out.is_dir():
        raise RequestError("is not a folder", where=str(out), advice="Choose another place with --out")
    try:
        if out.is_dir() and any(out.iterdir()):
            if not (out / MARK).exists():
                raise RequestError(
                    "the folder is not empty, and no demo wrote it",
                    where=str(out),
                    advice="Choose another place with --out",
                )
            _refuse_running(out)
            shutil.rmtree(out)
        layout = DemoLayout(out)
        layout.logs.mkdir(parents=True)
        layout.data.mkdir()
        os.chmod(layout.run, 0o700)  # passwords lie in it
        (out / MARK).write_text(f"{os.getpid()}\n")
        free = shutil.disk_usage(out).free
    except OSError as error:
        raise WorkFailed(
            f"the folder cannot be made or cleared ({error.strerror})",
            where=str(out),
            advice="Choose another place with --out",
        ) from None
    if free < LEAST_FREE:
        raise WorkFailed(
            f"only {free / 1e9:.1f} GB are free, and a demo wants {LEAST_FREE / 1e9:.1f}",
            where=str(out),
            advice="Free disk space, or choose another place with --out",
        )
    return layout


def _refuse_running(out: Path) -> None:
    """A second demo in the folder of a running one would pull the ground from under it."""
    try:
        pid = int((out / MARK).read_text())
        command = Path("/proc", str(pid), "cmdline").read_bytes()
    except (OSError, ValueError):
        return
    if pid != os.getpid() and b"demo" in command:
        raise RequestError(
            f"a demo runs in it (process {pid})",
            where=str(out),
            advice="Choose another place with --out, or wait",
        )
