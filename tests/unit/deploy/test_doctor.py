"""`konsil doctor`: each planted fault is named with what to do, and a bundle holds nothing that names anybody."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sqlite3
import zipfile
from pathlib import Path

import pytest
from brokers import RealBroker
from places import TESTS

from coordinator.record.journal import lock_folder
from deploy.cli.command import run_command
from deploy.doctor.bundle import describe_lines, list_packages

STATE = TESTS / "audit" / "data" / "state-58c5dea.zip"
NOBODY = '[broker]\nhost = "127.0.0.1"\nport = 1\n'
PLANTED = ("Mueller", "hunter2", "mueller.example.org", "/data/", "glioma-of-mueller", "10.0.0.7")


def write_coordinator(folder: Path, *, broker: str = NOBODY, more: str = "", limits: str = "") -> Path:
    with zipfile.ZipFile(STATE) as state:
        state.extractall(folder / "state")
    (folder / "state").chmod(0o700)
    path = folder / "coordinator.toml"
    path.write_text(
        'schema = 1\n[coordinator]\nconsortium = "demo"\nstate = "state"\nsites = ["site-a"]\nresearchers = ["dr-a"]\n'
        + more + broker + limits
    )  # fmt: skip
    return path


def look(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, list[dict[str, str]]]]:
    """Exit status, and findings by name."""
    status = run_command(["doctor", str(path), "--json"])
    found: dict[str, list[dict[str, str]]] = {}
    for one in json.loads(capsys.readouterr().out)["checks"]:
        found.setdefault(one["name"], []).append(one)
    return status, found


def test_a_broker_that_is_not_there_is_named_first_among_what_stops_a_coordinator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = look(write_coordinator(tmp_path), capsys)
    assert status == 3
    assert found["broker"][0]["grade"] == "fail"
    assert "127.0.0.1:1" in found["broker"][0]["what"]
    assert [one["name"] for group in found.values() for one in group if one["grade"] == "fail"] == ["broker"]


def test_a_journal_that_is_broken_is_named_with_what_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_coordinator(tmp_path)
    with sqlite3.connect(tmp_path / "state" / "journal.sqlite") as db:
        db.execute("UPDATE entries SET data = zeroblob(length(data)) WHERE number = 20")
    status, found = look(path, capsys)
    assert status in {1, 3}
    assert found["journal"][0]["grade"] == "fail"
    assert "20" in found["journal"][0]["what"]


def test_a_disk_below_the_reserve_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = look(write_coordinator(tmp_path, limits='[limits]\ndisk_reserve = "900 TB"\n'), capsys)
    assert found["disk"][0]["grade"] == "fail"
    assert "rounds wait" in found["disk"][0]["what"]


def test_a_state_that_others_can_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_coordinator(tmp_path)
    (tmp_path / "state").chmod(0o755)
    assert look(path, capsys)[1]["state"][0]["advice"] == f"chmod 700 {tmp_path / 'state'}"


def test_whether_a_coordinator_runs_is_told_and_nothing_is_made_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_coordinator(tmp_path)
    before = sorted(os.listdir(tmp_path / "state"))
    assert look(path, capsys)[1]["service"][0]["grade"] == "warn"
    assert sorted(os.listdir(tmp_path / "state")) == before
    held = lock_folder(tmp_path / "state")
    try:
        assert look(path, capsys)[1]["service"][0]["grade"] == "ok"
    finally:
        os.close(held)


@pytest.mark.broker
def test_sites_that_give_no_sign_of_life_are_named(
    broker: RealBroker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = broker.address("coordinator")
    words = (
        f'[broker]\nhost = "{address.host}"\nport = {address.port}\nvhost = "{address.vhost}"\n'
        'password = "pw-coordinator"\n'
    )
    status, found = look(write_coordinator(tmp_path, broker=words), capsys)
    assert status == 0
    assert found["broker"][0]["grade"] == "ok"
    assert "site-a" in found["sites"][0]["what"]


def test_a_file_that_is_none_of_ours_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.toml"
    path.write_text('colour = "blue"\n')
    assert run_command(["doctor", str(path)]) == 2
    said = capsys.readouterr().err
    assert "neither site.toml nor coordinator.toml nor a profile" in said
    assert len(said.strip().splitlines()) == 1


def test_no_name_path_address_secret_or_free_text_goes_into_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "Mueller"
    folder.mkdir()
    broker = '[broker]\nhost = "mueller.example.org"\nport = 1\nuser = "Mueller"\npassword = "hunter2"\n'
    path = write_coordinator(folder, broker=broker, limits="[limits]\nopen_per_researcher = 7\n")
    log = folder / "log"
    log.write_text(
        json.dumps(
            {
                "event": "liveness",
                "level": "warning",
                "timestamp": "2026-12-01T00:00:00Z",
                "site": "Mueller",
                "reason": "/data/Mueller",
            }
        )
        + "\n"
        + json.dumps(
            {"event": "Mueller^Hans was read from /data/", "level": "10.0.0.7", "experiment": "glioma-of-mueller"}
        )
        + "\nTraceback: /data/Mueller\n"
    )
    out = tmp_path / "help.zip"
    run_command(["doctor", str(path), "--bundle", str(out), "--log", str(log), "--yes"])
    shown = capsys.readouterr().err
    with zipfile.ZipFile(out) as bundle:
        content = {name: bundle.read(name).decode() for name in bundle.namelist()}
    whole = "\n".join(content.values())
    assert not [word for word in PLANTED if word.lower() in whole.lower()]
    assert json.loads(content["settings.json"])["limits"]["open_per_researcher"] == 7
    assert {"event": "liveness", "level": "warning", "timestamp": "2026-12-01T00:00:00Z"} in json.loads(
        content["log.json"]
    )
    assert {"check": "broker", "grade": "fail"} in json.loads(content["findings.json"])
    assert all(f"--- {name}" in shown for name in content), "all of it is shown before it is written"


def test_a_bundle_does_not_write_over_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "help.zip"
    out.write_text("mine")
    assert run_command(["doctor", str(write_coordinator(tmp_path)), "--bundle", str(out), "--yes"]) == 2
    assert out.read_text() == "mine"
    assert "exists already" in capsys.readouterr().err


def test_only_our_own_sentences_of_a_log_are_kept() -> None:
    lines = [json.dumps({"event": "leaving", "level": "info"}), json.dumps({"event": "patient Mueller"}), "[]", "{"]
    assert describe_lines(lines) == [
        {"event": "leaving", "level": "info"},
        {},
        {"event": "lines that are none of ours", "reason": "2"},
    ]


def test_a_bundle_names_no_package_that_konsil_does_not_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mueller_pacs-1.0.dist-info").mkdir()
    (tmp_path / "mueller_pacs-1.0.dist-info" / "METADATA").write_text("Name: mueller-pacs\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.metadata.version("mueller-pacs") == "1.0"
    found = list_packages("konsil")
    assert "mueller-pacs" not in found
    assert {"konsil", "pika", "pydantic-core"} <= set(found)
