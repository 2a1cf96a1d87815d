"""Which state of a data set from DICOM an experiment trains on, whatever else comes from the PACS meanwhile.

A PACS receives new studies every day, and an experiment trains on the data with which it was joined. So the state that
was prepared for its joining is written down beside its caches, goes when they go, and is kept on disk until then.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from messages.ground.errors import ConfigError
from messages.ground.written.text import read_content
from site_agent.dicom.base import Accounting
from site_agent.dicom.prepared import store

FILE = "dataset.json"
_READING = "list-1|"
"""Begins the look at a list; another number where lists come to be read otherwise."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What an experiment was joined with.

    Attributes:
        dataset: its name in site.toml.
        withdrawn: how the list of the withdrawn looked (`look_at_list`): another list, another data set.
    """

    dataset: str
    accounting: Accounting
    withdrawn: str

    @property
    def fingerprint(self) -> str:
        """Of the data set's state."""
        return self.accounting.fingerprint


def look_at_file(path: Path | None) -> str:
    """Size and time of change of a file: by them a changed one is noticed."""
    if path is None:
        return ""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return "unreadable"
    return f"{status.st_size}|{status.st_mtime_ns}"


def look_at_list(path: Path | None, salt: str = "") -> str:
    """A digest of a list's content: by it a changed list is noticed, be its size and time what they were.

    Args:
        salt: makes digests of one content differ, where they lie on disk.
    """
    if path is None:
        return ""
    try:
        content = read_content(path)
    except ConfigError:
        return "unreadable"
    return f"{_READING}{salt}|{sha256(salt.encode() + content).hexdigest()}"


def is_same_list(pin: Pin, path: Path | None) -> bool:
    """Whether a list is the one that an experiment was joined with; pins of 0.1 know its size and time of change."""
    if not pin.withdrawn.startswith(_READING):
        return pin.withdrawn == look_at_file(path)
    salt = pin.withdrawn.removeprefix(_READING).partition("|")[0]
    return pin.withdrawn == look_at_list(path, salt)


def write_pin(cache: Path, pin: Pin) -> None:
    """Write down what an experiment trains on, whole or not at all.

    Args:
        cache: the experiment's folder under `STATE/cache`.
    """
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = cache / f".{FILE}.{os.getpid()}"
    with beside.open("w", encoding="utf-8") as file:
        json.dump(
            {"dataset": pin.dataset, "withdrawn": pin.withdrawn, "set": store.accounting_as_plain(pin.accounting)}, file
        )
        file.flush()
        os.fsync(file.fileno())
    beside.replace(cache / FILE)


def read_pin(cache: Path) -> Pin | None:
    """What an experiment trains on; None where it was not prepared yet, or the file is damaged."""
    try:
        content: dict[str, Any] = json.loads((cache / FILE).read_text(encoding="utf-8"))
        return Pin(str(content["dataset"]), store.accounting_from_plain(content["set"]), str(content["withdrawn"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pinned_states(state: Path, dataset: str) -> set[str]:
    """The states of a data set that experiments train on, or did until their caches are removed."""
    found = (read_pin(path.parent) for path in (state / "cache").glob(f"*/{FILE}"))
    return {pin.fingerprint for pin in found if pin is not None and pin.dataset == dataset}
