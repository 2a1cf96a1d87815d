"""A user whom the machine's user database does not know, without USER, LOGNAME and HOME: as containers have them."""

from __future__ import annotations

import functools
import subprocess

from needs import lacks

COMMAND = ("unshare", "-U", "--map-user=12345", "--map-group=12345", "env", "-u", "HOME", "-u", "USER", "-u", "LOGNAME")
"""Before a command: it runs as that user. Files of whoever called are its own."""


@functools.cache
def _works() -> bool:
    try:
        return subprocess.run([*COMMAND, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def need_nameless() -> None:
    """User namespaces are allowed here."""
    if not _works():
        lacks("no user namespaces here (unshare -U)")
