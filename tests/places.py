"""Where things lie: the checkout, its tests, and the data beside it."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
TEST_DATA = Path(os.environ.get("KONSIL_TEST_DATA", ROOT.parent / "shared" / "data"))
"""Public data sets that no commit holds; what needs them is skipped where they are not there."""
