"""The site's secret: what pseudonyms, splits, fingerprints and files are keyed with. Never sent, never logged."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

BYTES = 32


def secret_of(state: Path) -> bytes:
    """The secret (32 bytes) of the site with this state directory; made at first use.

    Whoever makes it at once, all end up with one: the file appears whole (link(2)), and only where none is yet.

    Raises:
        OSError: the state directory cannot be written.
    """
    path = state / "secret"
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    descriptor, name = tempfile.mkstemp(prefix="secret.new.", dir=state)  # readable by its owner alone
    beside = Path(name)
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
