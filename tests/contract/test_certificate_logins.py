"""Logins by certificate alone, on a real node that speaks nothing but TLS: who comes in, and who does not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pika
import pytest
from brokers import PARTIES, PATIENCE, VHOST, eventually, need_broker
from pika import exceptions

from deploy.broker import control
from deploy.broker.certificates import Authority, Identity
from deploy.broker.definitions import render_definitions
from deploy.broker.node import PrivateNode, answers_amqp
from deploy.broker.topology import Party
from messages import names
from messages.bus.amqp import tls
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.base import Notice
from messages.ground.errors import BrokerUnreachable, ConfigError, KonsilError, LoginRefused
from messages.ground.settings import BrokerAddress

MEMBERS = tuple(Party(one.name, one.role) for one in PARTIES)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateNode]:
    need_broker()
    found = PrivateNode(
        tmp_path_factory.mktemp("by-certificate"),
        definitions=render_definitions(VHOST, MEMBERS),
        certificate_logins=True,
    )
    found.start()
    try:
        yield found
    finally:
        found.kill_node()


def address_of(node: PrivateNode, mine: Identity | None, **changes: object) -> BrokerAddress:
    shown = {} if mine is None else {"cert": mine.certificate, "key": str(mine.key)}
    plain = {"host": node.host, "port": node.port, "vhost": VHOST, "ca": node.ca, "login": "certificate"}
    return BrokerAddress.model_validate(plain | shown | changes)


def log_in(address: BrokerAddress, party: str) -> None:
    bus = RabbitBus(address, party)
    try:
        bus.connect(PATIENCE)
    finally:
        bus.close()


def refusal_of(address: BrokerAddress, party: str) -> KonsilError:
    """What a first try came to."""
    notices: list[Notice] = []
    bus = RabbitBus(address, party, on_notice=notices.append)
    bus.publish("hello.site-a.none", b"x")
    try:
        eventually(lambda: notices, what="a first try")
        bus.connect(0.0)
    except (BrokerUnreachable, LoginRefused) as error:
        return error
    finally:
        bus.close()
    pytest.fail("it was let in")


@pytest.mark.broker
@pytest.mark.parametrize("name", [one.name for one in MEMBERS])
def test_each_party_comes_in_by_its_certificate_without_a_password(node: PrivateNode, name: str) -> None:
    log_in(address_of(node, node.make_authority().issue_client_identity(name)), name)


def test_a_login_by_certificate_needs_one(tmp_path: Path) -> None:
    for lacking in ({}, {"ca": tmp_path / "ca.pem"}, {"cert": tmp_path / "mine.pem"}):
        with pytest.raises(ConfigError, match=r"broker\.login: a login by certificate needs"):
            RabbitBus(BrokerAddress.model_validate({"login": "certificate"} | lacking), "site-a")


def refused_identities(node: PrivateNode, folder: Path) -> dict[str, tuple[Identity | None, dict[str, object]]]:
    """What is shown at the door, and what else the configuration says, by why it is refused."""
    authority, stranger = node.make_authority(), Authority(folder / "stranger")
    good = authority.issue_client_identity("site-a")
    plain = {"login": "password", "password": "pw-site-a"}
    return {
        "no certificate": (None, plain),
        "another authority's": (stranger.issue_client_identity("site-a"), {}),
        "one that has run out": (authority.issue_client_identity("site-c", life=timedelta(minutes=-5)), {}),
        "the broker's own": (Identity(node.ca.with_name("server.pem"), node.ca.with_name("server.key")), {}),
        "of a name that is no user": (authority.issue_client_identity("site-z"), {}),
        "a good one, and a password": (good, plain),
        "no TLS": (None, plain | {"ca": None}),
    }


@pytest.mark.broker
def test_every_other_certificate_is_refused(node: PrivateNode, tmp_path: Path) -> None:
    told = {
        why: type(refusal_of(address_of(node, mine, **changes), "site-a"))
        for why, (mine, changes) in refused_identities(node, tmp_path).items()
    }
    by_name = ("of a name that is no user", "a good one, and a password")
    assert {why for why, kind in told.items() if kind is LoginRefused} == set(by_name)
    assert not answers_amqp(node.host, node.port)


def open_channel(node: PrivateNode, name: str) -> pika.BlockingConnection:
    address = address_of(node, node.make_authority().issue_client_identity(name))
    return pika.BlockingConnection(
        pika.ConnectionParameters(
            node.host,
            node.port,
            VHOST,
            tls.CertificateLogin(name),
            ssl_options=tls.make_options(address),
        )
    )


@pytest.mark.broker
@pytest.mark.parametrize(("said", "taken"), [("site-a", True), ("site-b", False)])
def test_the_user_id_of_a_message_is_the_name_in_the_certificate(node: PrivateNode, said: str, taken: bool) -> None:
    connection = open_channel(node, "site-a")
    channel = connection.channel()
    channel.confirm_delivery()

    def publish() -> bool:
        try:
            channel.basic_publish(
                names.exchange_of("site-a"), "hello.site-a.none", b"x", pika.BasicProperties(user_id=said)
            )
        except exceptions.ChannelClosedByBroker:
            return False
        return True

    assert publish() is taken
    connection.close()


@pytest.mark.broker
def test_who_is_removed_is_cut_off_and_does_not_come_in_again(node: PrivateNode) -> None:
    connection = open_channel(node, "site-b")
    control.remove_users(node, ["site-b"])

    def is_cut() -> bool:
        try:
            connection.process_data_events(0)
        except exceptions.AMQPError:
            return True
        return False

    eventually(is_cut, what="the end of its connection")
    mine = node.make_authority().issue_client_identity("site-b")
    assert isinstance(refusal_of(address_of(node, mine), "site-b"), LoginRefused)
