"""Conventions of CONTRIBUTING.md about test files that nothing else holds."""

from __future__ import annotations

import re
from collections import Counter

from places import TESTS

FILES = sorted(TESTS.rglob("*.py"))


def test_no_test_file_imports_another() -> None:
    assert len(FILES) > 100
    imported = re.compile(r"^\s*(?:from|import) test_", re.MULTILINE)
    assert [str(path) for path in FILES if imported.search(path.read_text(encoding="utf-8"))] == []


def test_names_of_test_files_and_of_what_they_share_are_unique() -> None:
    names = Counter(path.name for path in FILES if path.stem not in ("conftest", "__main__"))
    assert [name for name, times in names.items() if times > 1] == []
