"""A party's line to the broker, and who is heard on it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from queue import Empty, SimpleQueue

from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.base import Delivery, Start
from messages.envelope import check_origin, decode_event
from messages.ground.errors import KonsilError, MalformedMessage
from messages.ground.settings import BrokerAddress
from messages.kinds import Alive
from messages.names import PROGRESS
from site_agent.desk.checks import Check, Grade, failed_check
from site_agent.desk.way_in import CLOCK_WARNING, judge_way_in

HEARD_WITHIN = 7.0
"""Seconds of listening; a site says that it lives every 5 s."""


def check_line(address: BrokerAddress, party: str, consortium: str, sites: Iterable[str]) -> Iterator[Check]:
    """Log in, then listen for signs of life.

    Args:
        sites: whom to miss; empty: whoever is heard is told.
    """
    bus = RabbitBus(address, party)
    try:
        try:
            bus.connect()
        except KonsilError as error:
            yield failed_check("broker", error)
            return
        yield judge_way_in(address, time.time())
        try:
            heard = _listen(bus, consortium)
        except KonsilError as error:
            yield failed_check("progress", error)
            return
    finally:
        bus.close()
    missing = [site for site in sites if site not in heard]
    if missing:
        yield Check(
            "sites", Grade.WARN, f"no sign of life within {HEARD_WITHIN:.0f} s of {', '.join(missing)}",
            "Ask them for `konsil doctor` at the site",
        )  # fmt: skip
    elif heard:
        yield Check("sites", Grade.OK, f"alive: {', '.join(sorted(heard))}")
    else:
        yield Check("sites", Grade.WARN, f"no site gave a sign of life within {HEARD_WITHIN:.0f} s")
    for site, off in sorted(heard.items()):
        if abs(off) > CLOCK_WARNING:
            what = f"the clock of {site} and this one differ by {abs(off):.0f} s"
            yield Check("clock", Grade.WARN, what, "Set both by NTP; if all differ, it is this one")


def _listen(bus: RabbitBus, consortium: str) -> dict[str, float]:
    """Site → seconds by which its clock is ahead of ours."""
    heard: dict[str, float] = {}
    came: SimpleQueue[Delivery] = SimpleQueue()  # the first may come before `subscribe` has returned
    subscription = bus.subscribe(PROGRESS, came.put, start=Start.NEXT, credit=64)
    end = time.monotonic() + HEARD_WITHIN
    while (left := end - time.monotonic()) > 0:
        try:
            delivery = came.get(timeout=left)
        except Empty:
            break
        subscription.ack(delivery)
        with contextlib.suppress(MalformedMessage):
            event = decode_event(delivery.body)
            check_origin(event, delivery.key, delivery.user, consortium)
            if isinstance(event.body, Alive):
                heard[event.sender] = event.time - time.time()
    subscription.cancel()
    return heard
