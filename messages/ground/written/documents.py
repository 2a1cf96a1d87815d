"""TOML and JSON that people write: read from a file, each mistake in one line with what stands there."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from pathlib import Path
from typing import Any

from messages.ground.errors import ConfigError, RequestError
from messages.ground.written.text import decode_text, read_text, split_lines


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as plain types; ConfigError where it cannot be read, is not UTF-8 or not TOML."""
    return parse_toml(read_text(path, pipes=True), str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """TOML text as plain types; ConfigError where it is not TOML."""
    text = text.lstrip("\ufeff")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError("is not valid TOML: it is nested too deep", where=where) from None
    except ValueError as error:  # a number of more digits than Python takes, too
        place = re.search(r"at line (\d+)", str(error))
        hint = _name_oddity(split_lines(text), int(place[1])) if place else ""
        raise ConfigError(f"is not valid TOML: {error}", where=where, advice=hint) from None


def read_json(path: Path, *, refuse: type[RequestError] = ConfigError, advice: str = "") -> Any:
    """A JSON file as plain types.

    Raises:
        RequestError (`refuse`): it cannot be read, is not UTF-8 or not JSON.
    """
    return parse_json(read_text(path, refuse=refuse), str(path), refuse=refuse, advice=advice)


def parse_json(content: str | bytes, where: str, *, refuse: type[RequestError] = ConfigError, advice: str = "") -> Any:
    """JSON as plain types; RequestError (`refuse`) where it is none."""
    text = decode_text(content, where, refuse=refuse) if isinstance(content, bytes) else content.lstrip("\ufeff")
    try:
        return json.loads(text)
    except RecursionError:
        raise refuse("cannot be read as JSON: it is nested too deep", where=where, advice=advice) from None
    except json.JSONDecodeError as error:
        hint = _name_oddity(split_lines(text), error.lineno) or advice
        what = f"cannot be read as JSON: {error.msg} (at line {error.lineno}, column {error.colno})"
        raise refuse(what, where=where, advice=hint) from None
    except ValueError as error:
        raise refuse(f"cannot be read as JSON: {error}", where=where, advice=advice) from None


def _name_oddity(lines: list[str], number: int) -> str:
    """What no keyboard gives and word processors do: typographic quotes, spaces that are none, invisible letters."""
    line = lines[number - 1] if 0 < number <= len(lines) else ""
    for letter in line:
        kind = unicodedata.category(letter)
        if kind in ("Pi", "Pf") or letter == "\u201e":
            return f"Line {number} has a typographic quote ({letter}): write a plain one"
        if kind in ("Cf", "Zs") and letter != " ":
            name = unicodedata.name(letter, "no name").lower()
            return f"Line {number} has an invisible letter (U+{ord(letter):04X}, {name}): take it away"
    if re.search(r"\w:\\|\\\\", line) and re.search(r"(?<!\\)(?:\\\\)*\\(?!\\)", line):
        return f"Line {number} has a backslash: write it twice, or / in its place"
    return ""
