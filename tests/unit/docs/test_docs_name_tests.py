"""What the documents say is tried by a test is tried by a test that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
FILES = [*ROOT.glob("tests/**/test_*.py")]
THERE = {path.stem for path in FILES} | {
    name for path in FILES for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}
"""Test files and tests."""


def test_there_are_pages_that_name_tests() -> None:
    assert sum(len(named(page)) for page in PAGES) > 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_test_that_a_page_names_is_there(page: Path) -> None:
    assert named(page) <= THERE


def named(page: Path) -> set[str]:
    """Tests and files of them; a name with `*` stands for all that begin so, and one at least must."""
    words = re.findall(r"`(?:tests/\w+/)?(test_\w+\*?)(?:\.py)?`", page.read_text(encoding="utf-8"))
    return {
        next((there for there in sorted(THERE) if there.startswith(word[:-1])), word) if word.endswith("*") else word
        for word in words
    }
