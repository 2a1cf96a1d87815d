"""The door's work in processes: the same objects in the same order, and a process that dies costs none."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from dicom_rig import SECRET, contents, settings, write
from planted import plant, traces, traces_below
from pydicom import dcmread
from pydicom.dataset import Dataset

from messages.ground.errors import KonsilError
from messages.reasons import Reason
from site_agent.dicom.prepared import accounts, store
from site_agent.dicom.preparing import build, cleaning, preparation
from site_agent.dicom.preparing.cleaning import Cleaned, Cleaners, Rules, clean_objects

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
    made = Cleaners(RULES)
    made.open(2)
    yield made
    made.close()


def through(cleaners: Cleaners, objects: list[Any]) -> list[Cleaned]:
    found = [one for obj in objects for one in cleaners.give_object(obj)]
    return [*found, *cleaners.await_rest()]


def test_what_comes_out_of_processes_is_what_the_door_makes_here_in_the_order_it_came(
    cleaners: Cleaners, objects: list[Any]
) -> None:
    here = clean_objects(RULES.make_door(), objects)
    assert isinstance(here[5], cleaning.RefusedObject)
    assert here[5].reason is Reason.BURNED_IN_ANNOTATION
    assert through(cleaners, objects) == here
    assert through(cleaners, objects[:3]) == here[:3]  # less than a batch
    assert through(Cleaners(RULES), objects) == here


def workers(cleaners: Cleaners) -> set[int]:
    """Ids of its processes."""
    assert cleaners._executor is not None
    return {one.pid for one in cleaners._executor._processes.values() if one.is_alive() and one.pid}


def test_threads_of_libraries_that_give_objects_and_end_take_no_process_with_them(
    cleaners: Cleaners, objects: list[Any]
) -> None:
    here, found, before = clean_objects(RULES.make_door(), objects), [], workers(cleaners)
    assert len(before) == 2
    for start in range(0, len(objects), 10):  # a thread a series, as pynetdicom has it

        def give(some: list[Any] = objects[start : start + 10]) -> None:
            found.extend(one for obj in some for one in cleaners.give_object(obj))

        thread = threading.Thread(target=give)
        thread.start()
        thread.join(120)
        found.extend(cleaners.await_rest())
    assert found == here
    assert workers(cleaners) == before


def test_a_process_that_is_killed_costs_no_object(cleaners: Cleaners, objects: list[Any]) -> None:
    here = clean_objects(RULES.make_door(), objects)
    found = [one for obj in objects[:9] for one in cleaners.give_object(obj)]
    assert len(workers(cleaners)) == 2
    for worker in workers(cleaners):
        os.kill(worker, signal.SIGKILL)
    found += through(cleaners, objects[9:])
    assert found == here
    assert through(cleaners, objects) == here


def test_an_object_that_does_not_go_through_a_pipe_is_cleaned_here(cleaners: Cleaners, objects: list[Any]) -> None:
    here = clean_objects(RULES.make_door(), objects)
    item = Dataset()
    for _ in range(2000):  # deeper than pickle follows
        outer = Dataset()
        outer.ReferencedStudySequence = [item]
        item = outer
    objects[7].RequestAttributesSequence = [item]
    assert through(cleaners, objects) == here


def test_what_is_forgotten_does_not_come(cleaners: Cleaners, objects: list[Any]) -> None:
    for obj in objects[:6]:
        [*cleaners.give_object(obj)]
    cleaners.forget_given()
    assert through(cleaners, objects[:2]) == clean_objects(RULES.make_door(), objects[:2])


def test_the_rules_show_no_secret() -> None:
    assert repr(SECRET) not in repr(RULES)
    assert pickle.loads(pickle.dumps(RULES)) == RULES


def test_a_data_set_that_is_cleaned_in_processes_is_the_same_set(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(export)
    monkeypatch.setattr(preparation, "WORTH_PROCESSES", 1)
    sent: Counter[str] = Counter()
    real = Cleaners._send_batch

    def counted(self: Cleaners) -> None:
        sent["batches"] += bool(self._batch)
        real(self)

    monkeypatch.setattr(Cleaners, "_send_batch", counted)
    one = build.prepare_dataset("g", config, tmp_path / "1", SECRET, lambda *_: None, processes=1)
    assert sent["batches"] == 0
    two = build.prepare_dataset("g", config, tmp_path / "2", SECRET, lambda *_: None, processes=2)
    assert sent["batches"] == 4 * 6  # a series each
    assert contents(one) == contents(two)
    assert accounts.read_accounting(tmp_path / "1", "g") == accounts.read_accounting(tmp_path / "2", "g")


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
        build.prepare_dataset("g", settings(tmp_path / "export"), state, SECRET, breaks_off, processes=2)
    lying = [*(store.folder_of(state, "g") / "spool").rglob("*.dcm")]
    assert len(lying) >= came - 2
    assert traces_below(state, "KH-0000") == {}
    said = capfd.readouterr()
    assert traces((said.out + said.err).encode(), "KH-0000") == set()
