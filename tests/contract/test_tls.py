"""TLS to a real broker: what connects, and that each mistake is told in one line, at once."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from brokers import PATIENCE, VHOST, RealBroker, consortium_definitions, eventually, need_broker
from pydantic import SecretStr

from coordinator import config as coordinator_config
from deploy.broker.certificates import Authority
from deploy.broker.node import PrivateNode
from deploy.cli import command
from deploy.demo import toml
from deploy.session import profile as profiles
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.base import Notice
from messages.ground import settings
from messages.ground.errors import BrokerUnreachable, ConfigError, LoginRefused, TlsFailed
from messages.ground.settings import BrokerAddress
from site_agent import config as site_config
from site_agent.config import SiteConfig
from site_agent.desk.checks import Grade, exit_status
from site_agent.desk.preflight import run_checks


def secured(broker: RealBroker, **changes: object) -> BrokerAddress:
    """site-a's way in over TLS, with `changes`."""
    address: BrokerAddress = broker.address("site-a", tls=True)
    return address.model_copy(update=changes)


def connect(address: BrokerAddress) -> None:
    """What is told at once is told long before the time is over."""
    bus = RabbitBus(address, "site-a")
    bus.connect(PATIENCE)
    bus.close()


def connect_in_vain(address: BrokerAddress) -> None:
    """Raise what a first try came to, where a bus tries again: how long that try takes is not known."""
    notices: list[Notice] = []
    bus = RabbitBus(address, "site-a", on_notice=notices.append)
    bus.publish("hello.site-a.none", b"x")
    eventually(lambda: notices, what="a first try")
    bus.connect(0.0)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that has nothing to do with the broker."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@contextmanager
def server_with(certificate: Path, key: Path) -> Iterator[int]:
    """A TLS server that shows this certificate and says nothing; yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                try:
                    context.wrap_socket(client, server_side=True).close()
                except OSError:  # the client does not like the certificate
                    client.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


@pytest.mark.broker
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_broker_is_known_by_each_of_its_names(broker: RealBroker, host: str) -> None:
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        pytest.skip(f"this machine does not know the name {host}")
    connect(secured(broker, host=host))


@pytest.mark.broker
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_use_aes_gcm_and_forward_secrecy(broker: RealBroker, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=str(broker.node.ca))
    context.minimum_version = context.maximum_version = version
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python 3.13 asks of certificates
    with (
        socket.create_connection((broker.node.host, broker.node.tls_port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as encrypted,
    ):
        name, _, _ = encrypted.cipher() or ("", "", 0)
    assert name == {771: "ECDHE-ECDSA-AES128-GCM-SHA256", 772: "TLS_AES_128_GCM_SHA256"}[version]


@pytest.mark.broker
def test_older_versions_are_refused(broker: RealBroker) -> None:
    context = ssl.create_default_context(cafile=str(broker.node.ca))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection((broker.node.host, broker.node.tls_port)) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)version|unsupported"),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.broker
def test_a_broker_of_an_unknown_authority_is_told_at_once(broker: RealBroker, stranger: Authority) -> None:
    with pytest.raises(TlsFailed, match=r"not signed by the authority in broker\.ca"):
        connect(secured(broker, ca=stranger.certificate))


@pytest.mark.broker
def test_a_broker_of_another_name_is_told_at_once(broker: RealBroker) -> None:
    # inet_aton(3) reads "127.1" as 127.0.0.1, and the certificate does not name it
    with pytest.raises(TlsFailed, match=r"not made out to '127\.1'"):
        connect(secured(broker, host="127.1"))


def test_a_certificate_that_has_run_out_is_told_at_once(stranger: Authority) -> None:
    old = stranger.issue_server_identity(("127.0.0.1",), "old", life=timedelta(minutes=-5))
    with server_with(old.certificate, old.key) as port, pytest.raises(TlsFailed, match=r"expired\. Check this machine"):
        connect(BrokerAddress(port=port, ca=stranger.certificate))


@pytest.mark.broker
def test_tls_to_the_plain_port_is_told_at_once(broker: RealBroker) -> None:
    with pytest.raises(TlsFailed, match=r"does not speak TLS\. Name the broker's TLS port"):
        connect(secured(broker, port=broker.node.port))


@pytest.mark.broker
def test_no_tls_to_the_tls_port_is_told(broker: RealBroker) -> None:
    with pytest.raises(BrokerUnreachable, match=r"does not speak plain AMQP\. If it is the broker's TLS port, add ca"):
        connect_in_vain(secured(broker, ca=None))


@pytest.mark.broker
def test_a_wrong_password_over_tls_is_told_as_one(broker: RealBroker) -> None:
    with pytest.raises(LoginRefused, match="refuses the login 'site-a'"):
        connect(secured(broker, password=SecretStr("wrong")))


def test_files_that_do_not_fit_are_named(tmp_path: Path, stranger: Authority) -> None:
    ca = stranger.certificate
    mine, other = stranger.issue_client_identity("site-a"), stranger.issue_client_identity("site-b")
    words = tmp_path / "words.pem"
    words.write_text("no certificate")
    for wrong, told in (
        ({"ca": words}, r"broker\.ca: .*words\.pem holds no certificate"),
        ({"ca": tmp_path / "none.pem"}, r"broker\.ca: .*none\.pem \(No such file"),
        ({"ca": ca, "cert": mine.certificate, "key": str(other.key)}, "is not the key of"),
        ({"ca": ca, "cert": mine.certificate, "key": str(words)}, "are not a certificate and its key"),
        ({"ca": ca, "cert": mine.certificate, "key": str(tmp_path / "none.key")}, r"broker\.key: .*none\.key"),
        ({"ca": ca, "key": str(mine.key)}, r"broker\.key: a key needs the certificate"),
        ({"cert": mine.certificate, "key": str(mine.key)}, r"broker\.cert needs broker\.ca"),
    ):
        with pytest.raises(ConfigError, match=told):
            RabbitBus(BrokerAddress.model_validate(wrong), "site-a")


def test_paths_of_certificates_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    files = {"ca": "ca.pem", "cert": "mine.pem", "key": "keys/mine.key"}
    site = {"name": "site-a", "consortium": "glioma", "state": "state"}
    head = {"consortium": "glioma", "state": "state", "sites": ["site-a"], "researchers": ["dr-a"]}
    for content, read in (
        ({"name": "dr-a", "consortium": "glioma"}, profiles.load_profile),
        ({"schema": 1, "site": site}, site_config.read_config),
        ({"schema": 1, "coordinator": head}, coordinator_config.read_config),
    ):
        path = tmp_path / "some.toml"
        path.write_text(toml.write_toml(content | {"broker": files}))
        broker = read(path).broker
        assert (broker.ca, broker.cert) == (tmp_path / "ca.pem", tmp_path / "mine.pem")
        assert broker.key == str(tmp_path / "keys" / "mine.key")
    absolute = BrokerAddress(ca=Path("/etc/konsil/ca.pem"), key="credential:broker-key").relative_to(tmp_path)
    assert (absolute.ca, absolute.key) == (Path("/etc/konsil/ca.pem"), "credential:broker-key")


@pytest.mark.broker
def test_a_command_ends_with_the_mistake_in_one_line(
    broker: RealBroker, stranger: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask(**changes: object) -> tuple[int, str]:
        profile = tmp_path / "profile.toml"
        address = {"port": broker.node.tls_port, "ca": broker.node.ca, "password": "pw-dr-a"} | changes
        profile.write_text(toml.write_toml({"name": "dr-a", "consortium": VHOST, "broker": address}))
        status = command.run_command(["experiment", "list", "--profile", str(profile)])
        return status, capsys.readouterr().err

    for changes, expected, told in (
        ({"ca": stranger.certificate}, 3, "not signed by the authority"),
        ({"host": "127.1"}, 3, "not made out to"),
        ({"port": broker.node.port}, 3, "does not speak TLS"),
        ({"ca": None}, 3, "does not speak plain AMQP"),
        ({"ca": tmp_path / "none.pem"}, 2, "cannot read"),
    ):
        status, said = ask(**changes)
        assert status == expected, said
        *_, last = said.splitlines()
        assert last.startswith("konsil: ")
        assert told in last
        assert "Traceback" not in said


@pytest.mark.broker
def test_preflight_says_what_is_wrong_with_tls(broker: RealBroker, stranger: Authority, tmp_path: Path) -> None:
    def broker_check(**changes: object) -> tuple[Grade, str, int]:
        address = {"port": broker.node.tls_port, "ca": broker.node.ca, "vhost": VHOST, "password": "pw-site-a"}
        plain = {"name": "site-a", "consortium": VHOST, "state": tmp_path / "state"}
        config = settings.parse_settings(
            {"schema": 1, "site": plain, "broker": address | changes}, SiteConfig, "site.toml"
        )
        check = next(check for check in run_checks(config) if check.name == "broker")
        return check.grade, check.what, exit_status([check])

    assert broker_check(ca=stranger.certificate)[::2] == (Grade.FAIL, 3)
    assert "not signed by the authority" in broker_check(ca=stranger.certificate)[1]
    assert "does not speak TLS" in broker_check(port=broker.node.port)[1]
    grade, what, _ = broker_check()
    assert grade is Grade.OK
    assert "TLS" in what


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBroker]:
    """A broker that lets only clients in that show a certificate of its own authority."""
    need_broker()
    definitions = consortium_definitions()
    folder = tmp_path_factory.mktemp("asking")
    node = PrivateNode(folder, definitions=definitions, tls=True, client_certificates=True)
    node.start()
    try:
        yield RealBroker(node, definitions)
    finally:
        node.kill_node()


@pytest.mark.broker
def test_a_certificate_of_ones_own_opens_the_door_and_the_password_still_counts(asking: RealBroker) -> None:
    mine = asking.node.make_authority().issue_client_identity("site-a")
    with_mine = {"cert": mine.certificate, "key": str(mine.key)}
    connect(secured(asking, **with_mine))
    with pytest.raises(LoginRefused, match="refuses the login 'site-a'"):
        connect(secured(asking, **with_mine, password=SecretStr("wrong")))


@pytest.mark.broker
def test_without_a_certificate_of_ones_own_the_door_stays_shut(asking: RealBroker) -> None:
    with pytest.raises(BrokerUnreachable, match=r"certificate of ours.*cert and key"):
        connect_in_vain(secured(asking))


@pytest.mark.broker
def test_a_certificate_of_an_unknown_authority_is_refused(asking: RealBroker, stranger: Authority) -> None:
    other = stranger.issue_client_identity("site-a")
    with pytest.raises(BrokerUnreachable, match="certificate"):
        connect_in_vain(secured(asking, cert=other.certificate, key=str(other.key)))
