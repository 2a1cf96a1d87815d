"""`konsil provision` on files alone: from the operator's folder to a party's configuration, and every bad input."""

from __future__ import annotations

import base64
import json
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from coordinator import config as coordinator_config
from deploy.broker import certificates
from deploy.broker.definitions import password_hash, render_definitions
from deploy.broker.topology import Party
from deploy.cli import command
from deploy.provision import kit as kits
from deploy.provision import pair, request, texts
from deploy.provision.broker_files import BrokerFolder
from deploy.session import profile as profiles
from messages.bus.amqp import tls
from messages.ground.errors import RequestError
from messages.trust.keys import make_key, say_fingerprint
from messages.trust.register import KeyEntry, read_register
from messages.trust.settings import load_trust
from site_agent import config as site_config

NOW = 1_800_000_000.0


@dataclass
class Desk:
    """A folder with the operator's and the parties' folders, and the command as they type it."""

    place: Path
    capsys: pytest.CaptureFixture[str]

    @property
    def office(self) -> Path:
        return self.place / "office"

    def run(self, *words: str | Path) -> tuple[int, str, str]:
        status = command.run_command(["provision", *map(str, words)])
        said = self.capsys.readouterr()
        return status, said.out, said.err

    def do(self, *words: str | Path) -> str:
        status, out, err = self.run(*words)
        assert status == 0, err
        return out

    def refuse(self, *words: str | Path) -> str:
        """The one line by which the command refuses."""
        status, _out, err = self.run(*words)
        assert status == 2, err
        *_, line = err.splitlines()
        assert "Traceback" not in err
        return line

    def ask(self, name: str, role: str = "site", *more: str | Path) -> Path:
        self.do("request", name, "--role", role, "--out", self.place / name, *more)
        return self.place / name / f"{name}.request"

    def approve(self, *requests: Path) -> None:
        self.do("approve", *requests, "--folder", self.office, "--yes")

    def kit(self, name: str) -> Path:
        return self.office / "kits" / f"{name}.kit"

    def install(self, name: str) -> str:
        return self.do("install", self.kit(name), "--into", self.place / name, "--yes")

    def listed(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.do("list", "--folder", self.office, "--json"))
        return found

    def party(self, name: str) -> dict[str, Any]:
        return next(one for one in self.listed()["parties"] if one["name"] == name)

    def definitions(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.office / "broker" / "definitions.json").read_text())
        return found


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("founded")
    init = ["provision", "init", str(place / "office"), "--consortium", "glioma", "--host", "broker.example.org"]
    assert command.run_command(init) == 0
    return place / "office"


@pytest.fixture
def desk(founded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    shutil.copytree(founded, tmp_path / "office")
    return Desk(tmp_path, capsys)


def test_from_nothing_to_configurations_that_each_party_can_run_with(desk: Desk) -> None:
    asked = [desk.ask("site-a"), desk.ask("dr-a", "researcher"), desk.ask("looker", "viewer")]
    desk.approve(*asked)
    for name in ("site-a", "dr-a", "looker"):
        desk.install(name)
    site = site_config.read_config(desk.place / "site-a" / "site.toml")
    person = profiles.load_profile(desk.place / "dr-a" / "profile.toml")
    viewer = profiles.load_profile(desk.place / "looker" / "profile.toml")
    head = coordinator_config.read_config(desk.office / "coordinator" / "coordinator.toml")
    assert (head.coordinator.sites, head.coordinator.researchers) == (("site-a",), ("dr-a",))
    assert (person.role, viewer.role) == ("researcher", "viewer")
    for name, config in (("site-a", site), ("dr-a", person), ("looker", viewer), ("coordinator", head)):
        assert config.trust is not None
        assert load_trust(config.trust, "glioma", name).key.public
        assert (config.broker.host, config.broker.port, config.broker.login) == (
            "broker.example.org",
            5671,
            "certificate",
        )
        assert tls.make_options(config.broker) is not None, "certificate and key fit"
    assert [one["name"] for one in desk.definitions()["users"]] == ["coordinator", "site-a", "dr-a", "looker"]
    assert {one["password_hash"] for one in desk.definitions()["users"]} == {""}, "nobody has a password"


def test_no_private_key_leaves_its_folder_and_nobody_else_can_read_it(desk: Desk) -> None:
    asked = desk.ask("site-a")
    desk.approve(asked)
    for file in (asked, desk.kit("site-a"), *(desk.office / "broker").glob("*.json")):
        assert "PRIVATE" not in file.read_text()
    own = {path: stat.S_IMODE(path.stat().st_mode) for path in (desk.place / "site-a" / "keys").iterdir()}
    assert set(own.values()) == {0o600}
    secrets = [path for path in desk.office.rglob("*") if path.is_file() and "PRIVATE" in path.read_text()]
    assert {path.relative_to(desk.office).as_posix() for path in secrets} == {
        "operator.key",
        "ca/ca.key",
        "broker/server.key",
        "coordinator/keys/event.key",
        "coordinator/keys/tls.key",
    }
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets} == {0o600}


def test_an_altered_letter_of_a_request_is_found(desk: Desk) -> None:
    whole = desk.ask("site-a").read_bytes()
    for place in range(0, len(whole), 5):
        altered = bytearray(whole)
        altered[place] ^= 1
        try:
            found = request.read_request(bytes(altered), "x")
        except RequestError:
            continue
        pytest.fail(f"byte {place}: {found}")
    asked = desk.place / "site-a" / "site-a.request"
    asked.write_bytes(whole.replace(b'"role": "site"', b'"role": "auditor"'))
    assert "it was altered on its way" in desk.refuse("approve", asked, "--folder", desk.office, "--yes")


def test_the_tls_key_of_another_cannot_be_taken_into_ones_own_request() -> None:
    mine, theirs = (pair.PartyKeys(make_key(), certificates.make_tls_key()) for _ in range(2))
    stolen = json.loads(_content(request.write_request(theirs, "site-a", "site", NOW)))["csr"]
    own = request.read_request(request.write_request(mine, "site-a", "site", NOW), "x")
    plain = own.model_copy(update={"csr": stolen}).model_dump(mode="json")
    note = kits.Note(f"{request.HEADING}\n{json.dumps(plain)}\n").with_signature("site-a", mine.event)
    with pytest.raises(RequestError, match="did not sign this"):
        request.read_request(note.encode(), "x")


def _content(data: bytes) -> str:
    return data.decode().partition("\n")[2].rpartition("\n\n")[0]


def test_the_words_that_are_read_out_decide(desk: Desk) -> None:
    asked = desk.ask("site-a")
    words = request.read_request(asked.read_bytes(), "x").words
    other = say_fingerprint(make_key().public)
    told = desk.refuse("approve", asked, "--folder", desk.office, "--fingerprint", other)
    assert "the fingerprint is another" in told
    assert not desk.kit("site-a").exists()
    desk.do("approve", asked, "--folder", desk.office, "--fingerprint", words.upper())
    into = ("install", desk.kit("site-a"), "--into", desk.place / "site-a")
    assert "the fingerprint is another" in desk.refuse(*into, "--operator", other)
    assert not (desk.place / "site-a" / "site.toml").exists()
    assert "nobody is here to be asked" in desk.refuse(*into)
    desk.do(*into, "--operator", desk.listed()["operator"]["words"])


def test_the_same_request_again_makes_the_kit_again_and_another_one_of_the_name_is_refused(desk: Desk) -> None:
    asked = desk.ask("site-a")
    desk.approve(asked)
    desk.kit("site-a").unlink()
    desk.approve(asked)
    assert desk.listed()["register"] == 2
    shutil.rmtree(desk.place / "site-a")
    again = desk.ask("site-a")
    assert "the name 'site-a' is taken" in desk.refuse("approve", again, "--folder", desk.office, "--yes")
    desk.do("approve", again, "--folder", desk.office, "--yes", "--lost")
    desk.install("site-a")
    assert desk.party("site-a")["revoked"] is None


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda desk: desk.kit("site-b"), r"this kit is for site-b"),
        (lambda desk: desk.place / "elsewhere.kit", "this kit is for another key"),
        (lambda desk: desk.place / "none.kit", "none.kit"),
        (lambda desk: desk.place / "site-a" / "site-a.request", "this is no kit"),
        (lambda desk: desk.place / "altered.kit", "it was altered on its way"),
    ],
)
def test_a_kit_that_is_not_ones_own_is_refused(desk: Desk, spoil: Callable[[Desk], Path], told: str) -> None:
    desk.approve(desk.ask("site-a"), desk.ask("site-b"))
    (desk.place / "altered.kit").write_bytes(
        desk.kit("site-a").read_bytes().replace(b"broker.example", b"broken.example")
    )
    (desk.place / "elsewhere.kit").write_bytes(desk.kit("site-a").read_bytes())
    if told.endswith("another key"):
        shutil.rmtree(desk.place / "site-a")
        desk.ask("site-a")
    assert told in desk.refuse("install", spoil(desk), "--into", desk.place / "site-a", "--yes")
    assert not (desk.place / "site-a" / "ca.pem").exists()


def test_a_kit_of_another_operator_is_refused_once_one_is_known(desk: Desk) -> None:
    asked = desk.ask("site-a")
    desk.approve(asked)
    desk.install("site-a")
    rogue = desk.place / "rogue"
    desk.do("init", rogue, "--consortium", "glioma", "--host", "broker.example.org")
    desk.do("approve", asked, "--folder", rogue, "--yes")
    told = desk.refuse("install", rogue / "kits" / "site-a.kit", "--into", desk.place / "site-a", "--yes")
    assert "this kit is of another operator" in told


def test_a_configuration_that_is_there_is_left_as_it_is(desk: Desk) -> None:
    desk.approve(desk.ask("site-a"))
    desk.install("site-a")
    mine = desk.place / "site-a" / "site.toml"
    mine.write_text(mine.read_text() + "\n[limits]\nthreads = 2\n")
    before = mine.read_text()
    assert "left as it is" in desk.install("site-a")
    assert mine.read_text() == before


def test_renewed_keys_overlap_with_the_old_ones(desk: Desk) -> None:
    desk.approve(desk.ask("site-a"))
    desk.install("site-a")
    folder, before = desk.place / "site-a", pair.read_keys(desk.place / "site-a" / "keys")
    desk.do("renew", folder)
    assert "a renewal waits for its kit already" in desk.refuse("renew", folder)
    assert pair.read_keys(folder / "keys").event.public == before.event.public, "the old ones go on until the kit comes"
    desk.approve(folder / "site-a.request")
    assert "restart" in desk.install("site-a")
    config = site_config.read_config(folder / "site.toml")
    assert config.trust is not None
    trust = load_trust(config.trust, "glioma", "site-a")
    assert trust.key.public != before.event.public
    assert tls.make_options(config.broker) is not None
    made = trust.register.made
    assert set(trust.register.keys_of("site-a", made)) == {before.event.public, trust.key.public}
    assert trust.register.keys_of("site-a", made + 15 * 86400) == (trust.key.public,)


def test_a_renewal_that_the_old_key_did_not_sign_is_none(desk: Desk) -> None:
    desk.approve(desk.ask("site-a"))
    old = pair.read_keys(desk.place / "site-a" / "keys").event
    thief = pair.PartyKeys(make_key(), certificates.make_tls_key())
    data = request.write_request(thief, "site-a", "site", NOW, old=old)
    forged = b"\n".join(data.split(b"\n")[:-2]) + b"\n"  # without the last signature, the old key's
    path = desk.place / "forged.request"
    path.write_bytes(forged)
    assert "its keys did not sign this" in desk.refuse("approve", path, "--folder", desk.office, "--yes")
    path.write_bytes(request.write_request(thief, "site-a", "site", NOW, old=make_key()))
    assert "the old key of this request is none" in desk.refuse("approve", path, "--folder", desk.office, "--yes")


def test_the_coordinator_and_the_brokers_certificate_are_renewed_in_the_operators_folder(desk: Desk) -> None:
    server = (desk.office / "broker" / "server.pem").read_bytes()
    key = pair.read_keys(desk.office / "coordinator" / "keys").event.public
    desk.do("renew", desk.office)
    assert (desk.office / "broker" / "server.pem").read_bytes() != server
    assert pair.read_keys(desk.office / "coordinator" / "keys").event.public != key
    assert desk.listed()["register"] == 2


def test_the_coordinator_s_stolen_keys_are_revoked_and_its_name_is_bound_to_new_ones(desk: Desk) -> None:
    def entries() -> list[KeyEntry]:
        note = (desk.office / "register.note").read_bytes()
        register = read_register(note, bytes.fromhex(desk.listed()["operator"]["key"]), "glioma")
        assert (desk.office / "coordinator" / "register.note").read_bytes() == note
        return [one for one in register.keys if one.name == "coordinator"]

    certificate = (desk.office / "coordinator" / "keys" / "tls.pem").read_bytes()
    told = desk.do("revoke", "coordinator", "--folder", desk.office, "--reason", "stolen", "--yes")
    assert "restart the coordinator" in told
    old, new = entries()
    assert old.revoked is not None
    assert new.revoked is None
    assert pair.read_keys(desk.office / "coordinator" / "keys").event.public == new.public
    assert (desk.office / "coordinator" / "keys" / "tls.pem").read_bytes() != certificate
    assert desk.party("coordinator")["reason"] == ""
    desk.do("renew", desk.office)  # as ever
    assert [one.revoked is None for one in entries()] == [False, True, True]


def test_who_is_revoked_is_gone_from_the_brokers_files_and_its_name_is_never_given_again(desk: Desk) -> None:
    desk.approve(desk.ask("site-a"), desk.ask("site-b"), desk.ask("dr-a", "researcher"))
    told = desk.do("revoke", "site-b", "--folder", desk.office, "--reason", "key stolen", "--yes")
    assert "rabbitmqctl delete_user site-b" in told
    assert "rabbitmqctl close_all_user_connections site-b revoked" in told
    assert "site-b" not in [one["name"] for one in desk.definitions()["users"]]
    row = desk.party("site-b")
    assert row["revoked"] is not None
    assert row["reason"] == "key stolen"
    head = coordinator_config.read_config(desk.office / "coordinator" / "coordinator.toml")
    assert head.coordinator.sites == ("site-a",)
    shutil.rmtree(desk.place / "site-b")
    again = desk.ask("site-b")
    for more in ((), ("--lost",)):
        assert "'site-b' was revoked" in desk.refuse("approve", again, "--folder", desk.office, "--yes", *more)
    assert "was revoked already" in desk.refuse("revoke", "site-b", "--folder", desk.office, "--yes")
    assert "nobody is named 'site-z'" in desk.refuse("revoke", "site-z", "--folder", desk.office, "--yes")
    note = (desk.office / "register.note").read_bytes()
    register = read_register(note, bytes.fromhex(desk.listed()["operator"]["key"]), "glioma")
    assert register.is_barred("site-b", register.made)
    assert "key stolen" not in note.decode(), "the operator's words stay in the folder"


def test_signatures_are_required_once_and_for_ever(desk: Desk) -> None:
    assert "nobody is here to be asked" in desk.refuse("require-signatures", "--folder", desk.office)
    desk.do("require-signatures", "--folder", desk.office, "--yes")
    assert desk.listed()["signatures"] == "required"
    assert "required already" in desk.refuse("require-signatures", "--folder", desk.office, "--yes")
    desk.approve(desk.ask("site-a"))
    assert desk.listed()["signatures"] == "required"


def test_the_coordinators_lists_follow_and_the_rest_of_its_file_stays() -> None:
    members = [("coordinator", "coordinator"), ("site-a", "site"), ("site-b", "site"), ("dr-a", "researcher")]
    mine = '# mine\n[coordinator]\nsites = [\n  "site-a",\n]\nresearchers = ["dr-a"]\n[limits]\ncases_max = 7\n'
    changed = texts.change_lists(mine, members)
    assert changed == mine.replace('[\n  "site-a",\n]', '["site-a", "site-b"]')
    for other in ("[coordinator]\nsites = []\n", "sites = []\nresearchers = []\n", '# sites = ["x"]\n', "[coordinator"):
        assert texts.change_lists(other, members) is None


def test_keys_with_a_passphrase_open_with_it_alone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk.place)
    for name, text in (("right", "correct horse"), ("wrong", "battery staple")):
        (desk.place / name).write_text(text + "\n")
    locked, mine = desk.place / "locked", "file:right"
    desk.do("init", locked, "--consortium", "glioma", "--host", "localhost", "--passphrase", mine)
    asked = desk.ask("site-a", "site", "--passphrase", mine)
    for key in (locked / "operator.key", locked / "ca" / "ca.key", *(desk.place / "site-a" / "keys").iterdir()):
        assert "ENCRYPTED" in key.read_text()
    approve = ("approve", asked, "--folder", locked, "--yes")
    assert "nobody is here to be asked" in desk.refuse(*approve)
    assert "the passphrase is wrong" in desk.refuse(*approve, "--passphrase", "file:wrong")
    assert "cannot read the secret" in desk.refuse(*approve, "--passphrase", "file:none")
    assert "no passphrase belongs on a command line" in desk.refuse(*approve, "--passphrase", "correct horse")
    desk.do(*approve, "--passphrase", mine)
    desk.do("install", locked / "kits" / "site-a.kit", "--into", desk.place / "site-a", "--yes")
    monkeypatch.chdir("/")
    config = site_config.read_config(desk.place / "site-a" / "site.toml")
    assert config.trust is not None
    assert load_trust(config.trust, "glioma", "site-a")
    assert tls.make_options(config.broker) is not None


def test_who_cannot_show_a_certificate_logs_in_by_a_password_that_it_alone_knows(
    desk: Desk,
) -> None:
    asked = desk.ask("site-a", "site", "--password-login")
    assert "by PASSWORD" in desk.do("approve", asked, "--folder", desk.office, "--yes")
    desk.install("site-a")
    broker = site_config.read_config(desk.place / "site-a" / "site.toml").broker
    assert (broker.login, broker.cert) == ("password", None)
    word = broker.resolved_password()
    kept = {one["name"]: one["password_hash"] for one in desk.definitions()["users"]}
    assert kept["site-a"] == password_hash(word, base64.b64decode(kept["site-a"])[:4])
    assert kept["coordinator"] == ""
    assert word not in asked.read_text() + desk.kit("site-a").read_text()
    conf = (desk.office / "broker" / "rabbitmq.conf").read_text().splitlines()
    assert {"auth_mechanisms.2 = PLAIN", "ssl_options.fail_if_no_peer_cert = false"} <= set(conf)
    assert desk.party("site-a")["login"] == "password"


def test_who_logs_in_by_password_already_goes_on_until_it_has_keys(desk: Desk) -> None:
    old = desk.place / "definitions.json"
    parties = (Party("coordinator", "coordinator", "c"), Party("site-a", "site", "a"), Party("dr-a", "researcher", "r"))
    old.write_text(json.dumps(render_definitions("glioma", parties)))
    hashes = {one["name"]: one["password_hash"] for one in json.loads(old.read_text())["users"]}
    shutil.rmtree(desk.office)
    init = ("init", desk.office, "--host", "localhost", "--before", old)
    assert "these definitions are of glioma" in desk.refuse(*init, "--consortium", "lung")
    desk.do(*init, "--consortium", "glioma")

    def kept() -> dict[str, str]:
        return {one["name"]: one["password_hash"] for one in desk.definitions()["users"]}

    assert kept() == hashes | {"coordinator": ""}
    wrong = desk.ask("dr-a", "auditor")
    assert "'dr-a' is a researcher already" in desk.refuse("approve", wrong, "--folder", desk.office, "--yes")
    desk.approve(desk.ask("site-a"))
    assert kept() == {"coordinator": "", "site-a": "", "dr-a": hashes["dr-a"]}
    assert desk.party("dr-a")["login"] == "password"
    head = coordinator_config.read_config(desk.office / "coordinator" / "coordinator.toml")
    assert (head.coordinator.sites, head.coordinator.researchers) == (("site-a",), ("dr-a",))
    assert "no key yet" in desk.do("list", "--folder", desk.office)
    desk.do("revoke", "dr-a", "--folder", desk.office, "--yes")
    assert set(kept()) == {"coordinator", "site-a"}


def test_the_brokers_files_know_certificates_alone(desk: Desk) -> None:
    conf = (desk.office / "broker" / "rabbitmq.conf").read_text().splitlines()
    wanted = {
        "listeners.tcp = none",
        "ssl_options.verify = verify_peer",
        "ssl_options.fail_if_no_peer_cert = true",
        "auth_mechanisms.1 = EXTERNAL",
        "ssl_cert_login_from = common_name",
    }
    assert wanted <= set(conf)
    assert not [line for line in conf if "PLAIN" in line]
    assert (desk.office / "broker" / "enabled_plugins").read_text() == "[rabbitmq_auth_mechanism_ssl].\n"
    node = BrokerFolder(desk.office / "broker").open_node(5671)
    assert node.directory == desk.office / "node", "a private node's data are not among what is copied to a broker"


def test_the_brokers_files_are_written_again_out_of_the_register(desk: Desk) -> None:
    desk.approve(desk.ask("site-a"))
    before = desk.definitions()
    (desk.office / "broker" / "definitions.json").write_text("{}")
    assert "rabbitmqctl import_definitions" in desk.do("render", "--folder", desk.office)
    assert desk.definitions() == before


def test_what_cannot_be_is_told_in_one_line(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    init = ("--consortium", "glioma", "--host", "localhost")
    assert "there is something already" in desk.refuse("init", desk.office, *init)
    assert "is no host name" in desk.refuse("init", desk.place / "new", "--consortium", "glioma", "--host", "a b")
    assert "is not allowed" in desk.refuse("init", desk.place / "new", "--consortium", "Glioma!", "--host", "localhost")
    assert not (desk.place / "new").exists()
    request_ = ("request", "site-a", "--out", desk.place / "site-a", "--role")
    status, _out, err = desk.run(*request_, "king")
    assert (status, "king" in err) == (2, True)
    assert "cannot be named" in desk.refuse("request", "coordinator", "--role", "site", "--out", desk.place / "x")
    assert "is not allowed" in desk.refuse("request", "Site A", "--role", "site", "--out", desk.place / "x")
    asked = desk.ask("site-a")
    assert "keys were made here already" in desk.refuse(*request_, "site")
    assert "this is no operator's folder" in desk.refuse("approve", asked, "--folder", desk.place, "--yes")
    assert "this is no party's folder" in desk.refuse("install", asked, "--into", desk.place, "--yes")
    assert "no kit is installed here yet" in desk.refuse("renew", desk.place / "site-a")
    broken = desk.place / "broken"
    shutil.copytree(desk.office, broken)
    (broken / "register.note").write_text("words\n")
    assert "register.note: cannot be used" in desk.refuse("list", "--folder", broken)
    (desk.office / "ca" / "ca.pem").unlink()
    assert "there is no certificate authority" in desk.refuse("approve", asked, "--folder", desk.office, "--yes")


def test_an_authority_that_has_run_out_signs_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "AUTHORITY_LIFE", timedelta(seconds=-1))
    shutil.rmtree(desk.office / "ca")
    certificates.Authority(desk.office / "ca")._make_authority("old", None)
    told = desk.refuse("approve", desk.ask("site-a"), "--folder", desk.office, "--yes")
    assert "the certificate authority has run out" in told
