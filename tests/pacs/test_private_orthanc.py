"""The private Orthanc: what it holds and whom it lets in, and that it never outlives its owner."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pydicom
import pytest
from brokers import eventually
from pynetdicom import AE

from deploy.orthanc import configuration
from deploy.orthanc.node import Missing, OrthancNode, find_orthanc
from messages.ground.errors import RequestError, WorkFailed

VERIFICATION = "1.2.840.10008.1.1"
MakeNode = Callable[..., OrthancNode]


def mr_slice(*, study: str, instance: int = 1) -> bytes:
    """The least that Orthanc takes as an MR image."""
    one = pydicom.Dataset()
    one.file_meta = pydicom.dataset.FileMetaDataset()
    one.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    one.SOPInstanceUID = f"{study}.1.{instance}"
    one.StudyInstanceUID, one.SeriesInstanceUID = study, f"{study}.1"
    one.PatientID, one.PatientName, one.Modality = "P1", "Muster^Erika", "MR"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, one, enforce_file_format=True)
    return buffer.getvalue()


TURNED_AWAY = ("rejected", "aborted")
"""Orthanc closes the line right behind its A-ASSOCIATE-RJ: pynetdicom may see the one or the other first."""


def echo(node: OrthancNode, *, calling: str, called: str) -> str:
    """How the node answers an association with one C-ECHO: "done", "rejected" or "aborted"."""
    entity = AE(ae_title=calling)
    entity.add_requested_context(VERIFICATION)
    association = entity.associate(node.host, node.dicom_port, ae_title=called)
    if not association.is_established:
        return "rejected" if association.is_rejected else "aborted"
    status = association.send_c_echo()
    association.release()
    return "done" if status and status.Status == 0 else "refused"


def studies(node: OrthancNode, authorization: str = "") -> tuple[int, bytes]:
    """Status and body of a QIDO-RS search for all studies."""
    connection = http.client.HTTPConnection(node.host, node.http_port, timeout=20)
    headers = {"Accept": "application/dicom+json"} | ({"Authorization": authorization} if authorization else {})
    connection.request("GET", "/dicom-web/studies", headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def test_what_is_stored_is_found_over_dicomweb(orthanc: OrthancNode, tmp_path: Path) -> None:
    content = mr_slice(study="1.2.3.4")
    orthanc.store_files(content)
    (tmp_path / "again").write_bytes(mr_slice(study="1.2.3.4", instance=2))
    orthanc.store_files(tmp_path / "again")
    status, body = studies(orthanc)
    assert status == 200
    assert [one["0020000D"]["Value"] for one in json.loads(body)] == [["1.2.3.4"]]
    assert orthanc.count_objects() == 2


def test_the_next_test_finds_it_empty(orthanc: OrthancNode) -> None:
    assert orthanc.count_objects() == 0


def test_what_is_no_dicom_is_refused_with_its_status(orthanc: OrthancNode) -> None:
    with pytest.raises(WorkFailed, match="400"):
        orthanc.store_files(b"a letter")


def test_only_registered_titles_that_call_it_by_its_name_get_an_association(orthanc: OrthancNode) -> None:
    assert echo(orthanc, calling="KONSIL", called="ORTHANC") == "done"
    assert echo(orthanc, calling="SOMEBODY", called="ORTHANC") in TURNED_AWAY
    assert echo(orthanc, calling="KONSIL", called="ANOTHER") in TURNED_AWAY


def test_a_title_that_is_registered_later_gets_in(orthanc: OrthancNode) -> None:
    assert echo(orthanc, calling="LATE COMER", called="ORTHANC") in TURNED_AWAY
    orthanc.register_modality("LATE COMER", "127.0.0.1", 11113)
    assert echo(orthanc, calling="LATE COMER", called="ORTHANC") == "done"


def test_a_node_that_is_not_strict_lets_any_title_in(make_orthanc: MakeNode) -> None:
    node = make_orthanc(strict_aet=False)
    assert echo(node, calling="ANYBODY", called="WHATEVER") == "done"


def test_with_users_nobody_gets_in_without_a_login(make_orthanc: MakeNode) -> None:
    node = make_orthanc(users={"reader": "pw"})
    node.store_files(mr_slice(study="1.2.3"))
    right, wrong = (f"Basic {base64.b64encode(login).decode()}" for login in (b"reader:pw", b"reader:no"))
    assert studies(node)[0] == studies(node, wrong)[0] == 401
    assert studies(node, right)[0] == 200
    assert json.loads((node.folder / "orthanc.json").read_text())["RegisteredUsers"]["reader"] == "pw"
    assert (node.folder / "orthanc.json").stat().st_mode & 0o077 == 0


def test_a_killed_node_starts_again_on_its_ports_with_its_data(make_orthanc: MakeNode) -> None:
    node = make_orthanc()
    ports = node.http_port, node.dicom_port
    node.store_files(mr_slice(study="1.2.3"))
    before = node.pid
    assert before is not None
    node.kill()
    assert node.pid is None
    assert not psutil.pid_exists(before)
    node.start()
    assert (node.http_port, node.dicom_port) == ports
    assert node.count_objects() == 1


def test_it_ends_with_its_context(make_orthanc: MakeNode, tmp_path: Path) -> None:
    make_orthanc()
    with OrthancNode(tmp_path / "own") as node:
        pid = node.pid
        assert pid is not None
    assert not psutil.pid_exists(pid)
    assert node.pid is None


def test_it_ends_with_its_owner_even_when_that_one_is_killed(make_orthanc: MakeNode, tmp_path: Path) -> None:
    make_orthanc()
    program = (
        "import sys; from pathlib import Path; from deploy.orthanc.node import OrthancNode\n"
        "with OrthancNode(Path(sys.argv[1])) as node: print(node.pid, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "theirs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert psutil.pid_exists(pid)
        os.kill(owner.pid, signal.SIGKILL)
        eventually(lambda: not psutil.pid_exists(pid), what="the end of the orphaned Orthanc")


def test_a_node_that_cannot_start_says_why(make_orthanc: MakeNode, tmp_path: Path) -> None:
    make_orthanc()
    folder = tmp_path / "broken"
    (folder / "storage").mkdir(parents=True)
    (folder / "storage" / "index").write_text("not a database " * 100)
    with pytest.raises(WorkFailed, match="ended while starting") as told:
        OrthancNode(folder).start()
    assert "orthanc.log" in told.value.where


def test_a_node_that_was_never_started_has_no_port(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="never started"):
        _ = OrthancNode(tmp_path).url


def test_a_missing_program_and_a_missing_plugin_are_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(configuration, "PROGRAM_FOLDERS", str(tmp_path))
    with pytest.raises(Missing, match="apt-get install orthanc orthanc-dicomweb"):
        find_orthanc()
    (tmp_path / "Orthanc").touch(mode=0o755)
    monkeypatch.setattr(configuration, "PLUGIN_FOLDERS", (tmp_path,))
    with pytest.raises(Missing, match="DICOMweb plugin"):
        find_orthanc()
    (tmp_path / "libOrthancDicomWeb.so.1.7").touch()
    assert find_orthanc() == configuration.Installed(tmp_path / "Orthanc", tmp_path / "libOrthancDicomWeb.so.1.7")
