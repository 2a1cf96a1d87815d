"""Every role, every queue, every verb, on a real RabbitMQ: what is not a role's own is refused, or leads nowhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from brokers import PARTIES, RealBroker
from permission_matrix import (
    MAY_READ,
    MAY_WRITE,
    ROLES,
    Attempt,
    Door,
    list_deeds,
    list_deeds_beside,
    list_writes,
    read_all,
    until_settled,
    write_all,
)

from messages import names

pytestmark = pytest.mark.broker
NAMES = [party.name for party in PARTIES]


@pytest.fixture
def doors(clean_broker: RealBroker) -> Iterator[dict[str, Door]]:
    until_settled(clean_broker)
    opened = {role: Door(clean_broker, role) for role in ROLES}
    yield opened
    for door in opened.values():
        door.close()


def list_queues(broker: RealBroker) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry["arguments"] for entry in broker.definitions["queues"]}


def test_what_a_role_writes_by_any_exchange_key_or_header_reaches_its_own_queues_alone(
    clean_broker: RealBroker, doors: dict[str, Door]
) -> None:
    taken: list[Attempt] = []
    for role in ROLES:
        taken += write_all(doors[role], list_writes(role, NAMES, list(list_queues(clean_broker))))
    came = read_all(clean_broker)
    astray = [(queue, attempt) for queue, _user, attempt in came if queue not in MAY_WRITE[attempt.role]]
    assert astray == []
    assert all(user == attempt.role for _queue, user, attempt in came)
    reached = {role: {queue for queue, _user, one in came if one.role == role} for role in ROLES}
    assert reached == MAY_WRITE, "and each role reaches all that is its own"
    own = {role: names.exchange_of(role) for role in ROLES}
    assert [one for one in taken if one.exchange != own[one.role]] == [], "no exchange but one's own takes anything"
    assert [one for one in taken if one.key.split(".")[1] != one.role] == [], "no key in another's name is taken"


def test_a_role_reads_its_own_queues_and_changes_nothing(clean_broker: RealBroker, doors: dict[str, Door]) -> None:
    allowed: set[tuple[str, str, str]] = set()
    for role in ROLES:
        for queue, arguments in list_queues(clean_broker).items():
            deeds = list_deeds(queue, role, arguments)
            allowed |= {(role, queue, verb) for verb, deed in deeds if doors[role].try_out(deed)}
    reads = {(role, queue, "consume") for role in ROLES for queue in MAY_READ[role]}
    inboxes = {(role, f"inbox.{role}", verb) for role in ROLES if MAY_WRITE[role] for verb in ("get", "purge")}
    assert allowed == reads | inboxes


@pytest.mark.parametrize("role", ROLES)
def test_a_role_makes_and_unmakes_nothing_beside_the_queues(doors: dict[str, Door], role: str) -> None:
    party = "site-b"
    assert [verb for verb, deed in list_deeds_beside(role, party) if doors[role].try_out(deed)] == []
