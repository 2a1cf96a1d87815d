"""What the demo writes as TOML reads back as it was."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.demo import toml

# surrogates cannot be encoded, and TOML has no NaN that equals itself
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
scalars = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts | st.dates()
values = scalars | st.lists(scalars, max_size=3)
documents: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(texts, values, max_size=4),
    lambda inner: st.dictionaries(texts, values | inner | st.lists(inner, min_size=1, max_size=3), max_size=4),
    max_leaves=6,
)


@given(documents)
def test_what_is_written_reads_back_equal(document: dict[str, Any]) -> None:
    assert tomllib.loads(toml.write_toml(document)) == document


def test_a_key_without_a_value_is_left_out() -> None:
    assert toml.write_toml({"a": None, "b": 1}) == "b = 1\n"


def test_what_toml_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="cannot hold object"):
        toml.write_toml({"a": object()})
