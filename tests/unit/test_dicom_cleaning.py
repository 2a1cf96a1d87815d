"""The door's work in processes: the same objects in the same order, and a process that dies costs none."""

from __future__ import annotations

import os
import pickle
import signal
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from dicom_rig import SECRET, contents, settings, write
from planted import plant, traces, traces_below
from pydicom import dcmread

from messages.errors import KonsilError
from messages.reasons import Reason
from site_agent.dicom import build, cleaning, preparation, store
from site_agent.dicom.cleaning import Cleaned, Cleaners, Rules, cleaned

SAYS_MORE = {"AcquisitionContrast", "AngioFlag", "IssuerOfPatientID", "PerFrameFunctionalGroupsSequence", "StackID"}
"""Not planted in: the study would be refused as another patient's, and the series as no T1 or no stack of slices."""
RULES = Rules(SECRET, settings(Path("unused")).labels, ())


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients, whole; read only."""
    folder = tmp_path_factory.mktemp("export")
    write(folder, range(4))
    return folder


@pytest.fixture
def objects(export: Path) -> list[Any]:
    """Those of the first, as they come from a file and from memory; one in which something is planted, one refused."""
    files = sorted((export / "export 0 0").iterdir())
    found = [dcmread(BytesIO(path.read_bytes())) if number % 2 else dcmread(path) for number, path in enumerate(files)]
    found.insert(20, dcmread(BytesIO(plant(found[3]))))
    found[5].BurnedInAnnotation = "YES"
    return found


@pytest.fixture
def cleaners(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cleaners]:
    monkeypatch.setattr(cleaning, "BATCH_OBJECTS", 4)
    made = Cleaners(2, RULES)
    yield made
    made.close()


def through(cleaners: Cleaners, objects: list[Any]) -> list[Cleaned]:
    found = [one for obj in objects for one in cleaners.give(obj)]
    return [*found, *cleaners.rest()]


def test_what_comes_out_of_processes_is_what_the_door_makes_here_in_the_order_it_came(
    cleaners: Cleaners, objects: list[Any]
) -> None:
    here = cleaned(RULES.door(), objects)
    assert here[5] is Reason.BURNED_IN_ANNOTATION
    assert through(cleaners, objects) == here
    assert through(cleaners, objects[:3]) == here[:3]  # less than a batch
    assert through(Cleaners(1, RULES), objects) == here


def test_a_process_that_is_killed_costs_no_object(cleaners: Cleaners, objects: list[Any]) -> None:
    here = cleaned(RULES.door(), objects)
    found = [one for obj in objects[:9] for one in cleaners.give(obj)]
    before = {one.pid for one in psutil.Process().children(recursive=True)}
    assert before
    for child in psutil.Process().children(recursive=True):
        if "spawn_main" in " ".join(child.cmdline()):
            os.kill(child.pid, signal.SIGKILL)
    found += through(cleaners, objects[9:])
    assert found == here
    assert through(cleaners, objects) == here


def test_what_is_forgotten_does_not_come(cleaners: Cleaners, objects: list[Any]) -> None:
    for obj in objects[:6]:
        [*cleaners.give(obj)]
    cleaners.forget()
    assert through(cleaners, objects[:2]) == cleaned(RULES.door(), objects[:2])


def test_the_rules_show_no_secret() -> None:
    assert repr(SECRET) not in repr(RULES)
    assert pickle.loads(pickle.dumps(RULES)) == RULES


def test_a_data_set_that_is_cleaned_in_processes_is_the_same_set(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(export)
    sent: Counter[str] = Counter()
    real = Cleaners._send

    def counted(self: Cleaners) -> None:
        sent["batches"] += bool(self._batch)
        real(self)

    monkeypatch.setattr(Cleaners, "_send", counted)
    one = build.materialise("g", config, tmp_path / "1", SECRET, lambda *_: None, processes=1)
    assert sent["batches"] == 0
    two = build.materialise("g", config, tmp_path / "2", SECRET, lambda *_: None, processes=2)
    assert sent["batches"] == 4 * 6  # a series each
    assert contents(one) == contents(two)
    assert build.accounting(tmp_path / "1", "g") == build.accounting(tmp_path / "2", "g")


def test_what_came_before_a_preparation_was_broken_off_is_in_the_spool_and_nothing_planted(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preparation, "WORTH_PROCESSES", 1)
    write(tmp_path / "export", [0])
    first = next(path for path in sorted((tmp_path / "export" / "export 0 0").iterdir()))
    first.write_bytes(plant(dcmread(first), but=SAYS_MORE))
    came = 0

    def breaks_off(_done: int, _total: int) -> None:
        nonlocal came
        came += 1
        if came > 20:
            raise KonsilError("the operator ends it")

    state = tmp_path / "state"
    with pytest.raises(KonsilError, match="operator"):
        build.materialise("g", settings(tmp_path / "export"), state, SECRET, breaks_off, processes=2)
    lying = [*(store.folder_of(state, "g") / "spool").rglob("*.dcm")]
    assert len(lying) >= came - 2
    assert traces_below(state, "KH-0000") == {}
    said = capfd.readouterr()
    assert traces((said.out + said.err).encode(), "KH-0000") == set()
