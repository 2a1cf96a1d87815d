"""The site's secret: what pseudonyms, splits, fingerprints and files are keyed with. Never sent, never logged."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from messages.ground.durable import sync_to_disk
from messages.ground.errors import ConfigError

BYTES = 32


def secret_of(state: Path) -> bytes:
    """The secret (32 bytes) of the site with this state directory; made at first use.

    Whoever makes it at once, all end up with one: the file appears whole (link(2)), and only where none is yet.

    Raises:
        ConfigError: there is one that cannot be read, or is not whole: another in its place would part each patient
            from the split and the pseudonym that he had.
        OSError: the state directory cannot be written.
    """
    path = state / "secret"
    with contextlib.suppress(FileNotFoundError):
        return _read_whole(path)
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
    sync_to_disk(state)  # the name too: what is sealed with it must not outlive it
    return _read_whole(path)


def require_whole(state: Path) -> None:
    """Refuse a secret that cannot be used; none yet is right.

    Raises:
        ConfigError: as `secret_of`.
    """
    find_secret(state)


def find_secret(state: Path) -> bytes | None:
    """The secret where there is one already; raises as `require_whole`."""
    with contextlib.suppress(FileNotFoundError):
        return _read_whole(state / "secret")
    return None


def _read_whole(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(
            f"the site's secret cannot be read ({error.strerror})",
            where=str(path),
            advice="Make it a file that belongs to the agent's user, mode 600",
        ) from None
    if len(content) != BYTES:
        raise ConfigError(
            f"the site's secret has {len(content)} bytes, not {BYTES}",
            where=str(path),
            advice="Put it back from a backup. Without one, remove it only where no experiment runs and nothing is "
            "encrypted: the next one gives every patient another pseudonym and another split",
        )
    return content
