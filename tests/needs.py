"""What a test needs and this machine may not have: skipped on a desk, failed where CI=true. (RabbitMQ: `brokers`.)"""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec

import pytest
from places import ROOT

from deploy.orthanc.node import Missing, find_orthanc


def lacks(what: str) -> None:
    """Skip, or fail in CI: this is not here."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def need_orthanc() -> None:
    """Orthanc is installed."""
    try:
        find_orthanc()
    except Missing as error:
        lacks(str(error))


def find_chromium() -> str:
    """A real browser."""
    found = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
    if found is None:
        lacks("no Chromium is installed")
    return str(found)


def need_module(name: str) -> None:
    """An optional library of pyproject.toml is installed; `make setup` installs it."""
    if find_spec(name) is None:
        lacks(f"{name} is not installed: `make setup` installs it")


def find_framework(name: str, module: str) -> str:
    """A Python that has a framework: this one, or that of the environment which `make test-frameworks` makes."""
    if find_spec(module) is not None:
        return sys.executable
    own = ROOT / ".frameworks" / name / "bin" / "python"
    if os.environ.get("KONSIL_FRAMEWORKS") != "1" or not own.exists():
        pytest.skip(f"{module} is not in this environment: `make test-frameworks` installs it (KONSIL_FRAMEWORKS=1)")
    return str(own)


def need_chaos(what: str = "takes minutes") -> None:
    """Somebody asked for it: skipped everywhere else, in CI too."""
    if os.environ.get("KONSIL_CHAOS") != "1":
        pytest.skip(f"{what}: `make chaos` runs it (KONSIL_CHAOS=1)")
