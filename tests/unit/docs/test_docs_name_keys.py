"""Every key that a file may hold stands on the page that describes the file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from places import ROOT
from pydantic import BaseModel

from coordinator.config import CoordinatorConfig
from deploy.session.profile import Profile
from messages.experiment import Experiment
from nets.registry import NETS
from site_agent.config import SiteConfig

DOCS = ROOT / "docs"


def keys(model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """(section's model, key) of a model and of all that it is made of."""
    for name, field in model.model_fields.items():
        yield model.__name__, field.alias or name
        for part in models(field.annotation):
            yield from keys(part)


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for one in get_args(annotation):
        yield from models(one)


@pytest.mark.parametrize(
    ("page", "model"),
    [
        ("experiment-file.md", Experiment),
        *(("experiment-file.md", net) for name, net in NETS.items() if net(name=name).size_without_net() is None),
        ("site.md", SiteConfig),
        ("commands.md", CoordinatorConfig),
        ("commands.md", Profile),
    ],
)
def test_every_key_of_a_file_is_on_its_page(page: str, model: type[BaseModel]) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    told = set(re.findall(r"\w+", " ".join(re.findall(r"```.*?```|`[^`]+`|^#+ .*$", text, re.DOTALL | re.MULTILINE))))
    found = set(keys(model))
    assert found
    assert sorted(key for key in found if key[1] not in told) == []


@pytest.mark.parametrize("name", [name for name, net in NETS.items() if net(name=name).size_without_net() is None])
def test_every_net_has_a_row(name: str) -> None:
    assert f'| `"{name}"`' in (DOCS / "experiment-file.md").read_text(encoding="utf-8")
