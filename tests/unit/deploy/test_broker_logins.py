"""The private node's passwords as `file:PATH` in a configuration reads them."""

from __future__ import annotations

import stat
from pathlib import Path

from deploy.broker import roster
from messages.ground.settings import BrokerAddress


def test_each_login_has_a_file_that_a_configuration_can_name(tmp_path: Path) -> None:
    folder = tmp_path / "logins"
    made = roster.new_roster("glioma", roster.list_parties(["site-a", "site-b"], ["dr-a"], []))
    roster.write_roster(tmp_path, made)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for one in made.parties:
        file = folder / one.name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert BrokerAddress.model_validate({"password": f"file:{file}"}).resolved_password() == one.password


def test_a_login_that_is_gone_leaves_no_password_behind(tmp_path: Path) -> None:
    folder = tmp_path / "logins"
    made = roster.new_roster("glioma", roster.list_parties(["site-a", "site-b"], [], []))
    roster.write_roster(tmp_path, made)
    roster.write_roster(tmp_path, made.without_parties(["site-b"]))
    assert {one.name for one in folder.iterdir()} == {"coordinator", "site-a"}
