"""A folder of DICOM files as a source: whatever its names, all is found once, and what is no DICOM is counted."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from dicom_files import Taken, asking, encoded, image, uid, write
from places import TEST_DATA
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet

from messages.ground.errors import ConfigError, DataError
from messages.reasons import Reason
from site_agent.dicom import sources
from site_agent.dicom.base import Looked, SeriesFound
from site_agent.dicom.config import FolderSource
from site_agent.dicom.sources import folder
from site_agent.dicom.sources.folder import FolderReader

DICOM = TEST_DATA / "dicom"


def settings(path: Path, **query: Any) -> FolderSource:
    return FolderSource(
        source="dicom",
        path=path,
        **asking(query),
    )


def reader(path: Path, **query: Any) -> FolderReader:
    return FolderReader(settings(path, **query))


def names_of(source: FolderReader) -> list[str]:
    """The files that the operator is told of by name."""
    return [one.name for one in source.looked.passed_over]


def test_studies_are_found_at_any_depth_under_any_name(tmp_path: Path) -> None:
    write(image(1, 1, 1), tmp_path / "IM000001")
    write(image(1, 1, 2), tmp_path / "a" / "b c" / "ümlaut.txt")
    write(image(1, 2, 1), tmp_path / "a" / "x.dcm")
    write(image(2, 1, 1), tmp_path / ".hidden" / "1")
    source = reader(tmp_path)

    first, second = source.find_studies()

    assert (first.uid, first.patient) == (uid(1), "P1")
    assert first.series == (SeriesFound(uid(1), uid(1, 1), "MR"), SeriesFound(uid(1), uid(1, 2), "MR"))
    assert (second.uid, second.patient) == (uid(2), "P2")
    assert source.looked == Looked(objects=4)


def test_files_that_are_no_dicom_are_counted_and_cost_nothing(tmp_path: Path) -> None:
    write(image(), tmp_path / "1")
    (tmp_path / "README.md").write_text("# not an image\n")
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(b"\x08")
    (tmp_path / "like").write_bytes(b"\x08\0\x05\0CS" + b"\0" * 200)
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    source = reader(tmp_path)

    assert [study.uid for study in source.find_studies()] == [uid(1)]
    assert source.looked == Looked(objects=1, not_dicom=5, unreadable=1)
    assert names_of(source) == ["broken"]


def test_a_file_that_says_it_is_dicom_and_cannot_be_read_counts_as_unreadable(tmp_path: Path) -> None:
    write(image(), tmp_path / "1")
    (tmp_path / "cut").write_bytes(encoded(image(1, 1, 2))[:200])
    source = reader(tmp_path)

    assert [study.uid for study in source.find_studies()] == [uid(1)]
    assert source.looked == Looked(objects=1, unreadable=1)
    assert names_of(source) == ["cut"]


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_preamble_and_meta_information_is_read(tmp_path: Path, implicit: bool) -> None:
    obj = image()
    del obj.file_meta
    with (tmp_path / "old").open("wb") as file:
        obj.save_as(file, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    source, taken = reader(tmp_path), Taken()

    (study,) = source.find_studies()
    fetched = source.fetch_series(study.series[0], taken.has, taken.take)

    assert (fetched.present, fetched.reason) == (1, None)
    assert taken.objects[0].file_meta.TransferSyntaxUID.is_implicit_VR is implicit
    assert taken.objects[0].PixelData == image().PixelData


def test_an_object_that_lies_there_twice_is_taken_once(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write(image(1, 1, 1), tmp_path / place / "1")
    write(image(1, 1, 2), tmp_path / "one" / "2")
    source, taken = reader(tmp_path), Taken()

    (study,) = source.find_studies()
    fetched = source.fetch_series(study.series[0], taken.has, taken.take)

    assert source.looked == Looked(objects=3, duplicates=1)
    assert (fetched.received, fetched.present, fetched.reason) == (2, 2, None)
    assert taken.uids == [uid(1, 1, 1), uid(1, 1, 2)]


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are read whole at once, and such whose header is read first."""
    monkeypatch.setattr(folder, "SMALL", 2**20 if request.param == "small" else 0)


@pytest.mark.usefixtures("size")
def test_what_is_there_already_is_not_taken_again(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write(image(number=number), tmp_path / str(number))
    source, taken = reader(tmp_path), Taken(uid(1, 1, 2))

    fetched = source.fetch_series(source.find_studies()[0].series[0], taken.has, taken.take)

    assert (fetched.received, fetched.present, fetched.reason) == (2, 3, None)
    assert taken.uids == [uid(1, 1, 1), uid(1, 1, 3)]


@pytest.mark.usefixtures("size")
def test_a_file_that_lost_its_end_is_not_taken_and_named_and_its_series_counts_as_unreadable(tmp_path: Path) -> None:
    write(image(number=1), tmp_path / "1")
    (tmp_path / "2").write_bytes(encoded(image(number=2))[:-10])
    source, taken = reader(tmp_path), Taken()

    fetched = source.fetch_series(source.find_studies()[0].series[0], taken.has, taken.take)

    assert (fetched.received, fetched.present, fetched.reason) == (1, 1, Reason.UNREADABLE)
    assert fetched.lacking == ("2",)
    assert taken.uids == [uid(1, 1, 1)]


@pytest.mark.usefixtures("size")
def test_a_file_that_vanished_since_it_was_found_is_noticed(tmp_path: Path) -> None:
    for number in (1, 2):
        write(image(number=number), tmp_path / str(number))
    source, taken = reader(tmp_path), Taken()
    (study,) = source.find_studies()
    (tmp_path / "2").unlink()

    fetched = source.fetch_series(study.series[0], taken.has, taken.take)

    assert (fetched.present, fetched.reason) == (1, Reason.RETRIEVE_FAILED)


def test_what_the_taker_raises_comes_through(tmp_path: Path) -> None:
    write(image(), tmp_path / "1")
    source = reader(tmp_path)

    def refuse(obj: Any) -> None:
        raise DataError("the disk is full")

    with pytest.raises(DataError, match="disk is full"):
        source.fetch_series(source.find_studies()[0].series[0], lambda sop: False, refuse)


def test_a_study_of_two_patients_is_left_out_and_counted(tmp_path: Path) -> None:
    write(image(1, 1, 1), tmp_path / "1")
    write(image(1, 1, 2, PatientID="SOMEBODY ELSE"), tmp_path / "2")
    write(image(2, 1, 1), tmp_path / "3")
    source = reader(tmp_path)

    assert [study.uid for study in source.find_studies()] == [uid(2)]
    assert source.looked == Looked(objects=3, mixed_patients=1)


def test_objects_without_a_usable_uid_are_counted(tmp_path: Path) -> None:
    nameless = image(1, 1, 2)
    del nameless.SeriesInstanceUID
    write(nameless, tmp_path / "1")
    write(image(1, 1, 3, StudyInstanceUID="../../etc"), tmp_path / "2")
    source = reader(tmp_path)

    assert source.find_studies() == []
    assert source.looked == Looked(objects=2, unusable=2)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, [1, 2]),
        ({"modalities": ("CT",)}, [3]),
        ({"modalities": ("CT", "MR")}, [1, 2, 3]),
        ({"since": date(2024, 1, 16)}, [2]),
        ({"until": date(2024, 1, 15)}, [1]),
        ({"since": date(2024, 1, 15), "until": date(2024, 1, 16)}, [1, 2]),
        ({"description": "*tumour*"}, [1]),
        ({"description": "SPIN?"}, [2]),
        ({"description": "SPINE [a-z]"}, []),
    ],
)
def test_the_query_says_which_studies(tmp_path: Path, query: dict[str, Any], found: list[int]) -> None:
    write(image(1), tmp_path / "1")
    write(image(2, StudyDate="20240116", StudyDescription="SPINE"), tmp_path / "2")
    write(image(3, modality="CT", StudyDescription="HEAD"), tmp_path / "3")
    source = reader(tmp_path, **query)

    assert [study.uid for study in source.find_studies()] == [uid(number) for number in found]
    assert source.looked.not_asked == 3 - len(found)


def test_patients_and_accessions_are_read_from_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in (1, 2, 3):
        write(image(number), data / str(number))
    patients, accessions = tmp_path / "patients", tmp_path / "accessions"
    patients.write_text("# consented\nP1\n P3  # by letter\n\n")
    accessions.write_text("A2\nA3\n")

    assert [study.patient for study in reader(data, patients=patients).find_studies()] == ["P1", "P3"]
    assert [study.patient for study in reader(data, patients=patients, accessions=accessions).find_studies()] == ["P3"]
    accessions.write_text("# none\n")
    with pytest.raises(ConfigError, match="names nothing"):
        reader(data, accessions=accessions)
    with pytest.raises(ConfigError, match="cannot be read"):
        reader(data, patients=tmp_path / "missing")


def test_labels_of_a_study_come_along_and_other_modalities_do_not(tmp_path: Path) -> None:
    write(image(1, 1, 1), tmp_path / "1")
    write(image(1, 2, 1, modality="SEG"), tmp_path / "2")
    write(image(1, 3, 1, modality="RTSTRUCT"), tmp_path / "3")
    write(image(1, 4, 1, modality="PR"), tmp_path / "4")

    (study,) = reader(tmp_path).find_studies()

    assert [series.modality for series in study.series] == ["MR", "SEG", "RTSTRUCT"]


def test_two_issuers_of_one_patient_id_are_two_patients(tmp_path: Path) -> None:
    write(image(1, PatientID="7", IssuerOfPatientID="NORTH"), tmp_path / "1")
    write(image(2, PatientID="7", IssuerOfPatientID="SOUTH"), tmp_path / "2")

    assert [study.patient for study in reader(tmp_path).find_studies()] == ["7^^^NORTH", "7^^^SOUTH"]


def test_a_series_with_other_objects_is_marked_otherwise_and_one_that_moved_is_not(tmp_path: Path) -> None:
    first, second = (write(image(number=number), tmp_path / str(number)) for number in (1, 2))
    source = reader(tmp_path)

    def mark() -> str:
        return source.find_studies()[0].series[0].mark

    before = mark()
    shutil.move(second, tmp_path / "0")
    assert before == mark()
    first.unlink()
    write(image(number=3), tmp_path / "3")  # as many as before
    assert before != mark()


def on_a_disc(folder: Path, objects: list[Dataset]) -> Path:
    """The objects as a file set with its DICOMDIR (PS3.10, 8)."""
    files = FileSet()
    for obj in objects:
        files.add(obj)
    files.write(folder)
    files._stage["t"].cleanup()  # pydicom leaves the folder where it staged them to the garbage collector
    return folder


def test_a_dicomdir_says_how_many_objects_a_series_should_have(tmp_path: Path) -> None:
    disc = on_a_disc(tmp_path / "disc", [image(1, 1, number) for number in (1, 2, 3)])
    source, taken = reader(disc), Taken()
    (study,) = source.find_studies()
    assert study.series == (SeriesFound(uid(1), uid(1, 1), "MR", 3),)
    assert source.looked == Looked(objects=3)
    assert source.fetch_series(study.series[0], taken.has, taken.take).reason is None

    next(path for path in disc.rglob("*") if path.is_file() and path.name != "DICOMDIR").unlink()
    taken = Taken()
    (study,) = source.find_studies()
    fetched = source.fetch_series(study.series[0], taken.has, taken.take)
    assert (fetched.present, fetched.reason) == (2, Reason.INCOMPLETE_SERIES)


def test_a_dicomdir_that_lists_fewer_objects_than_there_are_says_nothing(tmp_path: Path) -> None:
    disc = on_a_disc(tmp_path / "disc", [image(1, 1, 1)])
    write(image(1, 1, 2), disc / "later")

    assert reader(disc).find_studies()[0].series[0].instances is None


def test_a_damaged_dicomdir_is_passed_over(tmp_path: Path) -> None:
    disc = on_a_disc(tmp_path / "disc", [image(1, 1, 1)])
    index = disc / "DICOMDIR"
    index.write_bytes(index.read_bytes()[:-120])

    assert [series.uid for series in reader(disc).find_studies()[0].series] == [uid(1, 1)]


def test_a_folder_that_is_missing_or_may_not_be_read_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    missing = settings(tmp_path / "missing")
    for ask in (sources.open_source(missing, tmp_path).find_studies, lambda: sources.echo_source(missing)):
        with pytest.raises(DataError, match="No such file"):
            ask()
    (tmp_path / "empty").mkdir()
    sources.echo_source(settings(tmp_path / "empty"))
    assert reader(tmp_path / "empty").find_studies() == []


@pytest.mark.skipif(not DICOM.is_dir(), reason="no real DICOM files here")
def test_real_scanner_files_are_found_with_the_text_files_among_them_counted() -> None:
    everything = Counter(path.suffix for path in (DICOM / "nih").rglob("*") if path.is_file())
    source = reader(DICOM / "nih")

    studies = source.find_studies()

    assert sum(len(study.series) for study in studies) >= 3
    looked = source.looked
    assert looked.unreadable == looked.unusable == looked.mixed_patients == 0
    assert looked.objects + looked.not_dicom == sum(everything.values())
    assert looked.not_dicom >= everything[".txt"]
    series = min((one for study in studies for one in study.series), key=lambda one: one.uid)
    taken = Taken()
    fetched = source.fetch_series(series, taken.has, taken.take)
    assert fetched.reason is None
    assert fetched.present == len(taken.objects) > 0


@pytest.mark.skipif(not DICOM.is_dir(), reason="no real DICOM files here")
def test_a_real_series_with_a_slice_twice_is_taken_whole_and_once(tmp_path: Path) -> None:
    slices = sorted((DICOM / "deident_t1" / "In").iterdir())[:5]
    for number, path in enumerate([*slices, slices[2]]):
        shutil.copy(path, tmp_path / f"{number}")
    source, taken = reader(tmp_path), Taken()

    fetched = source.fetch_series(source.find_studies()[0].series[0], taken.has, taken.take)

    assert source.looked == Looked(objects=6, duplicates=1)
    assert (fetched.received, fetched.present, fetched.reason) == (5, 5, None)


def test_a_link_to_a_folder_is_told_and_one_into_the_data_set_itself_is_not(tmp_path: Path) -> None:
    write(image(1, 1, 1), tmp_path / "data" / "P1" / "1")
    write(image(2, 1, 1), tmp_path / "elsewhere" / "1")
    (tmp_path / "data" / "P2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data" / "P1")
    (tmp_path / "data" / "round").symlink_to(tmp_path / "data")
    source = reader(tmp_path / "data")

    assert [study.uid for study in source.find_studies()] == [uid(1)]
    (told,) = source.looked.passed_over
    assert (told.name, told.reason) == ("P2", Reason.UNREADABLE)
    assert "link to a folder" in told.text


def test_what_was_meant_to_be_dicom_and_is_none_is_told_by_its_name(tmp_path: Path) -> None:
    write(image(), tmp_path / "1")
    (tmp_path / "study.zip").write_bytes(b"PK\x03\x04" + bytes(40))
    (tmp_path / "2.dcm.gz").write_bytes(b"\x1f\x8b" + bytes(40))
    (tmp_path / "3.dcm").touch()
    (tmp_path / "4").write_bytes(bytes(4096))
    (tmp_path / "5.IMA").write_text("version https://git-lfs.github.com/spec/v1")
    (tmp_path / "autorun.inf").write_text("[autorun]")
    (tmp_path / ".gitkeep").touch()
    (tmp_path / "report.docx").write_bytes(b"PK\x03\x04" + bytes(40))
    (tmp_path / "label.nii.gz").write_bytes(b"\x1f\x8b" + bytes(40))
    (tmp_path / "volume.raw").write_bytes(bytes(4096))
    source = reader(tmp_path)
    source.find_studies()

    assert source.looked == Looked(objects=1, not_dicom=10)
    assert names_of(source) == ["2.dcm.gz", "3.dcm", "4", "5.IMA", "study.zip"]


def test_a_study_of_two_patients_and_an_object_without_a_usable_uid_are_told_by_a_files_name(tmp_path: Path) -> None:
    write(image(1, 1, 1), tmp_path / "a")
    write(image(1, 1, 2, PatientID="other"), tmp_path / "b")
    write(image(1, 1, 3, PatientID="other"), tmp_path / "c")
    write(image(2, 1, 1, StudyInstanceUID="no uid"), tmp_path / "d")
    source = reader(tmp_path)

    assert source.find_studies() == []
    assert {(one.name, one.reason) for one in source.looked.passed_over} == {
        ("a", Reason.MIXED_PATIENTS),
        ("b", Reason.MIXED_PATIENTS),
        ("d", Reason.UNREADABLE),
    }


def test_two_files_of_one_uid_that_do_not_hold_the_same_leave_out_their_series_and_are_named(tmp_path: Path) -> None:
    write(image(1, 1, 1), tmp_path / "a")
    write(image(1, 1, 1, PixelData=bytes(128)), tmp_path / "b")
    write(image(1, 1, 2), tmp_path / "c")
    source = reader(tmp_path)
    ((series,),) = (study.series for study in source.find_studies())
    taken = Taken()

    fetched = source.fetch_series(series, taken.has, taken.take)

    assert (fetched.reason, fetched.lacking, taken.uids) == (Reason.DUPLICATE_SLICES, ("a", "b"), [])
