"""Whether a data set is still the one that the site joined with: looked at before each task, warm trainer or not.

And once more, where it has a list of the withdrawn, before what came of the task leaves: updates and scores.

Names, sizes and times of change of its images, no voxel: some 35 ms for a thousand files on a local disk. On a
thread of its own, since a network mount that hangs must not hang the agent.

A data set from DICOM was prepared on disk: it is the same while the state that the experiment was joined with is whole,
and the list of the withdrawn is as it was. The PACS is not asked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import structlog

from messages.ground.clock import Clock
from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.data.lists import ListBoard
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.filenames import nifti_stem
from site_agent.datasets.layouts import list_entries
from site_agent.datasets.opening import is_folder
from site_agent.datasets.tables.config import TableColumns
from site_agent.datasets.tables.rows import read_table
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.prepared import pins, store, withdrawals
from site_agent.disk.secret import secret_of

log = structlog.get_logger()

DEEPEST = 2
"""Folders below the data set's own that are looked into where no table names its files: images lie one below."""


@dataclass(frozen=True)
class Look:
    """What a data set looks like. `files`: how many count."""

    digest: str
    files: int


def look_at(config: DatasetConfig) -> Look:
    """Look at a data set's folder.

    Raises:
        DataError: the folder is missing or may not be read.
    """
    digest, files = sha256(), 0
    for path in _counted_files(config):
        try:
            status = path.stat()
            said = f"{status.st_size}|{status.st_mtime_ns}"
        except OSError:
            said = "unreadable"
        digest.update(f"{path}|{said}\n".encode(errors="surrogateescape"))
        files += 1
    return Look(digest.hexdigest(), files)


def _counted_files(config: DatasetConfig) -> Iterator[Path]:
    """The files that decide what is trained on: images and labels, dataset.json or table, the list of the withdrawn."""
    table = None if config.table is None else config.path / config.table.file
    yield from _image_files(config.path, DEEPEST) if config.table is None else _named_files(config.path, config.table)
    for path in (config.path / "dataset.json", config.withdrawn, table):
        if path is not None and os.path.lexists(path):
            yield path


def _named_files(folder: Path, columns: TableColumns) -> Iterator[Path]:
    """The files that a table names, however deep; none where it says nothing that can be read."""
    list_entries(folder)
    with contextlib.suppress(DataError):  # the table itself counts, and is told where cases are read
        for row in read_table(folder, columns).rows:
            yield from (file for file in (*row.images, row.mask) if file is not None)


def _image_files(folder: Path, deep: int) -> Iterator[Path]:
    for entry in list_entries(folder):
        if nifti_stem(entry.name) is not None:
            yield Path(entry.path)
        elif deep and is_folder(entry):
            try:
                yield from _image_files(Path(entry.path), deep - 1)
            except DataError:
                yield Path(entry.path)  # one folder that cannot be entered: seen as such, now and later


def look_at_prepared(config: DicomDataset, name: str, state: Path, cache: Path) -> Look:
    """Look at the state of a data set from DICOM that an experiment trains on; before it is prepared, at nothing.

    Args:
        cache: the experiment's folder of caches, where that state is written down.
    """
    pin = pins.read_pin(cache)
    if pin is None:
        return Look("not prepared", 1)
    cases = store.count_whole_cases(store.set_folder(state, name, pin.fingerprint))
    try:
        if not withdrawals.still_stands(pin, name, config, state, lambda: secret_of(state)):
            return Look("withdrawn", 1)
    except DataError as error:
        log.error("the list of the withdrawn cannot be used", dataset=name, error=str(error))
        return Look("withdrawn", 1)
    return Look(pin.fingerprint, cases) if cases is not None else Look("cases are gone", 1)


def judge_data(joined: str | None, now: Look | Reason | None) -> Reason | None:
    """What stands against a task: `joined` is the digest at joining (None: joining now), `now` None: unreadable.

    Images that are all gone are a mount that is gone, not a change.
    """
    if now is None:
        return Reason.DATASET_GONE
    if isinstance(now, Reason):
        return now
    if joined is None or joined == now.digest:
        return None
    return Reason.DATASET_CHANGED if now.files else Reason.DATASET_GONE


Then = Callable[[Look | Reason], None]
"""Told what was seen, or why nothing was."""


class DataGuard:
    """Looks at data sets, one look at a time for an experiment.

    Args:
        post: hands a closure to the main loop.
        state: the site's state directory, under which data sets from DICOM are prepared.

    Attributes:
        lists: how the lists of the withdrawn stand.
    """

    def __init__(
        self,
        datasets: Mapping[str, DatasetConfig | DicomDataset],
        post: Callable[[Callable[[], None]], None],
        clock: Clock,
        state: Path = Path(),
    ) -> None:
        self._datasets, self._post, self._clock, self._state = datasets, post, clock, state
        self._then: dict[tuple[str, str], Then] = {}
        self.lists = ListBoard(datasets, state)

    def has_list(self, dataset: str) -> bool:
        """Whether a data set names a list of the withdrawn."""
        config = self._datasets.get(dataset)
        return config is not None and config.withdrawn is not None

    def look_at_lists(self) -> None:
        """Look at every list of the withdrawn, on a thread of its own. Main loop's thread."""
        if self.lists.has_lists:
            self._clock.make_thread(self.lists.look_at_all, "lists").start()

    def look_at_data(self, experiment: str, dataset: str, then: Then, *, what: str = "task") -> None:
        """Look at a data set; `then` is called on the main loop with what was seen, or why it was not.

        Main loop's thread. While an earlier look for the same purpose still hangs, the newest `then` waits for it:
        nothing piles up.

        Args:
            what: the purpose, such as "task".
        """
        waits = (experiment, what) in self._then
        self._then[experiment, what] = then
        if not waits:
            self._clock.make_thread(self._look_on_thread, "data-guard", experiment, dataset, what).start()

    def _look_on_thread(self, experiment: str, dataset: str, what: str) -> None:
        seen: Look | Reason = Reason.DATASET_GONE
        try:
            config = self._datasets[dataset]
            if isinstance(config, DatasetConfig):
                seen = look_at(config)
            else:
                seen = look_at_prepared(config, dataset, self._state, self._state / "cache" / experiment)
        except DataError as error:
            log.error("the data set cannot be read", dataset=dataset, error=str(error))
        except KeyError:
            log.error("site.toml no longer names the data set", dataset=dataset)
        except Exception:  # whoever waits for the look would wait for ever
            log.critical("the data set cannot be looked at: a defect", dataset=dataset, exc_info=True)
            seen = Reason.TRAINING_ERROR
        self._post(lambda: self._then.pop((experiment, what))(seen))
        if dataset in self._datasets:
            self.lists.look_at_one(dataset)
