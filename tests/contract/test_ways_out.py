"""Out of a hospital to a real broker: through a proxy that asks for a login, by another name, with renewed keys."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import PATIENCE, RealBroker, eventually
from pydantic import SecretStr
from squid import PASSWORD, USER, Squid

from deploy.broker.certificates import Authority
from deploy.local.ports import hold_free_port
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.base import BusState, Delivery, Notice
from messages.ground import settings
from messages.ground.errors import BrokerUnreachable, ConfigError, TlsFailed
from messages.ground.settings import BrokerAddress

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def squid(session_broker: RealBroker) -> Iterator[Squid]:
    session_broker.start()
    running = Squid(session_broker.node.tls_port)
    yield running
    running.close()


def through(broker: RealBroker, squid: Squid, **changes: object) -> BrokerAddress:
    """site-a's way in through the proxy, with `changes`."""
    address = broker.address("site-a", tls=True)
    proxied = {
        "proxy": f"http://127.0.0.1:{squid.port}",
        "proxy_user": USER,
        "proxy_password": SecretStr(PASSWORD),
    }
    return address.model_copy(update=proxied | changes)


def refusal_of(address: BrokerAddress) -> str:
    """The line of a connection that does not come to be."""
    notices: list[Notice] = []
    bus = RabbitBus(address, "site-a", on_notice=notices.append)
    bus.publish("hello.site-a.none", b"x")
    try:
        eventually(lambda: notices, what="a first try")
        with pytest.raises(BrokerUnreachable) as raised:
            bus.connect(0.0)
    finally:
        bus.close()
    return str(raised.value)


def test_messages_go_both_ways_through_a_proxy_that_asks_for_a_login(clean_broker: RealBroker, squid: Squid) -> None:
    bus = RabbitBus(through(clean_broker, squid), "site-a")
    bus.connect(PATIENCE)
    try:
        got: list[Delivery] = []
        bus.subscribe("inbox.site-a", got.append, exclusive=True)
        large = bytes(range(256)) * 40_000
        clean_broker.bus("coordinator").publish("receipt.coordinator.none.site-a", large).wait(PATIENCE)
        eventually(lambda: got, what="the message")
        assert bytes(got[0].body) == large
        bus.publish("hello.site-a.none", large).wait(PATIENCE)
    finally:
        bus.close()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"proxy_user": "", "proxy_password": SecretStr("")}, "wants a login"),
        ({"proxy_password": SecretStr("wrong")}, f"refuses the login '{USER}'"),
        ({"proxy": "http://127.0.0.1:1"}, "the proxy 127.0.0.1:1 cannot be reached"),
    ],
)
def test_what_is_wrong_with_the_proxy_is_told_in_one_line(
    broker: RealBroker, squid: Squid, changes: dict[str, object], words: str
) -> None:
    assert words in refusal_of(through(broker, squid, **changes))


def test_a_proxy_that_does_not_let_us_through_is_told(broker: RealBroker, squid: Squid) -> None:
    told = refusal_of(through(broker, squid, port=broker.node.port))
    assert "does not let us through (403)" in told
    assert PASSWORD not in told


def test_a_proxy_without_tls_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs TLS: name the broker's authority with ca"):
        settings.parse_settings({"proxy": "http://proxy:3128"}, BrokerAddress, "site.toml")


HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
frontend https
    bind 127.0.0.1:{port}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend broker if {{ req.ssl_sni -i localhost }}
backend broker
    server rabbitmq 127.0.0.1:{broker}
"""


def test_a_broker_behind_the_port_of_https_is_found_by_its_name(broker: RealBroker, tmp_path: Path) -> None:
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy (Debian) is not here")
    held = hold_free_port("127.0.0.1")
    port = held.getsockname()[1]
    held.close()
    (tmp_path / "haproxy.cfg").write_text(HAPROXY.format(port=port, broker=broker.node.tls_port))
    running = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(tmp_path / "haproxy.cfg")])
    try:
        address = broker.address("site-a", tls=True).model_copy(update={"port": port, "server_name": "localhost"})
        bus = RabbitBus(address, "site-a")
        bus.connect(PATIENCE)
        bus.close()
    finally:
        running.terminate()
        running.wait(60)


def test_the_certificate_may_be_made_out_to_another_name_than_the_host(broker: RealBroker) -> None:
    address = broker.address("site-a", tls=True)
    bus = RabbitBus(address.model_copy(update={"host": "127.0.0.1", "server_name": "localhost"}), "site-a")
    bus.connect(PATIENCE)
    bus.close()
    wrong = address.model_copy(update={"server_name": "broker.example.org"})
    with pytest.raises(TlsFailed, match=r"not made out to 'broker.example.org'"):
        RabbitBus(wrong, "site-a").connect(PATIENCE)


def test_who_opens_tls_on_the_way_is_named_by_the_issuer_that_was_seen(
    broker: RealBroker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Authority(tmp_path_factory.mktemp("other"))
    address = broker.address("site-a", tls=True).model_copy(update={"ca": other.certificate})
    with pytest.raises(TlsFailed, match=r"not signed by the authority in broker\.ca, but by 'CN=") as raised:
        RabbitBus(address, "site-a").connect(PATIENCE)
    assert "let this address pass unopened" in str(raised.value)


def test_an_authority_that_was_renewed_on_disk_counts_at_the_next_connection(
    clean_broker: RealBroker, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    mine = tmp_path / "ca.pem"
    address = clean_broker.address("site-a", tls=True)
    assert address.ca is not None
    shutil.copy(address.ca, mine)
    notices: list[Notice] = []
    bus = RabbitBus(address.model_copy(update={"ca": mine}), "site-a", on_notice=notices.append)
    bus.connect(PATIENCE)
    try:
        shutil.copy(other.certificate, mine)
        clean_broker.node.stop()
        clean_broker.node.start()
        eventually(lambda: any("not signed by" in one.detail for one in notices), what="the other authority to count")
        shutil.copy(address.ca, mine)
        count = len(notices)
        eventually(lambda: any(one.state is BusState.CONNECTED for one in notices[count:]), what="the renewed one")
    finally:
        bus.close()
