"""Quantities as people write them in configuration files ↔ numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import time
from decimal import Decimal

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d|y)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "y": 365.25 * 86400.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B")
_FACTOR = {
    None: 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_HOURS = re.compile(r"\s*([0-2]\d:[0-5]\d)\s*-\s*([0-2]\d:[0-5]\d)\s*")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG])?bit/s")


def parse_seconds(text: str) -> float:
    """ "90s", "15m", "24h", "30d" → seconds; ValueError says what is allowed."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError("write a duration as a number and a unit: 90s, 15m, 24h or 30d")
    return float(match[1]) * _SECONDS[match[2]]


def size_bytes(text: str) -> int:
    """ "32GiB", "200 GB" → bytes."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError("write a size as a number and a unit: 500MB, 32GiB")
    return int(Decimal(match[1]) * _FACTOR[match[2]])


def bytes_per_second(text: str) -> float:
    """ "100Mbit/s" → bytes per second."""
    match = _RATE.fullmatch(text.strip())
    if not match:
        raise ValueError("write a rate as a number and a unit: 100Mbit/s, 1Gbit/s")
    return float(match[1]) * {None: 1, "K": 1e3, "M": 1e6, "G": 1e9}[match[2]] / 8


@dataclass(frozen=True, slots=True)
class Hours:
    """Daily working hours in the site's local time; may pass midnight ("18:00-07:00")."""

    begin: time
    end: time

    @classmethod
    def parse_hours(cls, text: str) -> Hours:
        """ValueError where it is not HH:MM-HH:MM."""
        match = _HOURS.fullmatch(text)
        try:
            begin, end = (time.fromisoformat(part) for part in (match.groups() if match else ()))
        except ValueError as error:
            raise ValueError("write hours as HH:MM-HH:MM, such as 18:00-07:00") from error
        return cls(begin, end)

    def include(self, moment: time) -> bool:
        """Whether `moment` lies within the hours (begin included, end not). Equal ends mean all day."""
        if self.begin == self.end:
            return True
        if self.begin < self.end:
            return self.begin <= moment < self.end
        return moment >= self.begin or moment < self.end


def human_bytes(count: float) -> str:
    """1536 → "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_seconds(value: float) -> str:
    """95 → "1:35"; 3700 → "1:01:40"."""
    minutes, rest = divmod(max(0, round(value)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def count_noun(count: int, one: str) -> str:
    """ "1 site", "3 sites", "3 entries"."""
    many = f"{one[:-1]}ies" if one.endswith("y") else f"{one}s"
    return f"{count} {one if count == 1 else many}"
