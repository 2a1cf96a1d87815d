"""Names, routing keys, exchanges and queues: the topic grammar of a consortium (one vhost)."""

from __future__ import annotations

from dataclasses import dataclass

from messages.ground.errors import MalformedMessage, RequestError
from messages.ground.naming import EXPERIMENT_ID, NAME, NO_EXPERIMENT

TOPOLOGY = 2
"""Number of the topology: 2 has an exchange for each party. 1, that of 0.1, has one that all share."""
OLD_EXCHANGE = "konsil"
"""The exchange that all share in topology 1. A broker that was upgraded keeps it until its operator closes it."""
COORDINATOR = "coordinator"

DOWNLINK, GLOBAL, UPLINK, AUDIT, MODELS, PROGRESS = (
    "downlink",
    "global",
    "uplink",
    "audit",
    "models",
    "progress",
)


def check_name(name: str, what: str = "name") -> str:
    """Return `name` if it is `[a-z0-9-]{1,32}`, else raise RequestError."""
    if not NAME.fullmatch(name):
        raise RequestError(f"{what} {name!r} is not allowed", advice="Use 1 to 32 of a-z, 0-9 and '-'")
    return name


def exchange_of(party: str) -> str:
    """The topic exchange that this party alone may write to; it leads to no queue but those that are the party's to
    write. Names hold no ".", so that no two parties share one."""
    return f"{OLD_EXCHANGE}.{party}"


def inbox_of(party: str) -> str:
    """The classic queue of one party: receipts, standing, chunks wanted; its consumer is the single-instance lock."""
    return f"inbox.{party}"


def update_queue(site: str) -> str:
    """The stream of one site's update chunks."""
    return f"update.{site}"


def is_stream(queue: str) -> bool:
    """Every queue of Konsil but the inboxes is a stream."""
    return not queue.startswith("inbox.")


@dataclass(frozen=True, slots=True)
class RoutingKey:
    """`<kind>.<sender>.<experiment>[.<addressee>]`; the addressee only where the message goes to one inbox."""

    kind: str
    sender: str
    experiment: str = NO_EXPERIMENT
    addressee: str | None = None

    def __str__(self) -> str:
        key = f"{self.kind}.{self.sender}.{self.experiment}"
        return f"{key}.{self.addressee}" if self.addressee else key

    @classmethod
    def parse(cls, key: str) -> RoutingKey:
        """Split a key; raises MalformedMessage where it is outside the grammar."""
        words = key.split(".")
        if len(words) not in (3, 4):
            raise MalformedMessage("malformed", "routing key has not 3 or 4 words")
        kind, sender, experiment, *rest = words
        names = [kind, sender, *rest]
        if not all(NAME.fullmatch(word) for word in names) or not EXPERIMENT_ID.fullmatch(experiment):
            raise MalformedMessage("malformed", "routing key holds a word outside the grammar")
        return cls(kind, sender, experiment, rest[0] if rest else None)
