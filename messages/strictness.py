"""The base of every model that crosses a boundary: scalars are what they are, never what they could be read as.

Pydantic's lax mode reads "5", 5.0 and true as the integer 5, and its strict mode refuses what a wire or a file can
only say in plain types (a list for a tuple, a string for an enum). So: scalars strict, containers and enums lax.
An integer is a float (TOML and msgpack both write 1.0 as 1 where they can); a bool is neither.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema

_SCALARS = frozenset({"int", "float", "bool", "str", "bytes"})
_LEFT_ALONE = frozenset({"keys_schema", "default", "metadata", "serialization", "expected"})
"""A map's keys stay lax, since TOML can only write strings there (`labels = { 1 = "NCR" }`)."""


def _make_strict(node: Any) -> None:
    if isinstance(node, list | tuple):
        for item in node:
            _make_strict(item)
    elif isinstance(node, dict):
        if node.get("type") in _SCALARS:
            node["strict"] = True
        for key, item in node.items():
            if key not in _LEFT_ALONE:
                _make_strict(item)


class StrictModel(BaseModel):
    """Frozen; refuses unknown fields, scalars of another type, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _make_strict(schema)
        return schema
