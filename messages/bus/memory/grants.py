"""What a broker lets a party do, read from RabbitMQ definitions (for the broker in memory).

Rules: https://www.rabbitmq.com/docs/access-control. Patterns are matched unanchored; an empty one matches nothing;
topic permissions are open for a user until the first one is defined.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
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


class Topics:
    """Topic bindings, by word: finding a key's queues looks at no binding that its words do not lead to."""

    def __init__(self, bindings: Iterable[tuple[str, str]]) -> None:
        self._root = _Node()
        for pattern, queue in bindings:
            node = self._root
            for word in pattern.split("."):
                node = node.after.setdefault(word, _Node())
            node.queues.add(queue)

    def queues_for(self, key: str) -> set[str]:
        """The queues of all bindings that take the key; the same as asking `matches_topic` of each."""
        found: set[str] = set()
        _collect_queues(self._root, key.split("."), found)
        return found


class _Node:
    __slots__ = ("after", "queues")

    def __init__(self) -> None:
        self.after: dict[str, _Node] = {}
        self.queues: set[str] = set()


def _collect_queues(node: _Node, words: list[str], found: set[str]) -> None:
    if not words:
        found |= node.queues
    for word in {"*", words[0]} if words else ():
        if word in node.after:
            _collect_queues(node.after[word], words[1:], found)
    if "#" in node.after:
        for skip in range(len(words) + 1):
            _collect_queues(node.after["#"], words[skip:], found)


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
        if not _allows_name(self._permissions[user]["write"], exchange or "amq.default"):
            return False
        topic = self._topics.get((user, exchange))
        return topic is None or _allows_name(topic, key)

    def may_read(self, user: str, queue: str) -> bool:
        """Whether the user may consume the queue."""
        return _allows_name(self._permissions[user]["read"], queue)


def _allows_name(pattern: str, name: str) -> bool:
    return _compile_pattern(pattern).search(name) is not None


@lru_cache(maxsize=8192)
def _compile_pattern(pattern: str) -> re.Pattern[str]:
    """`re` itself remembers 512 patterns: a consortium of 1,000 sites would compile one for each message."""
    return re.compile(pattern or "^$")
