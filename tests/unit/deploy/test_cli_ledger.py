"""`konsil site ledger`: what left the site, as a person or a program reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deploy.site.cli import app
from messages.envelope import Author
from messages.ground.errors import RequestError, WorkFailed
from messages.kinds import Leaving
from messages.tensors.transfer import TransferKey
from site_agent.disk.spool import Spool


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A site whose agent has worked: one update, one event with its receipt and one without."""
    path = tmp_path / "site.toml"
    path.write_text(
        'schema = 1\n[site]\nname = "site-a"\nconsortium = "c"\nstate = "state"\n'
        '[broker]\nhost = "localhost"\npassword = "x"\n'
    )
    spool = Spool(tmp_path / "state")
    for number in (1, 2):
        spool.post_event(Author("c", "site-a").write_event("leaving", Leaving(), time=2e9, seq=number, attempt=number))
    spool.take_receipted(spool.list_waiting()[0].id, 1_764_000_000.0)
    for seal in ("", "5e" * 32, "5e" * 32):  # while it is written, once it is whole, and once it is sent again
        spool.note_leaving(TransferKey("exp-1", 3, "site-a", 1), 30_000_000, 1_764_000_000.0, seal)
    spool.close()
    return path


def test_it_is_a_table_with_a_sum(config: Path) -> None:
    told = CliRunner().invoke(app, ["ledger", "--config", str(config)])
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    assert any("2025-11-24 16:00:00Z" in one and "exp-1" in one and "30,000,000" in one for one in lines)
    assert sum("awaits its receipt" in one for one in lines) == 1
    assert lines[-1].startswith("2 events and 1 updates, 30,000,")


def test_for_programs_it_is_one_object_and_can_be_narrowed(config: Path) -> None:
    asked = ["ledger", "--config", str(config), "--experiment", "exp-1", "--since", "2025-11-24", "--json"]
    told = json.loads(CliRunner().invoke(app, asked).stdout)
    assert told["ledger"] == [
        {"time": 1_764_000_000.0, "kind": "update", "experiment": "exp-1", "round": 3, "bytes": 30_000_000}
        | {"settled": True, "id": "exp-1.3.site-a.1", "digest": "5e" * 32}
    ]
    assert (told["site"], told["consortium"], told["experiment"]) == ("site-a", "c", "exp-1")
    asked[6] = "2025-11-25"
    told = json.loads(CliRunner().invoke(app, asked).stdout)
    assert (told["ledger"], told["bytes"]) == ([], 0)


def test_where_no_agent_has_worked_it_says_so(config: Path) -> None:
    (config.parent / "state" / "spool.sqlite").unlink()
    told = CliRunner().invoke(app, ["ledger", "--config", str(config)])
    assert isinstance(told.exception, RequestError)
    assert "no agent has worked here" in str(told.exception)


def test_a_damaged_record_is_told(config: Path) -> None:
    (config.parent / "state" / "spool.sqlite").write_bytes(b"no database" * 1000)
    assert isinstance(CliRunner().invoke(app, ["ledger", "--config", str(config)]).exception, WorkFailed)
