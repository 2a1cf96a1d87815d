"""The site's secret: what pseudonyms, splits, fingerprints and files are keyed with. Never sent, never logged."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

BYTES = 32


def secret_of(state: Path) -> bytes:
    """The secret (32 bytes) of the site with this state directory; made at first use.

    Two processes that make it at once end up with one: the file appears whole (link(2)), and only where none is yet.

    Raises:
        OSError: the state directory cannot be written.
    """
    path = state / "secret"
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    beside = path.with_suffix(f".new.{os.getpid()}")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(beside)
    finally:
        beside.unlink(missing_ok=True)
    return path.read_bytes()
