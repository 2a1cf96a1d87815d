"""The topology of a consortium: exchanges, queues, bindings, and which party may write and read what.

Each party that says anything has an exchange of its own (`names.exchange_of`), the only one that it may write to. All
its bindings name the party, so that neither a routing key nor the headers CC and BCC (which RabbitMQ 3.10 holds against
no topic permission) lead to a queue that is not the party's to write.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from messages import kinds, names
from messages.ground.errors import RequestError
from messages.ground.naming import EXPERIMENT_PATTERN, NAME_PATTERN

ROLES = ("coordinator", "site", "researcher", "auditor", "viewer")
ANY_INBOX = rf"(\.{NAME_PATTERN})?"
FOURTH_WORDS = {"coordinator": ANY_INBOX, "site": rf"(\.{names.COORDINATOR})?", "researcher": ""}
"""Role → pattern of the inboxes that it may write."""


@dataclass(frozen=True, slots=True)
class Party:
    """One login of the consortium; `role` is one of `ROLES`.

    Without a password nobody logs in by one, only by a certificate. `password_hash` is RabbitMQ's, of a password that
    the party made and did not tell.
    """

    name: str
    role: str
    password: str = ""
    password_hash: str = ""

    def __post_init__(self) -> None:
        names.check_name(self.name, self.role)
        if self.role not in ROLES:
            raise RequestError(f"role {self.role!r} does not exist", advice=f"Use one of {', '.join(ROLES)}")
        if (self.role == "coordinator") != (self.name == names.COORDINATOR):
            raise RequestError(
                f"{self.name!r} cannot be a {self.role}",
                advice="The coordinator, and only the coordinator, is named 'coordinator'",
            )

    @property
    def writes(self) -> bool:
        """Whether it says anything: an auditor or a viewer has no exchange and no inbox."""
        return self.role not in ("auditor", "viewer")


@dataclass(frozen=True, slots=True)
class StreamSizes:
    """How much each stream keeps, in bytes; retention drops whole segments, so a stream may hold one more.

    `model_chunks` bounds `global` and `models` each; `update_chunks` bounds each site's `update.<site>`.
    `progress_age` is RabbitMQ's notation (D, h, m, s).
    """

    events: int = 2 * 2**30
    audit: int = 8 * 2**30
    model_chunks: int = 8 * 2**30
    update_chunks: int = 4 * 2**30
    progress: int = 64 * 2**20
    progress_age: str = "1h"
    inbox: int = 64 * 2**20
    segment: int = 64 * 2**20
    small_segment: int = 16 * 2**20


MESSAGE_BYTES = 16 * 2**20
"""Of a message at the broker, as RabbitMQ 4 has it by itself. An event has 4 MiB at most, a chunk 8."""
CONNECTIONS = 32
"""Of one login. A service has four; those of a line that was cut last three heartbeats more, and a person may run
several commands at once."""
SPARE_CHANNELS = 64
"""Of one login, beside one for each site's update stream, which the coordinator reads."""
MOST_CHANNELS = 256
"""Of one connection, beside the same; the limit of the login bites first."""


def channel_max(sites: int) -> int:
    """Channels of one connection in a consortium of so many sites."""
    return MOST_CHANNELS + sites


def user_limits(role: str, sites: int) -> dict[str, int]:
    """RabbitMQ's limits for one login (`rabbitmqctl set_user_limits`): twice the channels that it needs, since those of
    a line that was cut last a while."""
    channels = SPARE_CHANNELS + (sites if role == "coordinator" else 0)
    return {"max-connections": CONNECTIONS, "max-channels": 2 * channels}


@dataclass(frozen=True, slots=True)
class Topology:
    """Who and what there is.

    Args:
        old_exchange: keep that of topology 1 too, for parties of 0.1. Whoever may write to it reaches every queue.
    """

    parties: Sequence[Party]
    sizes: StreamSizes = StreamSizes()
    old_exchange: bool = False

    @property
    def sites(self) -> list[str]:
        """The sites' names."""
        return [one.name for one in self.parties if one.role == "site"]

    @property
    def speakers(self) -> list[Party]:
        """All but auditors and viewers."""
        return [one for one in self.parties if one.writes]

    def list_exchanges(self) -> list[str]:
        """Names of the topic exchanges."""
        old = [names.OLD_EXCHANGE] if self.old_exchange else []
        return [*old, *(names.exchange_of(one.name) for one in self.speakers)]

    def exchanges_for(self, party: Party) -> list[str]:
        """The exchanges that the party may write to."""
        if not party.writes:
            return []
        return [*([names.OLD_EXCHANGE] if self.old_exchange else []), names.exchange_of(party.name)]

    def keys_for(self, party: Party) -> str:
        """Pattern of the routing keys that the party may write, to any exchange."""
        if not party.writes:
            return "^$"
        own = [kind for kind, spec in sorted(kinds.KINDS.items()) if "researcher" in spec.senders]
        kind = f"({'|'.join(own)})" if party.role == "researcher" else NAME_PATTERN
        return rf"^{kind}\.{party.name}\.{EXPERIMENT_PATTERN}{FOURTH_WORDS[party.role]}$"

    def queues_for(self, party: Party) -> list[str]:
        """The queues that the party may read."""
        own = names.inbox_of(party.name)
        if party.role == "coordinator":
            # It reads back what it alone can publish again: a loss of these is seen by nobody else.
            own_word = ["downlink", "audit", "models"]
            return ["uplink", "progress", own, *own_word, *(names.update_queue(site) for site in self.sites)]
        if party.role == "site":
            return ["downlink", "global", "progress", own]
        if party.role == "researcher":
            return ["downlink", "progress", "audit", "models", own]
        return ["audit", "progress"] if party.role == "viewer" else ["audit", "models"]

    def limits_for(self, party: Party) -> dict[str, int]:
        """Bounds of the party's login at the broker."""
        return user_limits(party.role, len(self.sites))

    def list_queues(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Each queue with its arguments."""
        sizes = self.sizes
        yield names.DOWNLINK, _stream(sizes.events, sizes.small_segment)
        yield names.UPLINK, _stream(sizes.events, sizes.small_segment)
        yield names.AUDIT, _stream(sizes.audit, sizes.segment)
        yield names.GLOBAL, _stream(sizes.model_chunks, sizes.segment)
        yield names.MODELS, _stream(sizes.model_chunks, sizes.segment)
        yield names.PROGRESS, _stream(sizes.progress, sizes.small_segment) | {"x-max-age": sizes.progress_age}
        for site in self.sites:
            yield names.update_queue(site), _stream(sizes.update_chunks, sizes.segment)
        for one in self.speakers:
            yield names.inbox_of(one.name), {"x-queue-type": "classic", "x-max-length-bytes": sizes.inbox}

    def list_bindings(self) -> Iterable[tuple[str, str, str]]:
        """(exchange, queue, pattern) of every binding."""
        for party in self.speakers:
            exchange = names.exchange_of(party.name)
            for queue, pattern in self._own_bindings(party):
                yield exchange, queue, pattern
        if self.old_exchange:
            for queue, pattern in self._old_bindings():
                yield names.OLD_EXCHANGE, queue, pattern

    def _own_bindings(self, party: Party) -> Iterable[tuple[str, str]]:
        """(queue, pattern) of a party's exchange: the kinds that its role sends, in its own name."""
        for kind, spec in sorted(kinds.KINDS.items()):
            if party.role in spec.senders and spec.queue != kinds.INBOX:
                queue = names.update_queue(party.name) if spec.queue == kinds.UPDATE else spec.queue
                yield queue, f"{kind}.{party.name}.*"
        # A kind that only a newer version says to an inbox goes there too: its reader tells what it is.
        if party.role == "coordinator":
            others = (one.name for one in self.speakers if one is not party)
            yield from ((names.inbox_of(other), f"*.{party.name}.*.{other}") for other in others)
        elif party.role == "site":
            yield names.inbox_of(names.COORDINATOR), f"*.{party.name}.*.{names.COORDINATOR}"

    def _old_bindings(self) -> Iterable[tuple[str, str]]:
        """(queue, pattern) of the shared exchange, as 0.1 had them."""
        for kind, route in sorted(kinds.ROUTES.items()):
            if route in (names.DOWNLINK, names.GLOBAL, names.AUDIT, names.MODELS):
                yield route, f"{kind}.{names.COORDINATOR}.*"
            elif route in (names.UPLINK, names.PROGRESS):
                yield route, f"{kind}.*.*"
            elif route == kinds.UPDATE:
                yield from ((names.update_queue(site), f"{kind}.{site}.*") for site in self.sites)
        yield from ((names.inbox_of(one.name), f"*.*.*.{one.name}") for one in self.speakers)


def _stream(length: int, segment: int) -> dict[str, Any]:
    return {"x-queue-type": "stream", "x-max-length-bytes": length, "x-stream-max-segment-size-bytes": segment}
