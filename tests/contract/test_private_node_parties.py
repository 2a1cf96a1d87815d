"""`konsil broker` keeps a node what it is: its consortium and logins stay, and parties come and go while it runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from needs import lacks
from typer.testing import CliRunner

from deploy.broker import cli, roster
from deploy.broker.definitions import render_definitions
from deploy.broker.node import PrivateNode, find_server
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.ground.errors import KonsilError, RequestError, Unreachable
from messages.ground.settings import BrokerAddress


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "konsil" / "broker"


def konsil(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli.app, [*words, "--json"])
    if done.exception is not None:
        raise done.exception
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def command(*words: str) -> dict[str, Any]:
    """The same as a process of its own, as which a node outlives it."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "broker", *words, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def log_in(logins: Path, up: dict[str, Any], name: str) -> None:
    """With what the node's folder holds for this login; raises LoginRefused."""
    files = {"ca": up["ca"], "cert": logins / f"{name}.pem", "key": str(logins / f"{name}.key")}
    address = BrokerAddress.model_validate(files | {"port": up["port"], "vhost": "glioma", "login": "certificate"})
    bus = RabbitBus(address, name)
    try:
        bus.connect(10.0)
    finally:
        bus.close()


def kept(home: Path) -> dict[str, str]:
    made = roster.new_roster("glioma", roster.list_parties(["north", "south"], ["dr-x"], []))
    home.mkdir(parents=True)
    roster.write_roster(home, made)
    return made.passwords


def test_a_node_that_was_made_is_not_started_as_another_consortium(home: Path) -> None:
    kept(home)
    with pytest.raises(RequestError, match="this node is the consortium 'glioma'"):
        konsil("up", "--consortium", "demo")


def test_parties_are_added_and_removed_and_nobody_else_loses_a_password(home: Path) -> None:
    before = kept(home)
    answer = konsil("add", "--site", "west")
    assert answer["added"] == ["west"]
    assert set(answer["users"]) == {*before, "west"}
    assert konsil("remove", "south")["removed"] == ["south"]
    now = roster.read_roster(home)
    assert now is not None
    assert {name: now.passwords[name] for name in ("coordinator", "north", "dr-x")} == {
        name: before[name] for name in ("coordinator", "north", "dr-x")
    }
    assert {one.name for one in (home / "logins").iterdir()} == set(now.names) == {*before, "west"} - {"south"}
    users = {one["name"] for one in json.loads((home / "definitions.json").read_text())["users"]}
    assert users == set(now.names)


def test_what_is_forgotten_is_named(home: Path) -> None:
    before = kept(home)
    assert set(konsil("down", "--forget")["forgotten"]) == set(before)
    assert roster.read_roster(home) is None


def test_logins_by_certificate_and_tls_beside_plain_amqp_exclude_each_other(home: Path) -> None:
    kept(home)
    with pytest.raises(RequestError, match="know TLS alone"):
        konsil("up", "--login", "certificate", "--tls")


@pytest.mark.parametrize("words", [("remove", "nobody"), ("remove", "coordinator"), ("add", "--researcher", "north")])
def test_a_party_that_cannot_be_changed_so_is_said(home: Path, words: tuple[str, ...]) -> None:
    kept(home)
    with pytest.raises(KonsilError):
        konsil(*words)


def test_a_node_of_an_earlier_version_keeps_its_roles(home: Path) -> None:
    before = kept(home)
    made = roster.read_roster(home)
    assert made is not None
    (home / "definitions.json").write_text(json.dumps(render_definitions("glioma", made.parties)))
    plain = {"consortium": "glioma", "passwords": before}
    (home / "logins.json").write_text(json.dumps(plain))
    assert roster.read_roster(home) == made


def test_definitions_that_are_rendered_again_are_the_same_but_for_what_changed(home: Path) -> None:
    kept(home)
    made = roster.read_roster(home)
    assert made is not None
    first = render_definitions("glioma", made.parties)
    (home / "definitions.json").write_text(json.dumps(first))
    again = roster.with_known_hashes(render_definitions("glioma", made.parties), home, made)
    assert again == first


def test_definitions_for_a_broker_name_who_is_dropped(tmp_path: Path) -> None:
    out = str(tmp_path / "definitions.json")
    common = ("definitions", "--consortium", "glioma", "--out", out, "--site", "north")
    konsil(*common, "--site", "south")
    assert konsil(*common)["dropped"] == ["south"]


def test_definitions_over_those_of_0_1_keep_the_old_exchange_until_they_are_told_to_close_it(tmp_path: Path) -> None:
    out = tmp_path / "definitions.json"
    common = ("definitions", "--consortium", "glioma", "--out", str(out), "--site", "north")
    begun = konsil(*common)
    assert "old_exchange" not in begun, "who begins now needs none"
    assert begun["settings"] == ["max_message_size = 16777216", "channel_max = 257"]
    out.write_text((Path(__file__).parent / "data" / "definitions-topology-1.json").read_text())
    assert "--no-old-exchange" in konsil(*common)["old_exchange"]
    assert "--no-old-exchange" in konsil(*common)["old_exchange"]
    assert "old_exchange" not in konsil(*common, "--no-old-exchange")
    assert "old_exchange" not in konsil(*common)
    assert "old_exchange" in konsil(*common, "--old-exchange")


@pytest.mark.broker
@pytest.mark.timeout(600)
def test_down_and_a_plain_up_bring_the_same_node_back_and_parties_come_and_go_while_it_runs(
    home: Path, tmp_path: Path
) -> None:
    try:
        find_server()
    except Unreachable:
        lacks("RabbitMQ")
    try:
        command("up", "--consortium", "glioma", "--site", "north", "--researcher", "dr-x")
        before = roster.read_roster(home)
        assert before is not None
        command("down")
        gone = shutil.copytree(home / "logins", tmp_path / "gone")
        command("remove", "dr-x")
        up = command("up")
        assert up["consortium"] == "glioma"
        assert roster.read_roster(home) == before.without_parties(["dr-x"])
        with pytest.raises(KonsilError, match="refuses the login 'dr-x'"):
            log_in(gone, up, "dr-x")
        assert up["login"] == "certificate"
        log_in(home / "logins", up, "north")
        command("add", "--site", "west")
        log_in(home / "logins", up, "west")
        stolen = shutil.copytree(home / "logins", tmp_path / "stolen")
        command("remove", "west")
        assert not (home / "logins" / "west.key").exists()
        with pytest.raises(KonsilError, match="refuses the login 'west'"):
            log_in(stolen, up, "west")
        log_in(home / "logins", up, "north")
        assert command("status")["users"] == ["coordinator", "north"]
    finally:
        PrivateNode(home, detached=True).stop()
