"""Patients of a source who are in a list of the withdrawn: in no prepared set, however list and archive write them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from brokers import PATIENCE
from dicom_rig import SECRET, Watched, contents, counted, prepared, quiet, settings, write
from places import ROOT
from pydicom import dcmread
from pydicom.dataset import Dataset

from deploy.demo.phantoms.dicom import make_uid
from messages.reasons import Reason
from site_agent.data.guard import judge_data, look_at_prepared
from site_agent.data.inventory import take_stock_of
from site_agent.data.lists import judge_dataset_list
from site_agent.datasets.consent import ListUnclear
from site_agent.dicom.base import SeriesFound
from site_agent.dicom.config import FolderSource
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.prepared import accounts, away, pins
from site_agent.dicom.prepared.copies import may_hold_copy
from site_agent.dicom.prepared.index import Index
from site_agent.dicom.prepared.withdrawals import Withdrawals
from site_agent.dicom.preparing import build, preparation

WITHDRAWN = {Reason.WITHDRAWN: 1}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the source was asked for what."""
    counts: Counter[str] = Counter()
    monkeypatch.setattr(preparation, "open_source", lambda config, state: Watched(config, state, counts))
    return counts


def renamed(number: str) -> Callable[[Any], list[Any]]:
    """The same objects under another Patient ID."""

    def change(obj: Any) -> list[Any]:
        obj.PatientID = number
        return [obj]

    return change


def listed(root: Path, text: str | bytes, **more: Any) -> FolderSource:
    (root / "withdrawn").write_bytes(text if isinstance(text, bytes) else text.encode())
    return settings(root / "export", withdrawn=str(root / "withdrawn"), **more)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("KH-0000", b"\xef\xbb\xbfKH-0000\r\n"),
        ("KH-0000", "KH\u20110000\u00a0\n"),
        ("KH-0000", "KH-0000^^^HOSPITAL\n"),
        ("KH  0000", "KH 0000\n"),
    ],
)
def test_a_patient_id_that_people_see_as_equal_is_left_out(number: str, text: str | bytes, tmp_path: Path) -> None:
    write(tmp_path / "export", [0], change=renamed(number))
    prepared(tmp_path, listed(tmp_path, text))
    assert (counted(tmp_path).used, counted(tmp_path).left_out) == (0, WITHDRAWN)


def test_an_entry_in_doubt_publishes_nothing_and_names_nobody(tmp_path: Path) -> None:
    write(tmp_path / "export", [0])
    with pytest.raises(ListUnclear, match="in doubt in line 2") as caught:
        prepared(tmp_path, listed(tmp_path, "X9\nkh-0000\n"))
    assert "KH-0000" not in f"{caught.value} {caught.value.details}"  # an archive's identifiers stay in memory
    assert accounts.read_accounting(tmp_path, "glioma") is None
    prepared(tmp_path, listed(tmp_path, "X9\nexactly: kh-0000\n"))
    assert counted(tmp_path).used == 1


def test_entries_that_are_nobodys_are_told_to_the_operator_and_by_the_agent(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2))
    config = listed(tmp_path, "KH-0001\nKH-0007\n")
    for _ in range(2):  # the second time the source is not asked
        stock = take_stock_of("glioma", config, tmp_path)
        assert stock.consent is not None
        assert (stock.used, stock.consent.matched, stock.consent.nobody) == (1, 1, (2,))
        assert stock.consent.texts == ("line 2: KH-0007 is nobody's here",)
    standing = judge_dataset_list("glioma", config, tmp_path)
    assert standing is not None
    assert standing.said.endswith("1 nobody's here (line 2)")
    assert "KH-" not in standing.said


def other_ids(number: str) -> Dataset:
    made = Dataset()
    made.PatientID = number
    return made


def test_an_object_that_names_the_patient_by_another_number_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("W1\n")
    known = Withdrawals(tmp_path / "w", Pseudonyms(SECRET))
    replaced = Dataset()
    replaced.ModifiedAttributesSequence = [other_ids("W1")]
    for keyword, value in (
        ("PatientID", "W1\0"),
        ("PatientID", ["P1", "W1"]),
        ("OtherPatientIDs", ["X", "W1"]),
        ("OtherPatientIDsSequence", [other_ids("X"), other_ids("W1")]),
        ("OriginalAttributesSequence", [replaced]),
    ):
        obj = other_ids("P1")
        assert not known.covers_object(obj)
        setattr(obj, keyword, value)
        assert known.covers_object(obj), keyword


def naming(number: str) -> Callable[[Any], list[Any]]:
    """The first patient's objects name another number of theirs."""

    def change(obj: Any) -> list[Any]:
        if obj.PatientID == "KH-0000":
            obj.OtherPatientIDs = ["X", number]
        return [obj]

    return change


def test_a_later_entry_that_only_objects_name_reaches_what_is_prepared(tmp_path: Path, asked: Counter[str]) -> None:
    write(tmp_path / "export", range(2), change=naming("W1"))
    prepared(tmp_path, settings(tmp_path / "export"))
    prepared(tmp_path, listed(tmp_path, "KH-0007\n"))
    assert counted(tmp_path).used == 2
    seen = asked["series"]
    config = listed(tmp_path, "W1^^^OTHER\n")
    found = away.find_standing_in("glioma", listed(tmp_path, "W1\n"), tmp_path, SECRET)
    assert found is not None
    assert (found.used, found.left_out) == (1, WITHDRAWN)
    prepared(tmp_path, config)
    assert (counted(tmp_path).used, counted(tmp_path).left_out) == (1, WITHDRAWN)
    assert len([*(tmp_path / "datasets" / "glioma" / "cases").iterdir()]) == 1
    assert asked["series"] == seen
    prepared(tmp_path, listed(tmp_path, ""))  # taken off the list: used again
    assert (counted(tmp_path).used, counted(tmp_path).left_out) == (2, {})


def test_what_a_release_prepared_that_did_not_note_such_names_is_fetched_again_for_a_list(
    tmp_path: Path, asked: Counter[str]
) -> None:
    write(tmp_path / "export", range(2), change=naming("W1"))
    prepared(tmp_path, settings(tmp_path / "export"))
    index = Index(tmp_path / "datasets" / "glioma" / "index.sqlite")
    index.forget_names(index.all_names())
    index.close()
    prepared(tmp_path, listed(tmp_path, "W1\n"))
    assert (counted(tmp_path).used, counted(tmp_path).left_out) == (1, WITHDRAWN)
    seen = asked["series"]
    prepared(tmp_path, listed(tmp_path, "W1\n", refresh="0s"))
    assert asked["series"] == seen


def test_a_copy_of_a_study_that_only_its_objects_say_is_withdrawn_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2), change=naming("W1"))
    write_copy(tmp_path, 0, "KH-7777")
    config = listed(tmp_path, "W1\n")
    for _ in range(2):
        prepared(tmp_path, config, again=True)
        assert (counted(tmp_path).used, counted(tmp_path).left_out) == (1, {Reason.WITHDRAWN: 2})
    assert not [*(tmp_path / "datasets" / "glioma" / "spool").glob("case-*")]


def test_a_running_experiment_of_the_last_release_stops_where_its_state_holds_somebody_withdrawn(
    tmp_path: Path,
) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    write(tmp_path / "export", range(2))
    prepared(tmp_path, settings(tmp_path / "export"))
    config, cache = listed(tmp_path, b"\xef\xbb\xbfKH-0001\r\n"), tmp_path / "cache" / "e-1"
    before = counted(tmp_path)
    pins.write_pin(cache, pins.Pin("glioma", before, pins.look_at_file(config.withdrawn)))  # the mark hid the patient
    assert judge_data(before.fingerprint, look_at_prepared(config, "glioma", tmp_path, cache)) is Reason.DATASET_CHANGED
    dataset, accounting = build.for_experiment("glioma", config, tmp_path, SECRET, cache, quiet)
    assert (accounting.used, len(contents(dataset))) == (1, 1)
    assert judge_data(accounting.fingerprint, look_at_prepared(config, "glioma", tmp_path, cache)) is None


def test_a_list_that_changed_within_one_size_and_time_is_seen(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2))
    config, cache = listed(tmp_path, "KH-0007\n"), tmp_path / "cache" / "e-1"
    status = (tmp_path / "withdrawn").stat()
    _, first = build.for_experiment("glioma", config, tmp_path, SECRET, cache, quiet)
    assert first.used == 2
    listed(tmp_path, "KH-0001\n")
    os.utime(tmp_path / "withdrawn", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert judge_data(first.fingerprint, look_at_prepared(config, "glioma", tmp_path, cache)) is Reason.DATASET_CHANGED
    prepared(tmp_path, config)
    assert counted(tmp_path).left_out == WITHDRAWN


def test_settings_without_effect_are_told(tmp_path: Path) -> None:
    write(tmp_path / "export", range(1))
    (tmp_path / "patients").write_text("KH-0000\nKH-0042\n")
    config = settings(
        tmp_path / "export",
        overrides=[{"description": "no such series", "role": "T1"}, {"description": ".", "role": "ignore"}],
        query={"patients": str(tmp_path / "patients")},
    )
    stock = take_stock_of("glioma", config, tmp_path)
    assert "override 1 (description = 'no such series') fits no series, or one before it does" in stock.remarks
    assert "query.patients: 1 of 2 entries found no study (line 2)" in stock.remarks
    assert not [one for one in stock.remarks if "override 2" in one]


def test_accession_numbers_without_a_study_are_told_by_their_lines(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2))
    there = sorted(str(dcmread(path).AccessionNumber) for path in (tmp_path / "export").rglob("*") if path.is_file())[0]
    (tmp_path / "accessions").write_text(f"no-such-1\n{there}\nno-such-2\n")
    config = settings(tmp_path / "export", query={"accessions": str(tmp_path / "accessions")})
    stock = take_stock_of("glioma", config, tmp_path)
    assert "query.accessions: 2 of 3 entries found no study (lines 1, 3)" in stock.remarks


SITE = """schema = 1
[site]
name = "a"
consortium = "c"
state = "state"
[datasets.glioma]
source = "dicom"
path = "export"
channels = ["T1"]
withdrawn = "withdrawn"
query = { patients = "patients" }
labels = { source = "seg", concepts = { ET = { codes = ["NCIt:C113842"] } } }
"""


def test_the_operators_command_takes_lists_with_a_byte_order_mark(tmp_path: Path) -> None:
    write(tmp_path / "export", range(3))
    mark = b"\xef\xbb\xbf"
    (tmp_path / "site.toml").write_bytes(mark + SITE.encode())
    (tmp_path / "withdrawn").write_bytes(mark + b"KH-0000\r\n")
    (tmp_path / "patients").write_bytes(mark + b"KH-0000\r\nKH-0001\r\n")
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "site", "datasets", "--config", "site.toml"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert "glioma: 1 of 2 cases usable" in done.stdout
    assert "studies left out: 1 withdrawn" in done.stdout
    assert "1 of 1 entry in the list of the withdrawn matched" in done.stdout


def copying(number: str) -> Callable[[Any], list[Any]]:
    """As another archive stores a study again: another patient, other UIDs."""
    made: set[str] = set()

    def change(obj: Any) -> list[Any]:
        obj = deepcopy(obj)
        for element in [*obj.iterall(), *obj.file_meta]:
            # Items stand in several sequences of an object.
            if element.VR == "UI" and str(element.value).startswith("2.25.") and element.value not in made:
                element.value = make_uid("copy", element.value)
                made.add(element.value)
        obj.PatientID = number
        return [obj]

    return change


def write_copy(root: Path, patient: int, number: str) -> None:
    """A copy of an invented patient's study among the exports."""
    write(root / number, [patient], change=copying(number))
    (root / "export").mkdir(exist_ok=True)
    (root / number).rename(root / "export" / number)


def test_one_examination_under_two_patients_is_told_and_stays_together(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2))
    write_copy(tmp_path, 0, "KH-7777")
    stock = take_stock_of("glioma", settings(tmp_path / "export", encrypt=True), tmp_path)
    assert (stock.used, stock.left_out) == (3, {})
    assert [one for one in stock.remarks if one.startswith("2 cases of several patients have the same images (p")]


@pytest.mark.parametrize("visit", [0, 1])
def test_an_entry_of_one_study_leaves_the_patients_other_study_as_it_is(visit: int, tmp_path: Path) -> None:
    made = [*write(tmp_path / "export", [0]), *write(tmp_path / "export", [0], visit=1)]
    prepared(tmp_path, settings(tmp_path / "export"))
    assert counted(tmp_path).used == 2
    dataset = prepared(tmp_path, listed(tmp_path, f"{made[visit].examined.uid}\n"))
    assert (counted(tmp_path).used, counted(tmp_path).left_out) == (1, WITHDRAWN)
    assert len(contents(dataset)) == 1


@pytest.mark.parametrize("encrypt", [False, True])
def test_a_copy_of_a_withdrawn_study_under_another_patient_is_left_out_and_told(encrypt: bool, tmp_path: Path) -> None:
    write(tmp_path / "export", range(2), keep=lambda obj: obj.Modality != "SEG" or obj.PatientID != "KH-0000")
    write_copy(tmp_path, 0, "KH-7777")  # the research copy alone has labels
    config = listed(tmp_path, "KH-0000\n", encrypt=encrypt)
    stock = take_stock_of("glioma", config, tmp_path)
    assert (stock.used, stock.left_out) == (1, {"withdrawn": 2})
    assert stock.consent is not None
    assert (stock.consent.matched, stock.consent.copies) == (1, 1)
    assert [one for one in stock.details if "images of somebody who has withdrawn" in one]
    assert not [*(tmp_path / "datasets" / "glioma" / "spool").glob("case-*")]
    standing = judge_dataset_list("glioma", config, tmp_path)
    assert standing is not None
    assert "1 under other names that have images of the withdrawn" in standing.said


def test_a_patient_who_withdraws_later_is_withdrawn_under_the_other_name_too_without_a_look_at_the_images(
    tmp_path: Path, asked: Counter[str]
) -> None:
    write(tmp_path / "export", range(2))
    write_copy(tmp_path, 0, "KH-7777")
    prepared(tmp_path, settings(tmp_path / "export"))
    assert counted(tmp_path).used == 3
    seen = asked["series"]
    dataset = prepared(tmp_path, listed(tmp_path, "KH-0000\n"))
    assert (counted(tmp_path).left_out, len(contents(dataset))) == ({Reason.WITHDRAWN: 2}, 1)
    assert len([*(tmp_path / "datasets" / "glioma" / "cases").iterdir()]) == 1
    for file in (tmp_path / "export" / "export 0 0").iterdir():
        file.unlink()  # the archive forgets the original, and the copy stays one
    prepared(tmp_path, listed(tmp_path, "KH-0000\n", refresh="0s"))
    assert (counted(tmp_path).used, counted(tmp_path).left_out) == (1, {Reason.WITHDRAWN: 1})
    assert asked["series"] == seen
    prepared(tmp_path, listed(tmp_path, "", refresh="0s"))  # taken off the list: used again
    assert (counted(tmp_path).used, counted(tmp_path).left_out) == (2, {})


def test_images_of_the_withdrawn_are_looked_at_only_where_another_study_may_be_a_copy() -> None:
    def series(modality: str, instances: int | None) -> SeriesFound:
        return SeriesFound("1.2", "1.2.3", modality, instances)

    ours = [series("MR", 20), series("MR", 176)]
    assert may_hold_copy(ours, [series("MR", 9), series("MR", 176)])
    assert may_hold_copy(ours, [series("MR", None)])  # a source that does not say
    assert not may_hold_copy(ours, [series("MR", 9), series("CT", 20)])
    assert not may_hold_copy(ours, [])


def test_a_copy_is_not_what_stands_in_for_a_source_that_is_away(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2))
    write_copy(tmp_path, 0, "KH-7777")
    config = listed(tmp_path, "KH-0009\n")
    prepared(tmp_path, config)
    listed(tmp_path, "KH-0000\n")
    found = away.find_standing_in("glioma", config, tmp_path, SECRET)
    assert found is not None
    assert (found.used, found.left_out) == (1, {Reason.WITHDRAWN: 2})


@pytest.mark.parametrize("prepared_before", [False, True])
def test_an_entry_that_is_like_what_objects_name_stops_the_data_set(prepared_before: bool, tmp_path: Path) -> None:
    write(tmp_path / "export", range(2), change=naming("OLD-7"))
    if prepared_before:
        prepared(tmp_path, listed(tmp_path, ""))
    with pytest.raises(ListUnclear, match="in doubt in line 1"):
        prepared(tmp_path, listed(tmp_path, "old-7\n"))
    if prepared_before:
        with pytest.raises(ListUnclear, match="in doubt in line 1"):
            away.find_standing_in("glioma", listed(tmp_path, "old-7 (by letter)\n"), tmp_path, SECRET)
    prepared(tmp_path, listed(tmp_path, "exactly: old-7\n"))
    assert counted(tmp_path).used == 2


def test_an_entry_that_only_objects_name_is_counted_as_matched(tmp_path: Path) -> None:
    write(tmp_path / "export", range(2), change=naming("OLD-7"))
    config = listed(tmp_path, "OLD-7\nX9\n")
    stock = take_stock_of("glioma", config, tmp_path)
    assert (stock.used, stock.left_out) == (1, {"withdrawn": 1})
    assert stock.consent is not None
    assert (stock.consent.matched, stock.consent.nobody) == (1, (2,))


@pytest.mark.parametrize("text", ["0000\n", "KH-0 0 0 0\n", "KH-00*\n", "KH-0-KH-3\n", "1234567890123450000\n"])
def test_an_entry_in_doubt_lets_nothing_stand_in_for_a_source_that_is_away(text: str, tmp_path: Path) -> None:
    write(tmp_path / "export", [0])
    write(tmp_path / "export", [1], change=renamed("1234567890123456789"))
    config = listed(tmp_path, "")
    prepared(tmp_path, config)
    listed(tmp_path, "X9\n")
    assert away.find_standing_in("glioma", config, tmp_path, SECRET) is not None
    listed(tmp_path, f"X9\n{text}")
    with pytest.raises(ListUnclear, match="in doubt in line 2"):
        away.find_standing_in("glioma", config, tmp_path, SECRET)


def test_of_a_patient_of_whom_nothing_tells_what_an_entry_may_mean_every_unmatched_entry_is_in_doubt(
    tmp_path: Path,
) -> None:
    write(tmp_path / "export", range(2))
    config = listed(tmp_path, "")
    prepared(tmp_path, config)
    index = Index(tmp_path / "datasets" / "glioma" / "index.sqlite")
    index.note_value("marks", "")
    index.close()
    listed(tmp_path, "KH-0000\n")
    assert away.find_standing_in("glioma", config, tmp_path, SECRET) is not None
    listed(tmp_path, "KH-0000\nX9\n")
    with pytest.raises(ListUnclear, match="in doubt in line 2"):
        away.find_standing_in("glioma", config, tmp_path, SECRET)
