"""What a human may send for help: findings, versions, settings without their words, counts of what was logged.

The rule is a list of what goes in, not of what stays out. Of settings go numbers, switches and words that Konsil itself
defines; of a line of the log its level, its event and codes. Names, paths, addresses and free text never go.
"""

from __future__ import annotations

import json
import platform
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from enum import Enum
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import coordinator
import messages
import site_agent
from messages.ground.errors import RequestError
from messages.reasons import Reason
from site_agent.desk.checks import Check

LINES = 200
"""Of the log, at most."""
_CODES = frozenset(one.value for one in Reason)
_LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})
_SAID = re.compile(r'\(\s*"([a-z][^"{}\n]{1,200})"')
"""The first argument of a call. Not only `log.…`: some lines choose their level first."""
PACKAGES = (coordinator, messages, site_agent)
SET, UNSET = "(set)", "(not set)"


def describe_settings(settings: BaseModel) -> dict[str, Any]:
    """A configuration without its words: numbers, switches and None as they are, anything else as "(set)"."""
    return {name: _describe(getattr(settings, name)) for name in type(settings).model_fields}


def _describe(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return describe_settings(value)
    if value is None:
        return UNSET
    if isinstance(value, Enum):
        return SET
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return [_describe(one) for one in value.values()]  # keys are names that people gave
    if isinstance(value, tuple | list | set | frozenset):
        return f"({len(value)} set)"
    return SET if value else UNSET


def describe_lines(lines: Iterable[str]) -> list[dict[str, str]]:
    """The last lines of a log (JSON): time, level, event and code of each; what is none of ours is only counted."""
    found: list[dict[str, str]] = []
    others = 0
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            others += 1
            continue
        if not isinstance(told, dict):
            others += 1
            continue
        kept: dict[str, str] = {}
        for key in ("level", "event", "reason", "timestamp"):
            value = told.get(key)
            if isinstance(value, str) and _may_go(key, value):
                kept[key] = value
        found.append(kept)
    if others:
        found.append({"event": "lines that are none of ours", "reason": str(others)})
    return found[-LINES:]


def _may_go(key: str, value: str) -> bool:
    if key == "level":
        return value in _LEVELS
    if key == "reason":
        return value in _CODES
    if key == "timestamp":
        return re.fullmatch(r"[0-9TZ:.+-]{1,40}", value) is not None
    return value in find_own_events()


@cache
def find_own_events() -> frozenset[str]:
    """Every sentence that our services log, read out of their own source."""
    found: set[str] = set()
    for package in PACKAGES:
        for path in Path(package.__file__ or "").parent.rglob("*.py"):
            found.update(_SAID.findall(path.read_text(encoding="utf-8")))
    return frozenset(found)


def list_packages(root: str) -> dict[str, str]:
    """Name → version of a package and what it asks for, through others too: a hospital's own packages stay out."""
    found: dict[str, str] = {}
    asked, seen = [root], set[str]()
    while asked:
        name = re.sub(r"[-_.]+", "-", asked.pop()).lower()  # PEP 503
        if name in seen:
            continue
        seen.add(name)
        try:
            one = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = one.version
        asked += [match[0] for line in one.requires or () if (match := re.match(r"[A-Za-z0-9._-]+", line))]
    return found


def make_bundle(checks: Iterable[Check], settings: BaseModel, lines: Iterable[str]) -> dict[str, str]:
    """Name in the bundle → its whole content, as text."""
    told = describe_lines(lines)
    versions = {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "packages": list_packages("konsil"),
    }
    findings = [{"check": one.name.partition(" ")[0], "grade": one.grade.value} for one in checks]
    return {
        "findings.json": _as_text(findings),
        "versions.json": _as_text(versions),
        "settings.json": _as_text(describe_settings(settings)),
        "log.json": _as_text(told),
        "log-counts.json": _as_text(dict(Counter(one.get("event", "") for one in told))),
    }


def write_bundle(path: Path, content: dict[str, str]) -> None:
    """Write the bundle (ZIP). RequestError: the file exists, or cannot be written."""
    try:
        with path.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
            for name, text in content.items():
                bundle.writestr(name, text)
    except FileExistsError:
        raise RequestError("exists already", where=str(path), advice="Name a new file") from None
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror})", where=str(path)) from None


def _as_text(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
