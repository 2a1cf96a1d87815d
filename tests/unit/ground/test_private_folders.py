"""What a service keeps is nobody else's to read, however it was started."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.record.journal import Journal
from messages.ground.durable import open_private_folder
from site_agent.disk.spool import Spool


def open_to_others(folder: Path) -> list[str]:
    """Files below that somebody else could read, since each folder above lets them through."""
    if folder.stat().st_mode & 0o077 == 0:
        return []
    return [str(path) for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]


@pytest.mark.parametrize("service", [Journal, Spool])
def test_a_state_folder_that_was_made_under_another_umask_is_closed_to_others(
    service: type[Journal] | type[Spool], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    before = os.umask(0o022)
    try:
        state.mkdir(mode=0o755)
        (state / "older").write_text("a patient's image")
        service(state).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert open_to_others(state) == []


def test_a_folder_of_somebody_else_is_left_as_it_is(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o770)
    folder.chmod(0o770)
    os.chown(folder, 12345, 0)
    open_private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o770


@pytest.mark.parametrize("module", ["coordinator", "site_agent"])
def test_a_service_that_is_started_by_hand_has_its_units_umask(module: str, tmp_path: Path) -> None:
    run = {"coordinator": "run_service", "site_agent": "run_agent"}[module]
    code = f"import os, pathlib\nfrom {module} import service\n"
    code += f"service.{run}(pathlib.Path({str(tmp_path / 'none.toml')!r}))\nprint(oct(os.umask(0)))"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=Path.cwd(), capture_output=True, text=True, check=True, umask=0o022
    )
    assert said.stdout.splitlines()[-1] == "0o77"
