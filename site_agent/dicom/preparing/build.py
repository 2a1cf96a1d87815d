"""Data sets from DICOM, prepared on disk: made or brought up to date, for the operator or for an experiment."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from messages.ground.durable import is_out_of_space
from messages.ground.errors import WorkFailed
from site_agent.datasets.config import DatasetConfig
from site_agent.dicom.base import Accounting
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.prepared import pins, store, withdrawals
from site_agent.dicom.prepared.accounts import dataset_of
from site_agent.dicom.prepared.store import Store
from site_agent.dicom.preparing.preparation import Preparation, Progress
from site_agent.disk.room import StateDiskFull


def prepare_dataset(
    name: str,
    config: DicomDataset,
    state: Path,
    secret: bytes,
    progress: Progress,
    *,
    again: bool = False,
    limit: int | None = None,
    processes: int | None = None,
    apart: bool = False,
    done: Callable[[Accounting], None] = lambda _: None,
) -> DatasetConfig:
    """Prepare a data set, as far as it is not; the newest state of it, as a folder in BraTS layout.

    Args:
        name: in site.toml. state: the site's state directory. secret: the site's.
        progress: called with (studies done, studies), often; also while it waits for another preparation.
        again: ask the source even where the last look at it is younger than `config.refresh`; nothing stands in for it.
        limit: most bytes under `state` (`limits.disk`), of which preparing leaves some to rounds (`room.Room`).
        processes: most of a kind at a time (some clean objects, some make cases); None, and at most: as many as cores.
        apart: cases are made in a process of their own even where that is one, which a damaged file may kill.
        done: called with the accounting while no other preparation can begin.

    Raises:
        PacsUnreachable, PacsRefused: the source does not answer, or refuses, and no earlier state stands in (`away`);
            what came is kept for the next time.
        DataError: a folder or list is missing or may not be read.
        WorkFailed: the disk is full.
    """
    lying = Store(store.folder_of(state, name))
    try:
        with lying.lock(lambda: progress(0, 0)):
            work = Preparation(name, config, state, secret, progress, lying, processes, limit, apart=apart)
            try:
                accounting = work.run(again=again)
            finally:
                work.close()
            done(accounting)
    except OSError as error:
        raise _disk_error(error, lying.folder) from None
    return dataset_of(name, config, state, accounting)


def for_experiment(
    name: str,
    config: DicomDataset,
    state: Path,
    secret: bytes,
    cache: Path,
    progress: Progress,
    *,
    limit: int | None = None,
    processes: int | None = None,
) -> tuple[DatasetConfig, Accounting]:
    """The state of a data set that an experiment trains on: the one it was joined with, else the newest one.

    Args:
        cache: the experiment's folder under `STATE/cache`. limit, processes: as `prepare_dataset`.

    Raises:
        As `prepare_dataset`.
    """
    pin = pins.read_pin(cache)
    withdrawn = pins.look_at_list(config.withdrawn, secrets.token_hex(8))
    if pin is not None and withdrawals.still_stands(pin, name, config, state, lambda: secret):
        folder = store.set_folder(state, name, pin.fingerprint)
        if store.count_whole_cases(folder) is not None:
            return dataset_of(name, config, state, pin.accounting), pin.accounting
    found: list[Accounting] = []

    def keep(accounting: Accounting) -> None:
        pins.write_pin(cache, pins.Pin(name, accounting, withdrawn))
        found.append(accounting)

    dataset = prepare_dataset(
        name, config, state, secret, progress, limit=limit, processes=processes, apart=True, done=keep
    )
    return dataset, found[0]


def _disk_error(error: OSError, folder: Path) -> WorkFailed:
    if is_out_of_space(error):
        advice = "Free disk space, or bound the data set with disk in site.toml"
        return StateDiskFull("the disk is full", where=str(folder), advice=advice)
    why = error.strerror or type(error).__name__
    return WorkFailed(f"cannot be read or written ({why})", where=str(folder), advice="Check the state directory")
