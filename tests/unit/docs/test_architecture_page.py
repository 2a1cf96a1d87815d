"""The map of the code names every module, and none that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from places import ROOT

PAGE = (ROOT / "docs" / "modules.md").read_text(encoding="utf-8")
WAY = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


SECTIONS = re.findall(r"^##+ ((?:\w+/)+) :", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_table_of_a_package_names_each_of_its_modules_and_no_other(section: str) -> None:
    table = re.split(r"^##+ ", PAGE.split(f"# {section} :", 1)[1], flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", table, flags=re.MULTILINE)
    named = [name.strip(" `") for row in rows for name in row.split(",")]
    folder = ROOT / section
    packages = {file.parent.name for file in folder.glob("*/__init__.py")}
    apart = {name for name in packages if f"{section}{name}/" in SECTIONS}
    there = {file.stem for file in folder.glob("*.py")} | packages
    own = {"__init__", "__main__"}  # a program's own module is named where there is something to say of it
    assert sorted(set(named) - apart - own) == sorted(there - apart - own)
    assert len(named) == len(set(named))


def test_every_package_has_a_table() -> None:
    tops = ("messages", "nets", "site_agent", "coordinator", "deploy")
    folders = {file.parent for top in tops for file in (ROOT / top).rglob("__init__.py")}
    told = {f"{folder.relative_to(ROOT)}/" for folder in folders}
    assert told - set(SECTIONS) == set()


def test_the_way_of_a_round_names_functions_that_are_there() -> None:
    way = WAY.split("## The way of one round", 1)[1]
    named = re.findall(r"`((?:[a-z_]+\.)+[A-Za-z_.]+)`", way)
    assert len(named) > 20
    lost = [name for name in named if not _is_there(name.split("."))]
    assert not lost


def _is_there(words: list[str]) -> bool:
    """Whether a module of ours holds this name; without its package it is the coordinator's or the agent's."""
    packages = (
        [ROOT / words[0]] if (ROOT / words[0]).is_dir() else [ROOT / "coordinator", ROOT / "site_agent", ROOT / "nets"]
    )
    return any(
        _holds(file, words[place + 1 :])
        for package in packages
        for place, word in enumerate(words)
        for file in package.rglob(f"{word}.py")
        if not place or file.parent.relative_to(ROOT).parts[-place:] == tuple(words[:place])
    )


def _holds(file: Path, words: list[str]) -> bool:
    text = file.read_text(encoding="utf-8")
    return bool(words) and all(re.search(rf"^\s*(class|def) {word}\b", text, flags=re.MULTILINE) for word in words)


def test_the_rooms_of_the_first_page_are_those_of_the_map() -> None:
    rooms = re.findall(r"^\| `((?:\w+/)+)` \|", WAY, flags=re.MULTILINE)
    assert rooms == SECTIONS
