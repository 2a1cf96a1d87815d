"""The base of every model that crosses a boundary: scalars are what they are, never what they could be read as.

Pydantic's lax mode reads "5", 5.0 and true as the integer 5, and its strict mode refuses what a wire or a file can
only say in plain types (a list for a tuple, a string for an enum). So: scalars strict, containers and enums lax.
An integer is a float (TOML and msgpack both write 1.0 as 1 where they can); a bool is neither.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, PydanticCustomError

_SCALARS = frozenset({"int", "float", "bool", "str", "bytes"})
_LEFT_ALONE = frozenset({"keys_schema", "default", "metadata", "serialization", "expected"})
"""A map's keys stay lax, since TOML can only write strings there (`labels = { 1 = "NCR" }`)."""

SPARE_KEYS = 64
"""Unknown keys that are named one by one; a map with more of them is refused unread."""


def at_most(most: int) -> BeforeValidator:
    """Refuse a longer map or list before any of its items is looked at.

    Pydantic's `max_length` looks at all items first and keeps one error for each that is wrong: minutes of work for
    one hostile message of a few megabytes.
    """

    def check(value: Any) -> Any:
        if isinstance(value, dict | list | tuple) and len(value) > most:
            raise PydanticCustomError(
                "too_long", "at most {most} entries, not {found}", {"most": most, "found": len(value)}
            )
        return value

    return BeforeValidator(check)


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

    @model_validator(mode="before")
    @classmethod
    def _unknown_keys_are_few(cls, content: Any) -> Any:
        if isinstance(content, dict) and len(content) > len(cls.__pydantic_fields__) + SPARE_KEYS:
            raise PydanticCustomError("extra_forbidden", "{found} keys", {"found": len(content)})
        return content

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _make_strict(schema)
        return schema
