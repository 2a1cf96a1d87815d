"""How calls reach the broker: each by a session of its own, so that a kernel idle for hours holds no dead one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from deploy.cli.defects import blame_machine

if TYPE_CHECKING:
    from deploy.session.connection import BrokerSession

OpenSession = Callable[[], AbstractContextManager["BrokerSession"]]


@contextmanager
def blame_plainly() -> Iterator[None]:
    """What the machine refuses, or is not installed, becomes the error that the commands tell; a defect stays."""
    try:
        yield
    except (OSError, ModuleNotFoundError) as error:
        ours = blame_machine(error)
        if ours is None:
            raise
        raise ours from error


def show_nothing(_words: str) -> None:
    """For what a command shows while it works."""
