"""A consortium whose parties sign: real services, the bus in memory, virtual time. Shared by the tests of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordinator_kit import CONSORTIUM, plain
from scripted_trainers import Seconds
from virtual_consortium import VirtualConsortium

from coordinator.core.inputs import Received
from coordinator.record.journal import STEP
from coordinator.record.journal_file import open_readonly
from coordinator.record.recovery import read_step
from deploy.provision.key_ring import KeyRing, make_key_ring
from messages import kinds
from messages.bus.memory.broker import Message
from messages.envelope import Author, Event
from messages.ground.virtual.clock import VirtualClock
from messages.trust.keys import SigningKey, read_key
from messages.trust.register import Role

SITES = ("site-a", "site-b")
THREE = (*SITES, "site-c")
ROLES: dict[str, Role] = {"coordinator": "coordinator", "dr-a": "researcher", **dict.fromkeys(THREE, "site")}
FORGED_TERM = 10**6
ROUNDS = {"count": 2, "enrol_within": 600.0, "train_within": 600.0, "grace": 60.0}


def takes(_site: str, _number: int) -> float:
    return 60.0


def ring_of(folder: Path, **more: Any) -> KeyRing:
    return make_key_ring(folder / "keys", CONSORTIUM, ROLES, seed="test", **more)


def sections(ring: KeyRing, *parties: str) -> dict[str, Any]:
    return {party: ring.trust_of(party) for party in parties or ROLES}


def run_signed(
    folder: Path,
    work: Callable[[VirtualConsortium], None],
    trust: dict[str, Any] | None = None,
    sites: tuple[str, ...] = SITES,
    seconds: Seconds = takes,
    budget: dict[str, Any] | None = None,
) -> VirtualConsortium:
    """A consortium under virtual time, while `work` does something with it."""
    clock = VirtualClock()

    def body() -> VirtualConsortium:
        given = sections(ring_of(folder)) if trust is None else trust
        consortium = VirtualConsortium(folder, clock, seconds, sites, trust=given, budget=budget)
        try:
            work(consortium)
        finally:
            consortium.close()
        return consortium

    return clock.run(body)


def start(consortium: VirtualConsortium, **changes: Any) -> None:
    sites = [*consortium.agents]
    more = {"privacy": changes.pop("privacy")} if "privacy" in changes else {}
    experiment = plain(sites=sites, rounds=ROUNDS | changes, quorum={"least_sites": 2}, **more)
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=experiment))


def finish(consortium: VirtualConsortium) -> None:
    consortium.until("experiment-complete", 7200.0)


def uplink_of(consortium: VirtualConsortium) -> list[Event]:
    """What the coordinator took of others, as its journal has it."""
    steps = [read_step(entry)[0] for entry in open_readonly(consortium.folder / "coordinator") if entry.type == STEP]
    return [given.event for given in steps if isinstance(given, Received)]


def plant(consortium: VirtualConsortium, queue: str, event: Event, key: str = "", user: str = "") -> None:
    """Put a message into a queue with any sender, as whoever runs the broker can."""
    broker, message = consortium.broker, Message(key or event.key, event.raw, user or event.sender)
    with broker.changed:
        if queue in broker.streams:
            broker.streams[queue].append_message(message)
        else:
            broker.inboxes[queue].ready.append(message)
        broker.wake_consumers(queue)


def key_of(consortium: VirtualConsortium, party: str) -> SigningKey:
    return read_key(Path(consortium.trust[party]["key"]))


def author(consortium: VirtualConsortium, party: str, *, signs: bool = True, **more: Any) -> Author:
    fields = {"consortium": CONSORTIUM, "name": party, "incarnation": 1, "key": key_of(consortium, party)}
    return Author(**{**fields, **({} if signs else {"key": None}), **more})
