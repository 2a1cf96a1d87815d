"""Fixtures that several files share."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from dicom_rig import Phantom, Watched, prepared, settings, write

from site_agent.dicom.preparing import preparation


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What is asked of the source from now on."""
    count: Counter[str] = Counter()
    monkeypatch.setattr(preparation, "open_source", lambda config, state: Watched(config, state, count))
    return count


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Phantom]]:
    """Three patients, whole; read only."""
    folder = tmp_path_factory.mktemp("export")
    return folder, write(folder, range(3))


@pytest.fixture(scope="session")
def calm(export: tuple[Path, list[Phantom]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with these three patients prepared; read only."""
    state = tmp_path_factory.mktemp("calm")
    prepared(state, settings(export[0]))
    return state
