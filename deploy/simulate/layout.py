"""Where a simulation puts what: one folder, which one simulation has at a time.

OUT/comparison.html
OUT/seed-1/            a run: report.html, model.safetensors, ID.konsil-log, experiment.toml, result.json, run/
OUT/seed-1/FedAdam/    the same, where several strategies are compared
OUT/seed-1/data/       the sites' images, which all strategies of a seed share
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.demo.layout import DemoLayout
from messages.ground.errors import RequestError, WorkFailed

MARK = ".konsil-simulation"
ADVICE = "Choose another place with --out"


@dataclass(frozen=True, slots=True)
class StudyLayout:
    """The folder of one simulation."""

    out: Path

    @property
    def comparison(self) -> Path:
        """The page over seeds and strategies."""
        return self.out / "comparison.html"

    @property
    def logs(self) -> Path:
        """What the workers say."""
        return self.out / "logs"

    def images_of(self, seed: int) -> DemoLayout:
        """The folder whose `data` holds a seed's images."""
        return DemoLayout(self.out / f"seed-{seed}")

    def run_of(self, seed: int, strategy: str | None) -> DemoLayout:
        """The folder of a run; `strategy` None: only one is run."""
        folder = self.out / f"seed-{seed}"
        return DemoLayout(folder if strategy is None else folder / strategy)


def result_file(layout: DemoLayout) -> Path:
    """What a finished run leaves as its last."""
    return layout.out / "result.json"


def default_out() -> Path:
    """simulate-out/<date-time> in the current folder."""
    return Path("simulate-out", time.strftime("%Y%m%d-%H%M%S"))


def clear_run(layout: DemoLayout) -> None:
    """Make a run's folder as it is before it begins; a seed's images stay."""
    shutil.rmtree(layout.run, ignore_errors=True)
    for file in (layout.report, layout.model, layout.experiment, result_file(layout)):
        file.unlink(missing_ok=True)
    layout.logs.mkdir(parents=True)


def tidy_run(layout: DemoLayout, sites: Sequence[str]) -> None:
    """Remove the sites' state; what replay needs stays."""
    for site in sites:
        shutil.rmtree(layout.site_folder(site), ignore_errors=True)


@contextmanager
def claim_folder(out: Path) -> Iterator[StudyLayout]:
    """Have the folder for oneself: a new one, an empty one, or an earlier simulation's, which is gone on with.

    Raises:
        RequestError: it is a file, holds something that no simulation wrote, or another simulation runs in it.
        WorkFailed: it cannot be made.
    """
    out = out.absolute()
    if out.exists() and not out.is_dir():
        raise RequestError("is not a folder", where=str(out), advice=ADVICE)
    mark = out / MARK
    if out.is_dir() and any(out.iterdir()) and not mark.exists():
        raise RequestError("the folder is not empty, and no simulation wrote it", where=str(out), advice=ADVICE)
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(mark, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise WorkFailed(f"the folder cannot be made ({error.strerror})", where=str(out), advice=ADVICE) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # flock(2): let go of where its process ends
        except OSError:
            raise RequestError("another simulation runs in it", where=str(out), advice=f"{ADVICE}, or wait") from None
        yield StudyLayout(out)
    finally:
        os.close(descriptor)
