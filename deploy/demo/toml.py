"""Writing plain types as TOML 1.0 (the standard library only reads it)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def write_toml(content: Mapping[str, Any]) -> str:
    """`content` as a TOML document; keys whose value is None are left out.

    Raises:
        TypeError: a value that TOML cannot hold.
    """
    return "\n".join(_section_lines(content, ())).strip() + "\n"


def _section_lines(content: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    present = {key: value for key, value in content.items() if value is not None}
    lines = [f"{_quote_key(key)} = {_write_value(value)}" for key, value in present.items() if not _is_table(value)]
    for key, value in present.items():
        inner = (*path, key)
        name = ".".join(_quote_key(part) for part in inner)
        if isinstance(value, Mapping):
            lines += ["", f"[{name}]", *_section_lines(value, inner)]
        elif _is_table(value):
            for item in value:
                lines += ["", f"[[{name}]]", *_section_lines(item, inner)]
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or (
        isinstance(value, list | tuple) and bool(value) and all(isinstance(item, Mapping) for item in value)
    )


def _quote_key(key: Any) -> str:
    text = str(key)
    return text if _BARE.fullmatch(text) else _quote_string(text)


def _quote_string(text: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped (TOML 1.0, basic strings)
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _write_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return _quote_string(str(value))
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_write_value(item) for item in value) + "]"
    raise TypeError(f"TOML cannot hold {type(value).__name__}")
