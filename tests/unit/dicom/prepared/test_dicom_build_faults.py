"""A preparation that is killed, refused, in want of disk, or not alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from brokers import eventually
from dicom_rig import SECRET, SHAPE, Phantom, Watched, contents, counted, prepared, quiet, settings, write
from places import ROOT, TESTS

from messages.ground import crash
from messages.ground.errors import DataError, PacsRefused, WorkFailed
from messages.reasons import Reason
from site_agent.datasets.config import DatasetConfig
from site_agent.dicom.base import Fetched, Has, SeriesFound, Take
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.prepared import accounts, store
from site_agent.dicom.preparing import build, preparation
from site_agent.dicom.preparing.pool import Makers
from site_agent.dicom.sources import open_source

OBJECTS = 4 * SHAPE[2] + 3 + 1
"""Of a study: slices of four series, a localizer, a segmentation."""


def test_a_pacs_that_refuses_one_series_costs_one_study_and_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "export", range(2))
    refusing = [True]

    class Refusing(Watched):
        def fetch_series(self, series: SeriesFound, has: Has, take: Take) -> Fetched:
            if refusing[0] and series.study == first and series.modality == "SEG":
                raise PacsRefused("out of resources (A700)", where="PACS")
            return super().fetch_series(series, has, take)

    def opened(config: DicomDataset, state: Path) -> Watched:
        return Refusing(config, state, asked)

    asked: Counter[str] = Counter()
    config = settings(tmp_path / "export")
    first = open_source(config, tmp_path).find_studies()[0].uid
    monkeypatch.setattr(preparation, "open_source", opened)
    prepared(tmp_path, config)
    assert counted(tmp_path).left_out == {Reason.RETRIEVE_FAILED: 1}
    refusing[0], before = False, asked["objects"]
    prepared(tmp_path, config)  # a look that failed is never young enough
    assert counted(tmp_path).left_out == {}
    assert asked["objects"] - before == 1  # the segmentation; the rest was kept


def test_a_pacs_that_refuses_study_after_study_ends_the_preparation_and_what_was_prepared_stays(
    export: tuple[Path, list[Phantom]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "first", [7])
    prepared(tmp_path, settings(tmp_path / "first"))
    before = counted(tmp_path)

    class Refusing(Watched):
        def fetch_series(self, series: SeriesFound, has: Has, take: Take) -> Fetched:
            raise PacsRefused("not authorised (0124)", where="PACS")

    monkeypatch.setattr(preparation, "open_source", lambda config, state: Refusing(config, state, Counter()))
    with pytest.raises(PacsRefused, match="0124"):
        prepared(tmp_path, settings(export[0]))
    assert counted(tmp_path) == before


STRUCK = {"dicom:spooled": 60, "dicom:storing": 2, "dicom:stored": 1, "dicom:judged": 2}
"""How often a step is passed before it kills: in the middle of the second study, at the second case."""

CHILD = """
import sys
from pathlib import Path
from dicom_rig import SECRET, settings
from site_agent.dicom.prepared import accounts
from site_agent.dicom.preparing import build
build.prepare_dataset("glioma", settings(Path(sys.argv[1])), Path(sys.argv[2]), SECRET, lambda *_: None, processes=1)
"""


@pytest.mark.parametrize("step", crash.PREPARATION)
def test_killed_at_any_step_it_goes_on_and_ends_with_the_same_set(
    step: str, export: tuple[Path, list[Phantom]], calm: Path, tmp_path: Path, asked: Counter[str]
) -> None:
    at = tmp_path / "at"
    at.write_text(f"{step} {STRUCK.get(step, 1)}")
    paths = os.pathsep.join([str(ROOT), str(TESTS)])
    ended = subprocess.run(
        [sys.executable, "-c", CHILD, str(export[0]), str(tmp_path / "killed")],
        env={**os.environ, crash.AT: str(at), "PYTHONPATH": paths},
        timeout=100,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    lying = tmp_path / "killed" / "datasets" / "glioma"
    dataset = prepared(tmp_path / "killed", settings(export[0]))
    assert counted(tmp_path / "killed") == counted(calm)
    assert contents(dataset) == contents(accounts.dataset_of("glioma", settings(export[0]), calm, counted(calm)))
    assert asked["objects"] < 3 * OBJECTS  # what had come was not fetched again
    assert not [path for path in lying.rglob(".*") if path.name != ".manifest.json"]


def test_a_second_preparation_waits_for_the_first_and_says_so(
    export: tuple[Path, list[Phantom]], tmp_path: Path, asked: Counter[str]
) -> None:
    lying = store.Store(store.folder_of(tmp_path, "glioma"))
    told: list[tuple[int, int]] = []
    done: list[DatasetConfig] = []

    def work() -> None:
        done.append(
            build.prepare_dataset(
                "glioma", settings(export[0]), tmp_path, SECRET, lambda *now: told.append(now), processes=1
            )
        )

    with lying.lock(lambda: None):
        second = threading.Thread(target=work)
        second.start()
        eventually(lambda: (0, 0) in told, what="word that it waits")
        assert not asked
    second.join(60)
    assert len(contents(done[0])) == 3
    assert told[-1] == (3, 3)


def test_a_disk_that_is_full_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "export", [0])

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "fsync", full)
        with pytest.raises(WorkFailed, match="the disk is full") as failed:
            prepared(tmp_path, settings(tmp_path / "export"))
    assert getattr(failed.value, "reason", None) is Reason.DISK_FULL
    prepared(tmp_path, settings(tmp_path / "export"))
    assert counted(tmp_path).used == 1


def test_a_folder_that_is_gone_is_no_empty_set(tmp_path: Path) -> None:
    write(tmp_path / "export", [0])
    prepared(tmp_path, settings(tmp_path / "export"))
    with pytest.raises(DataError):
        prepared(tmp_path, settings(tmp_path / "nowhere"))
    assert counted(tmp_path).used == 1


def test_a_process_that_dies_takes_only_its_own_study_with_it(
    export: tuple[Path, list[Phantom]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = tmp_path / "at"
    monkeypatch.setenv(crash.AT, str(at))
    at.write_text("dicom:storing 1")
    died: list[int] = []
    real = Makers._one_by_one

    def noticed(self: Makers, suspects: list[Any]) -> Any:
        died.append(len(suspects))
        yield from real(self, suspects)

    monkeypatch.setattr(Makers, "_one_by_one", noticed)
    dataset = build.prepare_dataset("glioma", settings(export[0]), tmp_path, SECRET, quiet, processes=2)
    assert died
    assert len(contents(dataset)) == 3
