"""A consortium in memory, for tests of the whole coordinator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from coordinator_rig import Consortium


@pytest.fixture
def consortium(tmp_path: Path) -> Iterator[Consortium]:
    made = Consortium(tmp_path / "state")
    yield made
    made.close()
