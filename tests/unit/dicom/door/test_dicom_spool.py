"""The spool: what is in it is whole, whatever killed the process that wrote it, and lies in pseudonyms only."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import PATIENCE
from dicom_files import image, uid
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from places import ROOT, TESTS

from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused
from site_agent.dicom.config import Labels
from site_agent.dicom.door.door import Admitted, Door
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import Spool
from site_agent.dicom.roles.assignment import Facts

SECRET = b"a secret of the site's own, 32 b"
PSEUDONYMS = Pseudonyms(SECRET)
DOOR = Door(PSEUDONYMS, Labels.model_validate({"concepts": {"ET": {"codes": ("SCT:1",)}}}))


def admitted(study: int = 1, series: int = 1, number: int = 1, **values: object) -> Admitted:
    return DOOR.admit_object(image(study, series, number, **values))


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool", PSEUDONYMS) as opened:
        yield opened


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("index.sqlite")]


def test_objects_lie_by_study_and_series_in_pseudonyms(spool: Spool) -> None:
    for series, number in ((1, 1), (1, 2), (2, 1)):
        assert spool.put_object(admitted(1, series, number))
    study = PSEUDONYMS.pseudonym_of_case(uid(1))
    found = spool.list_series(study)
    assert set(found) == {PSEUDONYMS.pseudonym_of_uid(uid(1, series)) for series in (1, 2)}
    paths = found[PSEUDONYMS.pseudonym_of_uid(uid(1, 1))]
    assert {path.stem for path in paths} == {PSEUDONYMS.pseudonym_of_uid(uid(1, 1, number)) for number in (1, 2)}
    assert paths[0].relative_to(spool.folder).parts[:2] == (study, PSEUDONYMS.pseudonym_of_uid(uid(1, 1)))
    assert spool.load_object(paths[0]).SOPInstanceUID == paths[0].stem
    assert spool.list_studies() == [study]
    assert spool.list_series(PSEUDONYMS.pseudonym_of_case(uid(2))) == {}


def test_only_the_owner_may_read_it(spool: Spool) -> None:
    spool.put_object(admitted())
    for path in (spool.folder, *spool.folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_an_object_is_asked_for_by_the_uid_that_its_source_gives(spool: Spool) -> None:
    assert not spool.has_object(uid(1, 1, 1))
    spool.put_object(admitted())
    assert spool.has_object(uid(1, 1, 1))
    assert not spool.has_object(uid(1, 1, 2))


def test_of_two_objects_with_one_uid_the_first_stays(spool: Spool) -> None:
    assert spool.put_object(admitted(1, 1, 1, RescaleSlope="2"))
    assert not spool.put_object(admitted(1, 1, 1, RescaleSlope="3"))
    [path] = spool.list_series(PSEUDONYMS.pseudonym_of_case(uid(1)))[PSEUDONYMS.pseudonym_of_uid(uid(1, 1))]
    assert spool.load_object(path).RescaleSlope == 2


def test_what_was_announced_is_remembered(spool: Spool) -> None:
    one = admitted()
    spool.announce_series(one.study, one.series, 7)
    spool.announce_series(one.study, "2.25.1", None)
    assert spool.announced_counts(one.study) == {one.series: 7}
    assert spool.announced_counts("case-0") == {}


def test_a_series_facts_are_those_of_most_of_its_objects(spool: Spool) -> None:
    for number, tr in enumerate((500.0, 600.0, 600.0), 1):
        spool.put_object(replace(admitted(1, 1, number), facts=Facts(kind="mr", tr=tr)))
    spool.put_object(replace(admitted(1, 2, 1), facts=Facts(kind="label")))
    found = spool.read_facts(PSEUDONYMS.pseudonym_of_case(uid(1)))
    assert found[PSEUDONYMS.pseudonym_of_uid(uid(1, 1))] == Facts(kind="mr", tr=600.0)
    assert found[PSEUDONYMS.pseudonym_of_uid(uid(1, 2))].kind == "label"


def test_a_dropped_study_is_gone_and_the_others_stay(spool: Spool) -> None:
    for study in (1, 2):
        spool.put_object(admitted(study))
    gone = PSEUDONYMS.pseudonym_of_case(uid(1))
    spool.announce_series(gone, "2.25.1", 3)
    spool.drop_study(gone)
    assert (spool.list_series(gone), spool.announced_counts(gone), spool.has_object(uid(1, 1, 1))) == ({}, {}, False)
    assert not (spool.folder / gone).exists()
    assert spool.has_object(uid(2, 1, 1))
    spool.drop_study(gone)


def test_another_process_reads_what_this_one_wrote(spool: Spool) -> None:
    one = admitted()
    spool.put_object(one)
    with Spool(spool.folder, PSEUDONYMS) as other:
        [path] = other.list_series(one.study)[one.series]
        assert other.read_file(path) == spool.read_file(path)
        assert other.read_facts(one.study) == spool.read_facts(one.study)


KILLED = """
import os, pathlib, signal, sys
from dicom_files import image
from site_agent.dicom.config import Labels
from site_agent.dicom.door.door import Door
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import Spool
import site_agent.dicom.door.spool as module
names = Pseudonyms(b"a secret of the site's own, 32 b")
door = Door(names, Labels.model_validate({"concepts": {"ET": {"codes": ("SCT:1",)}}}))
spool = Spool(pathlib.Path(sys.argv[1]), names)
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
spool.put_object(door.admit_object(image(1, 1, 1)))
def cut(path, *rest):
    os.truncate(path, 50)
    die()
point = sys.argv[2]
if point == "while writing":
    os.replace = cut
elif point == "before the rename":
    os.replace = die
elif point == "before the entry":
    module._digest_of = die
elif point == "in mid-transaction":
    spool._db.set_trace_callback(lambda text: die() if text == "COMMIT" else None)
elif point == "while dropping":
    module.shutil.rmtree = die
    spool.drop_study(names.pseudonym_of_case(image(1, 1, 1).StudyInstanceUID))
spool.put_object(door.admit_object(image(1, 1, 2)))
"""


@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("while writing", 1),
        ("before the rename", 1),
        ("before the entry", 1),
        ("in mid-transaction", 1),
        ("while dropping", 0),
    ],
)
def test_a_kill_leaves_what_was_there_and_nothing_by_half(tmp_path: Path, point: str, left: int) -> None:
    folder = tmp_path / "spool"
    paths = [str(ROOT), str(TESTS)]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), point],
        env={"PYTHONPATH": ":".join(paths)},
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    with Spool(folder, PSEUDONYMS) as spool:
        study, series = PSEUDONYMS.pseudonym_of_case(uid(1)), PSEUDONYMS.pseudonym_of_uid(uid(1, 1))
        assert len(spool.list_series(study).get(series, [])) == left
        assert spool.has_object(uid(1, 1, 1)) == bool(left)
        assert not spool.has_object(uid(1, 1, 2))
        spool.sweep_leftovers()
        assert len(files(folder)) == left
        for number in (1, 2):
            assert spool.put_object(admitted(1, 1, number)) == (number == 2 or not left)
        paths_ = spool.list_series(study)[series]
        assert {str(spool.load_object(path).SOPInstanceUID) for path in paths_} == {
            PSEUDONYMS.pseudonym_of_uid(uid(1, 1, number)) for number in (1, 2)
        }


@pytest.mark.parametrize("damage", ["gone", "cut short", "changed"])
def test_a_damaged_object_is_noticed_and_no_longer_counts(spool: Spool, damage: str) -> None:
    one = admitted()
    spool.put_object(one)
    [path] = spool.list_series(one.study)[one.series]
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-7] if damage == "cut short" else content)
    with pytest.raises(ObjectRefused) as told:
        spool.read_file(path)
    assert told.value.reason is Reason.UNREADABLE
    assert not spool.has_object(uid(1, 1, 1))
    assert spool.put_object(admitted())
    assert spool.load_object(path).SOPInstanceUID == one.sop


def test_a_damaged_index_costs_the_objects_and_no_more(tmp_path: Path) -> None:
    with Spool(tmp_path, PSEUDONYMS) as spool:
        spool.put_object(admitted())
    for path in tmp_path.glob("index.sqlite*"):
        path.write_bytes(b"not a database, whatever its name says" * 200)
    with Spool(tmp_path, PSEUDONYMS) as spool:
        assert not spool.has_object(uid(1, 1, 1))
        assert spool.put_object(admitted())
        assert spool.has_object(uid(1, 1, 1))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="spool"):
        Spool(tmp_path / "file" / "spool", PSEUDONYMS)


def test_an_index_that_is_locked_for_too_long_is_told(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    other = sqlite3.connect(spool.folder / "index.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    spool._db.execute("PRAGMA busy_timeout=1")
    with pytest.raises(DataError, match="spool"):
        spool.put_object(admitted())
    other.execute("ROLLBACK")
    other.close()
    assert spool.put_object(admitted())


def test_encrypted_objects_are_not_legible_and_read_back(tmp_path: Path) -> None:
    one, plain = admitted(), tmp_path / "plain"
    with Spool(plain, PSEUDONYMS) as spool:
        spool.put_object(one)
        [clear] = spool.list_series(one.study)[one.series]
        content = spool.read_file(clear)
    with Spool(tmp_path / "sealed", PSEUDONYMS, secret=SECRET) as spool:
        spool.put_object(one)
        [path] = spool.list_series(one.study)[one.series]
        sealed = path.read_bytes()
        assert spool.read_file(path) == content
    assert b"DICM" not in sealed
    assert one.sop.encode() not in sealed
    with Spool(tmp_path / "sealed", PSEUDONYMS) as reader:  # a process that only reads need not know
        assert reader.read_file(path) == content


def test_another_secret_opens_nothing(tmp_path: Path) -> None:
    one = admitted()
    with Spool(tmp_path, PSEUDONYMS, secret=SECRET) as spool:
        spool.put_object(one)
        [path] = spool.list_series(one.study)[one.series]
    with Spool(tmp_path, Pseudonyms(b"another secret, as long as that.")) as other, pytest.raises(ObjectRefused):
        other.read_file(path)


class Against(RuleBasedStateMachine):
    """The spool against a dictionary: whatever is put, dropped, lost and swept in whatever order."""

    keys = st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3))
    objects = {
        (study, series, number): admitted(study, series, number)
        for study in (1, 2)
        for series in (1, 2)
        for number in (1, 2, 3)
    }
    folder: Path
    """Set by the test: a fresh one for each run."""

    def __init__(self) -> None:
        super().__init__()
        self.there: set[tuple[int, int, int]] = set()
        for path in files(self.folder):
            path.unlink()
        self.spool = Spool(self.folder, PSEUDONYMS)
        self.spool.sweep_leftovers()

    @rule(key=keys)
    def put(self, key: tuple[int, int, int]) -> None:
        assert self.spool.put_object(self.objects[key]) == (key not in self.there)
        self.there.add(key)

    @rule(study=st.integers(1, 2))
    def drop(self, study: int) -> None:
        self.spool.drop_study(PSEUDONYMS.pseudonym_of_case(uid(study)))
        self.there = {key for key in self.there if key[0] != study}

    @rule(key=keys)
    def lose(self, key: tuple[int, int, int]) -> None:
        one = self.objects[key]
        (self.folder / one.study / one.series / f"{one.sop}.dcm").unlink(missing_ok=True)
        self.there.discard(key)

    @rule()
    def begin_again(self) -> None:
        self.spool.close()
        self.spool = Spool(self.folder, PSEUDONYMS)
        self.spool.sweep_leftovers()

    @invariant()
    def the_same_is_there(self) -> None:
        for key in self.objects:
            assert self.spool.has_object(uid(*key)) == (key in self.there)
        for study in (1, 2):
            found = self.spool.list_series(PSEUDONYMS.pseudonym_of_case(uid(study)))
            lying = {(series, path.stem) for series, paths in found.items() for path in paths}
            assert lying == {(self.objects[key].series, self.objects[key].sop) for key in self.there if key[0] == study}

    def teardown(self) -> None:
        self.spool.close()


def test_the_spool_holds_what_a_dictionary_would(tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        type("Fresh", (Against,), {"folder": tmp_path}),
        settings=settings(max_examples=25, stateful_step_count=12, deadline=None),
    )
