"""0.1's place of what prepares an image for a net: scripts that import it from here work for one release more."""

from __future__ import annotations

from site_agent.training.cases.preprocess import prepare_case as prepare
from site_agent.training.cases.preprocess import to_native

__all__ = ["prepare", "to_native"]
