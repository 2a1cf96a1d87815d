"""A person's session with the broker: publish an event, listen to streams, until the command is done."""

from __future__ import annotations

import contextlib
import queue
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from deploy.session import profile as profiles
from deploy.session.profile import Profile
from messages import names
from messages.abilities import NEWER
from messages.bus.base import Bus, BusState, Delivery, Notice, Start, Subscription
from messages.chain import Entry, decode_entry
from messages.envelope import Author, Event, check_origin, decode_event
from messages.ground import naming
from messages.ground.clock import Clock, Queue, SystemClock
from messages.ground.durable import replace_file
from messages.ground.errors import KonsilError, MalformedMessage, RequestError, Unreachable
from messages.kinds import Body, RegisterAnnounced
from messages.names import RoutingKey
from messages.trust.settings import load_trust, make_verifier
from messages.trust.signatures import digest_payload

CONNECT_WITHIN = 5.0
CONFIRM_WITHIN = 15.0
QUIET = 1.5
"""Seconds without a message that mean "read up to now": a stream says no end."""
NOISE_WITHIN = 60.0
"""Seconds that a reader who waits for quiet waits at most for others to end who write where they have no business."""
COORDINATOR_WITHIN = 30.0
"""Seconds until a coordinator that says nothing counts as not reachable."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One message: an event, or an entry of the journal (from `audit`), or neither (chunks)."""

    delivery: Delivery
    event: Event | None = None
    entry: Entry | None = None


class LineState:
    """Whether the person's own connection stands, as its bus tells on a thread of its own."""

    def __init__(self) -> None:
        self.is_down = False

    def take_notice(self, notice: Notice) -> None:
        """A change of the bus's state."""
        if notice.state in (BusState.LOST, BusState.REFUSED):
            self.is_down = True
        elif notice.state is BusState.CONNECTED:
            self.is_down = False


class BrokerSession:
    """One command's connection.

    Args:
        bus: the person's bus, connected.
        profile: who they are.
        line: whether the connection stands; None: nobody says.
        clock: that of the bus; None: the machine's.
        draw_name: what no other event of the person's has; part of each one's id.

    Raises:
        ConfigError: what the profile says of trust cannot be used.
    """

    def __init__(
        self,
        bus: Bus,
        profile: Profile,
        line: LineState | None = None,
        clock: Clock | None = None,
        draw_name: Callable[[], str] = partial(secrets.token_hex, 8),
    ) -> None:
        self._draw_name = draw_name
        self.bus, self.profile, self.line = bus, profile, line or LineState()
        self.clock: Clock = SystemClock() if clock is None else clock
        # A command keeps no state: each one is an incarnation of its own, and its events count from 1.
        trust = None if profile.trust is None else load_trust(profile.trust, profile.consortium, profile.name)
        key = None if trust is None else trust.key
        self._author = Author(profile.consortium, profile.name, incarnation=int(self.clock.wall() * 1000), key=key)
        self.verifier = make_verifier(profile.consortium, trust)
        self._seq = 0
        self._last: str | None = None
        self._heard: Queue[Delivery] = self.clock.make_queue()
        self._subscriptions: dict[str, Subscription] = {}
        self.malformed = 0
        """Messages that were not what their queue promises, or from another sender than they say."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bus.close()

    def listen_to(self, *queues: str, start: Start = Start.FIRST) -> None:
        """Hear what comes on these queues (streams from `start` on; one's own inbox from what waits there)."""
        for name in queues:
            if name not in self._subscriptions:
                self._subscriptions[name] = self.bus.subscribe(name, self._heard.put, start=start, credit=256)

    def may_send(self) -> None:
        """Say at once, before the broker refuses a queue, that an auditor only reads; raises RequestError."""
        if self.profile.role != "researcher":
            raise RequestError(
                f"a profile with role {self.profile.role!r} only reads",
                where=self.profile.name,
                advice="Use a researcher's profile",
            )

    def publish_event(self, kind: str, body: Body, experiment: str = naming.NO_EXPERIMENT) -> Event:
        """Send one event and wait until the broker has it; every call is an event of its own.

        Raises:
            RequestError: an auditor's profile cannot send anything.
            Unreachable: the broker does not confirm.
        """
        self.may_send()
        self._seq += 1
        event = self._author.write_event(
            kind,
            body,
            time=self.clock.wall(),
            experiment=experiment,
            attempt=self._draw_name(),
            seq=self._seq,
            after=self._last,
        )
        self._last = digest_payload(event.raw)
        if not self.bus.publish(event.key, event.raw).wait(CONFIRM_WITHIN):
            advice = "Look at it with `konsil broker status`"
            raise Unreachable("the broker does not confirm", advice=f"{advice}{_newer_word(kind, OLDER_BROKER)}")
        return event

    def next_heard(self, timeout: float, *, quiet: bool = False) -> Heard | None:
        """The next message, None where none comes within `timeout` seconds; what cannot be read is counted.

        Args:
            quiet: None means that the broker was quiet for so long. What others wrote into the coordinator's streams is
                no quiet: the time begins anew, for `NOISE_WITHIN` seconds at most.
        """
        began = self.clock.monotonic()
        deadline = began + timeout
        while True:
            try:
                delivery = self._heard.get(timeout=max(0.0, deadline - self.clock.monotonic()))
            except queue.Empty:
                return None
            try:
                return self._read_delivery(delivery)
            except MalformedMessage:
                self.malformed += 1
                if quiet:
                    deadline = min(self.clock.monotonic(), began + NOISE_WITHIN) + timeout
            finally:
                self._subscriptions[delivery.queue].ack(delivery)

    def _read_delivery(self, delivery: Delivery) -> Heard:
        """What a message is; raises MalformedMessage where it is not what its queue promises.

        All but `progress` is the coordinator's word. On RabbitMQ 3.10 others reach these queues by the exchange that
        all share in topology 1, in the headers CC and BCC.
        """
        if delivery.queue != names.PROGRESS and delivery.user != names.COORDINATOR:
            raise MalformedMessage("sender-mismatch", "a message that is not the coordinator's")
        kind = RoutingKey.parse(delivery.key).kind
        if kind == "journal-entry":
            return Heard(delivery, entry=decode_entry(delivery.body))
        if kind.endswith("-chunk"):
            return Heard(delivery)
        event = decode_event(delivery.body)
        check_origin(event, delivery.key, delivery.user, self.profile.consortium)
        if isinstance(event.body, RegisterAnnounced):
            self._take_register(event.body.note)  # the operator's word; it may bring the key that signed this
        self.verifier.check_past(event, delivery.queue)
        return Heard(delivery, event=event)

    def _take_register(self, note: bytes) -> None:
        """Go on by a newer register, and keep it where the profile has the older one; a copy of an old one says nothing
        new."""
        with contextlib.suppress(KonsilError, OSError):
            if self.verifier.take_register(note) is not None and self.profile.trust is not None:
                replace_file(self.profile.trust.register_file, note)

    def hear_messages(self, timeout: float) -> Iterator[Heard]:
        """Messages as they come, for so many seconds in all."""
        deadline = self.clock.monotonic() + timeout
        while (left := deadline - self.clock.monotonic()) > 0:
            heard = self.next_heard(left)
            if heard is not None:
                yield heard

    def read_history(self, *queues: str, quiet: float = QUIET) -> Iterator[Heard]:
        """Everything that these streams hold up to now."""
        self.listen_to(*queues)
        while (heard := self.next_heard(quiet, quiet=True)) is not None:
            yield heard


Connect = Callable[[Profile], Bus]


def connect_rabbit(profile: Profile, line: LineState | None = None) -> Bus:
    """Connect to the broker of a profile; raises BrokerUnreachable or LoginRefused."""
    from messages.bus.amqp.rabbitmq import RabbitBus

    bus = RabbitBus(profile.broker_address(), profile.name, on_notice=None if line is None else line.take_notice)
    bus.connect(CONNECT_WITHIN)
    return bus


@contextmanager
def open_session(profile_path: Path | None) -> Iterator[BrokerSession]:
    """A session under the profile that was named."""
    profile = profiles.load_profile(profile_path)
    line = LineState()
    with BrokerSession(connect_rabbit(profile, line), profile, line) as opened:
        yield opened


OLDER_BROKER = (
    ". A consortium that an earlier version set up does not let a researcher say this: its operator renders the"
    " definitions again and imports them (`konsil broker definitions`)"
)
OLDER_COORDINATOR = ", and whether it is of this version: an earlier one does not know this request"


def _newer_word(kind: str, words: str) -> str:
    """Words about versions, where the kind came after 0.1."""
    return words if kind in NEWER else ""


def no_coordinator(waited: float, *, kept: bool = True, since: str = "") -> Unreachable:
    """What to say where the coordinator keeps silent.

    Args:
        kept: the broker keeps the request for it.
        since: the kind of the request: an earlier version may not know it.
    """
    ask = "Ask the consortium's operator whether `konsil coordinator run` is up" + _newer_word(since, OLDER_COORDINATOR)
    return Unreachable(
        f"the coordinator has not answered within {waited:.0f} s",
        advice=f"{ask}; nothing is lost: it reads the request when it starts" if kept else ask,
    )
