"""What a broker lets a party do, read from RabbitMQ definitions (for the broker in memory).

Rules: https://www.rabbitmq.com/docs/access-control. Patterns are matched unanchored; an empty one matches nothing;
topic permissions are open for a user until the first one is defined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def matches_topic(pattern: str, key: str) -> bool:
    """Whether a topic binding takes a routing key: '*' stands for one word, '#' for any number (AMQP 3.1.3.3)."""
    return _words_match(pattern.split("."), key.split("."))


def _words_match(pattern: list[str], key: list[str]) -> bool:
    if not pattern:
        return not key
    head, *rest = pattern
    if head == "#":
        return any(_words_match(rest, key[skip:]) for skip in range(len(key) + 1))
    return bool(key) and head in ("*", key[0]) and _words_match(rest, key[1:])


class Grants:
    """The users and permissions of one vhost."""

    def __init__(self, definitions: Mapping[str, Any], vhost: str) -> None:
        self._users = {user["name"] for user in definitions["users"]}
        self._permissions = {entry["user"]: entry for entry in definitions["permissions"] if entry["vhost"] == vhost}
        self._topics = {
            (entry["user"], entry["exchange"]): entry["write"]
            for entry in definitions["topic_permissions"]
            if entry["vhost"] == vhost
        }

    def may_login(self, user: str) -> bool:
        """Whether the user exists and has access to the vhost."""
        return user in self._users and user in self._permissions

    def may_write(self, user: str, exchange: str, key: str) -> bool:
        """Whether the user may publish to the exchange under this key."""
        # the default exchange goes by this name in permissions
        if not _allows(self._permissions[user]["write"], exchange or "amq.default"):
            return False
        topic = self._topics.get((user, exchange))
        return topic is None or _allows(topic, key)

    def may_read(self, user: str, queue: str) -> bool:
        """Whether the user may consume the queue."""
        return _allows(self._permissions[user]["read"], queue)


def _allows(pattern: str, name: str) -> bool:
    return re.search(pattern or "^$", name) is not None
