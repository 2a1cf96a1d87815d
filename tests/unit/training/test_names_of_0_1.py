"""What a site's operator or a scientist wrote against 0.1's names works for one release more."""

from __future__ import annotations

import importlib

import pytest

NAMES = [
    ("site_agent.training.preprocess", "prepare"),
    ("site_agent.training.preprocess", "to_native"),
    ("site_agent.training.protocol", "encode"),
    ("site_agent.training.protocol", "decode_request"),
    ("site_agent.training.protocol", "read_frame"),
    ("site_agent.training.files", "growing"),
    ("site_agent.training.files", "write_update"),
    ("site_agent.training.null", "main"),
    ("messages.tensors", "Manifest"),
    ("nets.export", "load_model"),
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_name_of_0_1_is_still_there(module: str, name: str) -> None:
    assert callable(getattr(importlib.import_module(module), name))
