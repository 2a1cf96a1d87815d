"""Who is in a list of the withdrawn is never trained on, however the list was written and the data name them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from brokers import PATIENCE
from places import ROOT
from structlog.testing import capture_logs

from messages.ground.errors import DataError
from messages.ground.written.entries import parse_entries
from messages.reasons import Reason
from site_agent.data.inventory import take_stock_of
from site_agent.data.lists import judge_dataset_list
from site_agent.datasets import layouts
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.consent import ListUnclear, WithdrawnList, compare_list
from site_agent.datasets.source import Survey, survey_cases

SHAPE = (6, 5, 4)


def write_case(root: Path, name: str | bytes, seed: int) -> Path:
    """A case with one channel and its label; its file names are ASCII whatever it is called."""
    folder = root / os.fsdecode(name)
    folder.mkdir(parents=True)
    voxels = np.random.default_rng(seed).integers(1, 900, SHAPE).astype(np.int16)
    label = np.zeros(SHAPE, np.uint8)
    label[seed % 4, 1:3] = 1
    for ending, content in (("t1c", voxels), ("seg", label)):
        nib.save(nib.Nifti1Image(content, np.eye(4)), folder / f"x-{ending}.nii.gz")
    return folder


def config(root: Path, **more: Any) -> DatasetConfig:
    plain = {"source": "brats", "path": root / "data", "labels": {1: "ET"}, "withdrawn": root / "withdrawn.txt"}
    return DatasetConfig.model_validate({**plain, **more})


def survey(root: Path, names: tuple[str | bytes, ...], listed: bytes | str, **more: Any) -> Survey:
    for seed, name in enumerate(names, 1):
        write_case(root / "data", name, seed)
    (root / "withdrawn.txt").write_bytes(listed if isinstance(listed, bytes) else listed.encode())
    return survey_cases(config(root, **more), ["T1c"], ["ET"])


NAMES = ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000")


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("P1", b"\xef\xbb\xbfP1\r\n"),
        ("P1", "P1\r"),
        ("P1", "\nP1\u00a0\n"),
        ("P1", "P\u200b1 # by letter"),
        ("P1", '"P1";\r\n'),
        ("P1", '="P1"\n'),
        ("M\u00fcller", "Mu\u0308ller\n"),
        ("Mu\u0308ller", "M\u00fcller\n"),
        (b"M\xfcller", "M\u00fcller\n"),
        ("A-1", "A\u20131\n"),
        ("A  1", "A 1\n"),
        ("\uff21\uff11", "A1\n"),
        ("P1", "P2\u2028P1"),
    ],
)
def test_a_name_that_people_see_as_equal_is_left_out(name: str | bytes, listed: bytes | str, tmp_path: Path) -> None:
    found = survey(tmp_path, (name, "other"), listed)
    assert [case.key for case in found.cases] == ["other"]
    assert found.left_out == {Reason.WITHDRAWN: 1}
    assert found.consent is not None
    assert found.consent.matched == 1


DOUBTS = [
    ("P1", "p1"),
    ("0012", "12"),
    ("12", "0012"),
    ("12345", "12345.0"),
    ("1234567", "1,234,567"),
    ("1234567", "1.234.567"),
    ("12345678901234567890", "12345678901234500000"),
    ("P-1", "P_1"),
    ("P1", "P1#by letter"),
    ("P1", "P1 withdrawn 2024"),
    ("P1", "patient P1"),
    ("P1", "data/P1/"),
    ("P1", "P1.nii.gz"),
    ("PA1", "\u0420\u04101"),
    ("Muller", "M\u00fcller"),
    ("SEP2", "2024-09-02"),
    ("SEP2", "02.09.2024"),
    ("SEP24", "2024-09-01"),
    ("P 17", "P%2017"),
    ("P-17", "P%2F17"),
    ("P-17", f"P%{'25' * 2000}2F17"),
    ("700101-1234", "19700101-1234"),
    ("197001011234", "700101-1234"),
    ("BraTS-GLI-00001-000", "00001"),
    ("HOSP-12345", "12345"),
    ("12345", "HOSP-12345"),
    ("P1", "Muster^Erika"),
    ("756.1234.5678.97", "756.1234.5678.97 (withdrawn 3 May)"),
    ("756.1234.5678.97", "756-1234-5678-97"),
    ("756.1234.5678.97", "7561234567897"),
    ("7561234567897", "756.1234.5678.97"),
    ("756.1234.5678.97-MR", "756.1234.5678.97"),
    ("1.2.3.4", "Study 1.2.3.4"),
    ("1.2.3.4", "1.2.3.4/"),
    ("1.2.3.4", "1.2.3.4."),
    ("1.2.3.4", "1.2.3.4#x"),
    ("1.2.3.4", "01.2.3.4"),
    ("1.2.840.10008.5.1.4.1.1.4.2.99.3.7.12.2024.5.6.7.8", "see 1.2.840.10008.5.1.4.1.1.4.2.99.3.7.12.2024.5.6.7.8"),
    ("1234567", "123-45-67"),
    ("123-45-67", "1234567"),
    ("123456", "12 34 56"),
    ("PAT001234", "PAT 001 234"),
    ("PAT 001 234", "PAT001234"),
    ("ABC12", "A B C 12"),
    ("PAT-001", "PAT-1"),
    ("PAT-1", "PAT-001"),
    ("BraTS-GLI-00001-000", "BraTS-GLI-1"),
    ("BraTS-GLI-00001-000", "BraTS-GLI-0001"),
    ("1803", "1799-1811"),
    ("P3", "P1-P5"),
    ("P3", "P1-5"),
    ("P003", "P001 bis P005"),
    ("P001", "P00*"),
    ("P001", "P00?"),
    ("P001", "P0\u2026"),
    ("P001", "P00[1-5]"),
    ("P1", "P1/P2"),
    ("P1", "P1+P2"),
    ("P2", "P1+P2"),
    ("SEP2", "2-Sep"),
    ("MARCH1", "1-Mar"),
    ("9-2", "02. Sep"),
    ("P1", "P1_HOSP"),
    ("P1", "P1@hosp"),
    ("P1", "P1-withdrawn"),
    ("777", "777-withdrawn"),
    ("P1", "P1.dcm"),
    ("P1", "P1x"),
    ("PAT1", "PAT1PAT2"),
    ("P1", "/data/P1/t1.nii.gz"),
    ("P1", "PI"),
    ("P01", "PO1"),
    ("o1", "\u00f81"),
    ("\u0142uk-1", "luk-1"),
    ("ae1", "\u00e61"),
    ("Mueller", "M\u00fcller"),
    ("M\u00fcller", "Mueller"),
    ("No5", "\u21165"),
    ("STRASSE1", "Stra\u00dfe1"),
]

LOST: list[tuple[str | bytes, str]] = [
    ("M\u00fcller_01".encode("cp850"), "M\u00fcller_01"),
    ("J\u00f6rg_01".encode("cp850"), "J\u00f6rg_01"),
    ("M\u00fcller_01".encode("mac-roman"), "M\u00fcller_01"),
    ("\u0160imek1".encode("iso8859-2"), "\u0160imek1"),
    ("\u0418\u0432\u0430\u043d1".encode("iso8859-5"), "\u0418\u0432\u0430\u043d1"),
    ("M?ller_01", "M\u00fcller_01"),
    ("M?ller_01", "Mueller_01"),
    ("M_ller_01", "M\u00fcller_01"),
    ("Mller_01", "M\u00fcller_01"),
    ("M\u251c\u255dller_01", "M\u00fcller_01"),
    ("M\ufffdller_01", "M\u00fcller_01"),
    ("\u00c3\u0096sterle1", "\u00d6sterle1"),
    ("\u00a9imek1", "\u0160imek1"),
    ("Ku\u00e8era1", "Ku\u010dera1"),
    ("????", "\u5c71\u7530"),
]
PLAIN = [
    ("X", "X9"),
    ("9", "X9"),
    ("P1", "X9"),
    ("P1", "P2"),
    ("P1_1", "P11"),
    ("BraTS-GLI-00001-000", "BraTS-GLI-00002"),
    ("BraTS-GLI-00003-000", "BraTS-GLI-00002-005"),
    ("BraTS-GLI-00001-000", "BraTS-GLI-01000"),
    ("1.2.840.10008.5.1", "840"),
    ("1.2.840.10008.5.1", "1.2.840.10008.5.2"),
    ("1.2.840.10008.5.1", "1.2.840.10008.5.1.4"),
    ("M\u00fcller_01", "M\u00f6ller_01"),
    ("\u0418\u0432\u0430\u043d1", "\u041f\u0451\u0442\u0440\u044b1"),
    ("P7", "P1-P5"),
    ("Q001", "P00*"),
    ("P1", "2-Sep"),
    ("756.1234.5678.97", "756.1234.5678.98"),
    ("123-45-67", "123-45-68"),
    ("P1", "100%"),
    ("7001011234", "217001011234"),
    ("SEP2", "2024-10-02"),
]


@pytest.mark.parametrize(("name", "listed"), DOUBTS)
def test_an_entry_that_may_mean_somebody_stops_the_data_set_until_it_is_said_exactly(
    name: str, listed: str, tmp_path: Path
) -> None:
    with pytest.raises(ListUnclear, match="line 2") as caught:
        survey(tmp_path, (name, "other"), f"X9\n{listed}\n")
    assert name not in str(caught.value)  # this line may be logged
    assert any(listed.partition("#")[0].strip("/") in line for line in caught.value.details) or "," in listed
    (tmp_path / "withdrawn.txt").write_text(f'X9\nexactly: "{listed}"\n')
    assert len(survey_cases(config(tmp_path), ["T1c"], ["ET"]).cases) == 2


@pytest.mark.parametrize(("name", "listed"), LOST)
def test_an_entry_that_may_be_a_name_whose_letters_were_lost_stops_the_data_set(name: str | bytes, listed: str) -> None:
    entries = tuple(parse_entries(listed, "w"))
    with pytest.raises(ListUnclear, match="in doubt in line 1"):
        compare_list(WithdrawnList.of_entries(Path("w"), entries), [(os.fsdecode(name),), ("other",)])


@pytest.mark.parametrize(("name", "listed"), PLAIN)
def test_an_entry_that_plainly_is_nobodys_is_told_as_nobodys(name: str, listed: str) -> None:
    names = (name, config(Path()).patient_of(name))
    told = compare_list(WithdrawnList.of_entries(Path("w"), tuple(parse_entries(listed, "w"))), [names, ("other",)])
    assert told is not None
    assert (told.matched, told.nobody) == (0, (1,))


@pytest.mark.parametrize(("name", "line"), [("#123", "#123"), ("#123", "#123 by letter"), ("P1 #2", "P1 #2")])
def test_a_comment_that_is_somebodys_name_stops_the_data_set(name: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ListUnclear, match="in doubt in line 2"):
        survey(tmp_path, (name, "P1", "other"), f"# by letter\n{line}\n")
    for said in (f'"{name}"', f'exactly: "{name}"', *([f"exactly: {name}"] if name[0] == "#" else [])):
        (tmp_path / "withdrawn.txt").write_text(f"{said}\n")
        assert [case.key for case in survey_cases(config(tmp_path), ["T1c"], ["ET"]).cases] == ["P1", "other"]


def test_an_entry_that_names_one_patient_and_is_like_another_stops_the_data_set(tmp_path: Path) -> None:
    with pytest.raises(ListUnclear, match="line 1"):
        survey(tmp_path, ("P1", "p1"), "P1\n")
    (tmp_path / "withdrawn.txt").write_text("exactly: P1\n")
    assert [case.key for case in survey_cases(config(tmp_path), ["T1c"], ["ET"]).cases] == ["p1"]


@pytest.mark.parametrize(
    "listed",
    ["P1;Muster\n", "Q1^^^A~P1^^^B\n", "1.2E+10\n", "P\ufffd\n", "#REF!\n", b"P1\n\xfc\n", "P1\n".encode("utf-16")],
)
def test_a_list_that_cannot_be_understood_stops_the_data_set(listed: bytes | str, tmp_path: Path) -> None:
    with pytest.raises(ListUnclear, match=r"withdrawn\.txt.*the list of withdrawn patients cannot be used"):
        survey(tmp_path, ("P1", "other"), listed)


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
def test_a_list_that_is_no_file_stops_the_data_set(kind: str, tmp_path: Path) -> None:
    survey(tmp_path, ("P1",), "")
    (tmp_path / "withdrawn.txt").unlink()
    if kind != "missing":
        os.mkfifo(tmp_path / "withdrawn.txt") if kind == "pipe" else (tmp_path / "withdrawn.txt").mkdir()
    with pytest.raises(DataError, match="the list of withdrawn patients cannot be"):
        survey_cases(config(tmp_path), ["T1c"], ["ET"])


def test_entries_that_are_nobodys_are_counted_and_shown_with_what_is_nearest(tmp_path: Path) -> None:
    found = survey(tmp_path, NAMES, "# of 2024\nBraTS-GLI-00011\nBraTS-GLI-00002\nX9\n")
    assert found.left_out == {Reason.WITHDRAWN: 1}
    assert found.consent is not None
    assert (found.consent.entries, found.consent.matched, found.consent.nobody) == (3, 1, (2, 4))
    assert "1 of 3 entries" in found.consent.say_counts()
    assert "2 nobody's here (lines 2, 4)" in found.consent.say_counts()
    assert "BraTS" not in found.consent.say_counts()  # this is logged
    assert found.consent.texts[0].startswith("line 2: BraTS-GLI-00011 is nobody's here (the nearest is BraTS-GLI-00001")


def test_a_list_that_names_one_case_of_a_patient_is_told_of_the_others(tmp_path: Path) -> None:
    found = survey(tmp_path, (*NAMES, "BraTS-GLI-00001-001"), "BraTS-GLI-00001-000\n")
    assert [case.key for case in found.cases] == ["BraTS-GLI-00001-001", "BraTS-GLI-00002-000"]
    assert [one for one in found.remarks if "other cases of the same patient are used" in one]


def test_a_copy_under_another_name_of_what_was_withdrawn_is_left_out(tmp_path: Path) -> None:
    survey(tmp_path, NAMES, "")
    copy = tmp_path / "data" / "BraTS-GLI-00009-000"
    shutil.copytree(tmp_path / "data" / NAMES[0], copy)
    image = nib.load(copy / "x-t1c.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.float32), image.affine), copy / "x-t1c.nii.gz")
    (tmp_path / "withdrawn.txt").write_text("BraTS-GLI-00001\n")
    found = survey_cases(config(tmp_path), ["T1c"], ["ET"], cache=tmp_path / "cache.db")
    assert [case.key for case in found.cases] == [NAMES[1]]
    assert found.left_out == {Reason.WITHDRAWN: 2}
    assert found.consent is not None
    assert found.consent.say_counts().endswith("left out too: 1 under other names that have images of the withdrawn")


def test_whoever_has_an_image_of_the_withdrawn_is_withdrawn_with_all_images_though_the_list_names_no_usable_case(
    tmp_path: Path,
) -> None:
    survey(tmp_path, (*NAMES, "BraTS-GLI-00009-001"), "")
    shutil.copytree(tmp_path / "data" / NAMES[0], tmp_path / "data" / "BraTS-GLI-00009-000")
    (tmp_path / "data" / NAMES[0] / "x-seg.nii.gz").unlink()  # the copy alone is labelled
    (tmp_path / "withdrawn.txt").write_text("BraTS-GLI-00001\n")
    found = survey_cases(config(tmp_path), ["T1c"], ["ET"])
    assert [case.key for case in found.cases] == [NAMES[1]]
    assert found.left_out == {Reason.WITHDRAWN: 3}


@pytest.mark.parametrize("fault", ["a damaged file", "a locked folder"])
def test_a_case_of_the_withdrawn_that_cannot_be_compared_is_counted_and_told(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey(tmp_path, NAMES, "")
    (tmp_path / "withdrawn.txt").write_text("BraTS-GLI-00001\n")
    found = survey_cases(config(tmp_path), ["T1c"], ["ET"])
    assert found.consent is not None
    assert found.consent.uncompared == 0
    folder = tmp_path / "data" / NAMES[0]
    if fault == "a damaged file":
        (folder / "x-t1c.nii.gz").write_bytes(b"cut")
    else:
        listed = layouts.list_entries

        def refuse(place: Path) -> Any:  # root, who may run this, is refused nothing
            if place == folder:
                raise DataError("cannot be read", where=str(place), advice="")
            return listed(place)

        monkeypatch.setattr(layouts, "list_entries", refuse)
    with capture_logs() as logged:
        found = survey_cases(config(tmp_path), ["T1c"], ["ET"])
    assert found.consent is not None
    assert found.consent.uncompared == 1
    assert found.consent.say_counts().endswith("; 1 study of theirs could not be had, to look for copies of it")
    assert [one["event"] for one in logged if one["log_level"] == "warning"] == [found.consent.say_counts()]


def test_the_numbers_within_a_uid_are_like_no_name() -> None:
    listed = WithdrawnList.of_entries(Path("w"), tuple(parse_entries("840\n1.2.840.1.5\n10008", "w")))
    told = compare_list(listed, [("P1", "1.2.840.10008.5.1"), ("P2", "1.2.840.1.5")])
    assert told is not None
    assert (told.matched, told.nobody) == (1, (1, 3))


def test_a_list_of_many_thousands_is_compared_with_as_many_names() -> None:
    names = [(f"site-{number % 7}-{number:06d}", f"{number:06d}") for number in range(4000)]
    text = "\n".join(f"{number:06d}" for number in range(2000, 8000))
    listed = WithdrawnList.of_entries(Path("w"), tuple(parse_entries(text, "w")))
    told = compare_list(listed, names)
    assert told is not None
    assert (told.matched, len(told.nobody)) == (2000, 4000)


@pytest.mark.parametrize(
    ("listed", "said", "usable"),
    [
        ("BraTS-GLI-00001\n", "1 of 1 entry in the list of the withdrawn matched", True),
        ("X9\n", "0 of 1 entry in the list of the withdrawn matched, 1 nobody's here (line 1)", True),
        ("", "the list of the withdrawn names nobody", True),
        ("brats-gli-00001\n", "is in doubt in line 1", False),
    ],
)
def test_the_agent_tells_in_log_and_status_how_a_list_stands(
    listed: str, said: str, usable: bool, tmp_path: Path
) -> None:
    for seed, name in enumerate(NAMES, 1):
        write_case(tmp_path / "data", name, seed)
    (tmp_path / "withdrawn.txt").write_text(listed)
    standing = judge_dataset_list("glioma", config(tmp_path), tmp_path)
    assert standing is not None
    assert said in standing.said
    assert standing.usable == usable
    assert "00001" not in standing.said


def konsil(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


SITE = """schema = 1
[site]
name = "a"
consortium = "c"
state = "state"
[datasets.glioma]
source = "brats"
path = "data"
labels = { 1 = "ET" }
withdrawn = "withdrawn.txt"
[training]
command = ["PYTHON", "-m", "site_agent.training.null"]
""".replace("PYTHON", sys.executable)

EXPERIMENT = """schema = 1
id = "try"
sites = ["a"]
[task]
kind = "segmentation"
channels = ["T1c"]
regions = { ET = ["ET"] }
[data]
dataset = "glioma"
[net]
name = "Rehearsal"
[training]
patch = [16, 16, 16]
[rounds]
count = 2
"""


def test_the_operators_command_says_who_was_left_out_and_which_entries_are_nobodys(tmp_path: Path) -> None:
    for seed, name in enumerate(NAMES, 1):
        write_case(tmp_path / "data", name, seed)
    (tmp_path / "withdrawn.txt").write_bytes(b"\xef\xbb\xbfBraTS-GLI-00001\r\nBraTS-GLI-00022\r\n")
    (tmp_path / "site.toml").write_bytes(b"\xef\xbb\xbf" + SITE.encode())
    done = konsil(tmp_path, "site", "datasets", "--config", "site.toml")
    assert done.returncode == 0
    assert "glioma: 1 of 2 cases usable" in done.stdout
    assert "1 of 2 entries in the list of the withdrawn matched, 1 nobody's here (line 2)" in done.stdout
    assert "line 2: BraTS-GLI-00022 is nobody's here" in done.stdout
    (tmp_path / "e.toml").write_bytes(b"\xef\xbb\xbf" + EXPERIMENT.encode())
    done = konsil(tmp_path, "site", "datasets", "--config", "site.toml", "--experiment", "e.toml")
    assert (done.returncode, "glioma: 1 of 2 cases usable" in done.stdout) == (0, True)
    done = konsil(tmp_path, "site", "preflight", "--config", "site.toml", "--experiment", "e.toml")
    (line,) = [line for line in done.stdout.splitlines() if "dataset glioma" in line and "entries" in line]
    assert line.startswith("! dataset glioma")
    assert "1 of 2 cases usable" in line
    assert "1 nobody's here (line 2)" in line
    told = json.loads(konsil(tmp_path, "site", "datasets", "--config", "site.toml", "--json").stdout)
    assert told["datasets"]["glioma"]["withdrawn"]["nobody"] == [2]
    (tmp_path / "withdrawn.txt").write_text("brats-gli-00001\n")
    done = konsil(tmp_path, "site", "datasets", "--config", "site.toml")
    assert done.returncode == 2
    assert "the list of withdrawn patients is in doubt in line 1" in done.stderr
    assert "line 1: brats-gli-00001 may mean BraTS-GLI-00001" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_list_that_names_or_matches_fewer_than_before_is_told(tmp_path: Path) -> None:
    for seed, name in enumerate(NAMES, 1):
        write_case(tmp_path / "data", name, seed)
    whole, listed = "BraTS-GLI-00001\nBraTS-GLI-00002\n", tmp_path / "withdrawn.txt"

    def tell() -> str:
        standing = judge_dataset_list("glioma", config(tmp_path), tmp_path)
        assert standing is not None
        assert standing.told == ("FEWER" in standing.said or "nobody's" in standing.said)
        return standing.said

    listed.write_text(whole)
    assert "FEWER" not in tell()
    listed.write_text("BraTS-GLI-00001\n")
    for _ in range(2):
        assert tell().endswith("FEWER THAN BEFORE: it names 1, and did 2; FEWER THAN BEFORE: it matches 1, and did 2")
    listed.write_text("")
    stock = take_stock_of("glioma", config(tmp_path), tmp_path)
    assert stock.consent is not None
    assert "the list of the withdrawn names nobody; FEWER THAN BEFORE: it names 0, and did 1" in tell()
    assert stock.consent.say_counts() == tell()
    listed.write_text(whole)
    assert "FEWER" not in tell()
    (tmp_path / "data" / NAMES[1]).rename(tmp_path / "data" / "renamed")
    assert "FEWER THAN BEFORE: it matches 1, and did 2" in tell()


def test_an_image_that_everybody_has_tells_nobody_apart_and_that_is_told(tmp_path: Path) -> None:
    write_case(tmp_path / "data", "P1", 1)
    write_case(tmp_path / "data", "P2", 1)
    (tmp_path / "withdrawn.txt").write_text("P1\n")
    found = survey_cases(config(tmp_path), ["T1c"], ["ET"])
    assert ([case.key for case in found.cases], found.left_out) == (["P2"], {Reason.WITHDRAWN: 1})
    assert found.consent is not None
    assert "1 case used though they have images of the withdrawn: everybody here has them" in found.consent.say_counts()
    write_case(tmp_path / "data", "P3", 3)
    found = survey_cases(config(tmp_path), ["T1c"], ["ET"])
    assert ([case.key for case in found.cases], found.left_out) == (["P3"], {Reason.WITHDRAWN: 2})
