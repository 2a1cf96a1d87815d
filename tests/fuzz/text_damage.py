"""Damage to text that people write: what editors, tables, other systems and hands do to it."""

from __future__ import annotations

import random
from typing import Any

ODD = (
    "\ufeff", "\u00a0", "\u200b", "\u201c", "\u2019", "\u0301", "\0", "\t", "\r", "\n", "\x1a", "\x85", "\u2028",
    "#", "=", '"', "'", "[", "]", "{", "}", ",", ":", "-", ".", "\\", "0", "1e999", "true", "null", "nan", "é", "日本",
    "😀", "\x1b[31m",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    0, -1, 1, 2**63, 1e300, True, "", "x", "a b", "é", "../..", "file:nowhere", [], [1], ["x"], [[1]], {}, {"a": 1},
)  # fmt: skip
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252")


def damage_text(rng: random.Random, text: str) -> bytes:
    """A text, damaged here and there, in some encoding, its bytes damaged perhaps."""
    for _ in range(rng.randint(1, 4)):
        text = _damage_once(rng, text)
    encoding = rng.choice(ENCODINGS) if rng.random() < 0.3 else "utf-8"
    content = bytearray(text.encode(encoding, "replace"))
    if content and rng.random() < 0.3:
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def _damage_once(rng: random.Random, text: str) -> str:
    at = rng.randrange(len(text) + 1)
    to = min(len(text), at + rng.randint(1, 12))
    how = rng.randrange(8)
    if how == 0:
        return text[:at]
    if how == 1:
        return text[:at] + text[to:]
    if how == 2:
        return text[:to] + text[at:to] * rng.randint(1, 3) + text[to:]
    if how == 3:
        return text[:at] + rng.choice(("[", "{", '{"a":', "9")) * rng.choice((3, 5000)) + text[at:]
    if how == 4:
        return text.replace("\n", rng.choice(("\r\n", "\r", "\u2028")))
    if how == 5:
        lines = text.split("\n")
        rng.shuffle(lines)
        return "\n".join(lines)
    return text[:at] + rng.choice(ODD) + text[at if how == 6 else to :]


def damage_values(rng: random.Random, plain: Any) -> Any:
    """Plain types with one value somewhere replaced, removed or put elsewhere."""
    if isinstance(plain, dict) and plain:
        key = rng.choice(sorted(plain))
        changed = dict(plain)
        if isinstance(changed[key], dict | list) and rng.random() < 0.8:
            changed[key] = damage_values(rng, changed[key])
        elif rng.random() < 0.2:
            del changed[key]
        elif rng.random() < 0.1:
            changed[f"{key}s"] = changed.pop(key)
        else:
            changed[key] = rng.choice(VALUES)
        return changed
    if isinstance(plain, list) and plain:
        at = rng.randrange(len(plain))
        return [*plain[:at], damage_values(rng, plain[at]), *plain[at + rng.randrange(2) :]]
    if isinstance(plain, dict | list):
        return plain
    return rng.choice([one for one in VALUES if not isinstance(one, dict)])
