"""The operator's page: each command of ours that it shows exists, with each option that it gives."""

from __future__ import annotations

import importlib
import re
import shlex
from typing import Any

import pytest
import typer
from places import ROOT

from deploy.cli.command import PARTS

PAGE = (ROOT / "docs" / "operator.md").read_text(encoding="utf-8")


def shown_commands() -> list[str]:
    blocks = " ; ".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ").replace("\n", " ; ")
    inline = re.findall(r"`(konsil [^`]+)`", PAGE)
    return sorted({one.strip() for one in [*re.split(r"\s;\s", blocks), *inline] if one.strip().startswith("konsil ")})


def test_the_page_shows_commands() -> None:
    assert len(shown_commands()) > 10


@pytest.mark.parametrize("line", shown_commands())
def test_a_command_that_the_page_shows_is_one_of_ours(line: str) -> None:
    _konsil, part, *rest = shlex.split(line)
    assert part in PARTS
    group: Any = typer.main.get_command(importlib.import_module(PARTS[part].module).app)
    command = group.commands[rest[0]]
    known = {option for one in command.params for option in [*one.opts, *one.secondary_opts]}
    given = [word.partition("=")[0] for word in rest[1:] if word.startswith("--")]
    assert [option for option in given if option not in known] == []
