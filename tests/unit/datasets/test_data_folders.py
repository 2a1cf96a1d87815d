"""Whatever lies in a data folder, and however it is called: nothing hangs, nothing ends the survey of the others."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from nifti_files import OTHER, describe, list_datasets, save_case, save_pair, say_datasets, survey, write_site

from messages.reasons import Reason
from site_agent.data.guard import look_at
from site_agent.datasets.opening import NotRegular, open_file, show_name
from site_agent.datasets.source import survey_cases

LATIN = os.fsdecode("M\xfcller-01".encode("latin-1"))
ODD = "new\nline \x1b[31m\u202e"


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the address of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path.name)
    finally:
        os.chdir(here)


KINDS = {
    "pipe": put_pipe,
    "socket": put_socket,
    "link to itself": lambda path: path.symlink_to(path),
    "link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
    "link to a device": lambda path: path.symlink_to("/dev/zero"),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ["t1c", "seg"])
def test_what_is_no_regular_file_is_told_and_never_waited_for(tmp_path: Path, kind: str, role: str) -> None:
    file = save_pair(tmp_path / "data") / f"{OTHER}-{role}.nii.gz"
    file.unlink()
    KINDS[kind](file)
    status, told = list_datasets(write_site(tmp_path))
    assert (status, told["found"], told["used"]) == (0, 2, 1)
    missing = {"t1c": "no-image", "seg": "no-label"}[role]
    assert told["left_out"] == {missing if kind == "folder" else "unreadable": 1}
    assert look_at(describe(tmp_path / "data")).files >= 3


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_beside_the_cases_harms_none(tmp_path: Path, kind: str) -> None:
    save_pair(tmp_path / "data")
    KINDS[kind](tmp_path / "data" / "stray")
    (tmp_path / "data" / "round").symlink_to(tmp_path / "data")
    (tmp_path / "data" / OTHER / "up").symlink_to("..")
    found = survey(tmp_path / "data")
    assert len(found.cases) == 2
    # a link that leads nowhere may have been a case on a disk that is away
    assert found.left_out == ({Reason.UNREADABLE: 1} if kind.startswith("link to n") or "itself" in kind else {})
    look_at(describe(tmp_path / "data"))


@pytest.mark.timeout(60)
def test_a_pipe_for_dataset_json_is_told(tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    os.mkfifo(tmp_path / "data" / "dataset.json")
    status, told = list_datasets(write_site(tmp_path, "decathlon"))
    assert status == 2
    assert "dataset.json: is a pipe" in told["error"]


def test_a_pipe_is_refused_before_anybody_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotRegular, match="a named pipe"):
        open_file(tmp_path / "pipe")
    with pytest.raises(NotRegular, match="a device"):
        open_file("/dev/null")


@pytest.mark.parametrize("name", [LATIN, ODD], ids=["latin-1", "control characters"])
def test_any_name_works_in_survey_cache_and_on_the_console(tmp_path: Path, name: str) -> None:
    save_case(tmp_path / "data", "good")
    spoilt = save_case(tmp_path / "data", name)
    cache = tmp_path / "state" / "survey.sqlite"
    for _ in range(2):  # the second time out of the cache
        found = survey_cases(describe(tmp_path / "data"), ["T1c"], ["NCR"], cache=cache)
        assert {case.key for case in found.cases} == {"good", name}
    (spoilt / f"{name}-seg.nii.gz").write_bytes(b"\0")
    status, told = list_datasets(write_site(tmp_path))
    assert (status, told["used"]) == (0, 1)
    (detail,) = told["details"]
    assert detail.isprintable()
    assert show_name(name) in detail
    assert len([line for line in say_datasets(tmp_path / "site.toml").splitlines() if "unreadable" in line]) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_told(tmp_path: Path) -> None:
    (save_pair(tmp_path) / f"{OTHER}-seg.nii.gz").chmod(0)
    (detail,) = survey(tmp_path).details
    assert "no permission" in detail.text
