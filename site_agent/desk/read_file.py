"""Which site.toml the running agent read, and whether the file is still that: the agent reads it at its start only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ReadFile:
    """A file as it was read: its place, and the SHA-256 (hex) of its content."""

    path: str
    digest: str


def note_file(path: Path) -> ReadFile | None:
    """The file as it is now; None where it cannot be read."""
    try:
        return ReadFile(str(path.resolve()), sha256(path.read_bytes()).hexdigest())
    except OSError:
        return None


def outdated_words(status: Mapping[str, Any], path: Path) -> str | None:
    """What to say where the running agent has another file than `path` is now; None where it has this one.

    Args:
        status: the agent's answer; an older agent's does not name its file.
    """
    read, now = status.get("file"), note_file(path)
    if not isinstance(read, dict) or now is None or read.get("digest") == now.digest:
        return None
    if read.get("path") != now.path:
        return f"the running agent read {read.get('path')}, which says something else than {now.path}"
    return f"{now.path} was changed since the running agent read it: restart the agent, and it counts"
