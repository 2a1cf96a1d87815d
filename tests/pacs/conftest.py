"""A real PACS for tests: a private Orthanc, one for the session, and others for tests that kill theirs.

A missing Orthanc skips the tests that need it on a desk, and fails them where CI=true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from needs import need_orthanc

from deploy.orthanc.node import OrthancNode

CALLER = "KONSIL"
"""The AE title that the session's node knows; it only calls (for C-MOVE: `orthanc.register`)."""


@pytest.fixture(scope="session")
def session_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancNode]:
    """One strict node for the whole session; tests ask for `orthanc`."""
    need_orthanc()
    with OrthancNode(tmp_path_factory.mktemp("orthanc"), aets={CALLER: ("127.0.0.1", 11112)}) as node:
        yield node


@pytest.fixture
def orthanc(session_orthanc: OrthancNode) -> OrthancNode:
    """The session's node, running and empty; CALLER may talk to it."""
    session_orthanc.start()
    session_orthanc.clear_patients()
    return session_orthanc


@pytest.fixture
def make_orthanc(tmp_path: Path) -> Iterator[Callable[..., OrthancNode]]:
    """Starts a node of a test's own, to kill or to configure: takes `OrthancNode`'s arguments but the folder."""
    need_orthanc()
    with ExitStack() as stack:
        made = 0

        def make(**options: Any) -> OrthancNode:
            nonlocal made
            made += 1
            return stack.enter_context(OrthancNode(tmp_path / f"orthanc-{made}", **options))

        yield make
