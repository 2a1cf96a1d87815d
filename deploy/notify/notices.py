"""What is worth a word to somebody who does not look: pure. No patient data, and no free text of others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from messages.ground.units import human_bytes

CERTIFICATE_DAYS = (30, 7, 1)
DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Notice:
    """One matter.

    Attributes:
        key: names it; the same matter has the same key, and is told once until it is gone.
        after: seconds that it has to last before it is told.
        past: something that has happened, and does not go away: where word is new here, what is past is not told.
    """

    key: str
    subject: str
    text: str
    after: float = 0.0
    past: bool = False


OF_AGENT = frozenset({"broker", "paused", "forked", "awaits", "ended", "declined"})
"""Kinds of matters that a silent agent hides."""
OF_JOURNAL, OF_FIGURES = frozenset({"paused", "complete", "failed", "aborted"}), frozenset({"absent"})
"""Kinds that a broken journal hides, and those that a coordinator's missing figures do."""


def kind_of(key: str) -> str:
    """The kind of matter that a key names: its first word."""
    return key.partition(" ")[0]


def list_site_notices(
    status: Mapping[str, Any] | None,
    site: str,
    *,
    free: int,
    disk_below: int,
    certificate_ends: float | None,
    now: float,
) -> Iterator[Notice]:
    """Of a site.

    Args:
        status: the agent's answer (`konsil site status --json`); None: it does not answer.
        free: bytes that may still be written. certificate_ends: seconds since 1970; None: there is none.
    """
    yield from _list_of_machine(free, disk_below, certificate_ends, now)
    if status is None:
        yield Notice("silent", f"{site}: the agent does not answer", "See: systemctl status konsil-site", after=300.0)
        return
    if status["broker"] != "connected":
        text = f"The connection is {status['broker']}. See: konsil site preflight"
        yield Notice("broker", f"{site}: no connection with the broker", text, after=1800.0)
    if status["paused"]:
        yield Notice("paused", f"{site}: paused", "It takes no new work until: konsil site resume")
    if (log := status.get("log")) and log["forked"]:
        text = "This site takes no further part. Both heads are kept: konsil site heads"
        yield Notice("forked", f"{site}: the coordinator's log was forked", text)
    for one in status["experiments"]:
        name = one["experiment"]
        if one["phase"] == "awaiting":
            text = f"{one['researcher']} asks for it. See: konsil site requests"
            yield Notice(f"awaits {name}", f"{site}: {name} awaits your approval", text)
        elif one["phase"] in ("ended", "declined"):
            why = f" ({one['reason']}: {one['advice']})" if one["reason"] else ""
            what = "is over" if one["phase"] == "ended" else "was declined"
            yield Notice(f"{one['phase']} {name}", f"{site}: {name} {what}", f"By {one['researcher']}{why}", past=True)


def list_coordinator_notices(
    overview: Mapping[str, Any],
    liveness: Mapping[str, str],
    *,
    absent_after: float,
    disk_below: int,
    certificate_ends: float | None,
    now: float,
) -> Iterator[Notice]:
    """Of a coordinator.

    Args:
        overview: as `konsil coordinator status --json` has it. liveness: site → how it is, as far as that is known.
    """
    yield from _list_of_machine(overview["free_bytes"], disk_below, certificate_ends, now)
    if overview["problem"]:
        yield Notice("journal", "the coordinator's journal is broken", str(overview["problem"]))
    for name, phase in overview["phases"].items():
        if phase == "paused":
            yield Notice(f"paused {name}", f"{name} is paused", overview["experiments"][name])
        elif phase in ("complete", "failed", "aborted"):
            yield Notice(f"{phase} {name}", f"{name}: {phase}", f"See: konsil experiment report {name}", past=True)
    for site, state in liveness.items():
        if state == "absent":
            yield Notice(f"absent {site}", f"{site} is absent", "There is no sign of life from it", after=absent_after)


def _list_of_machine(free: int, disk_below: int, certificate_ends: float | None, now: float) -> Iterator[Notice]:
    if free < disk_below:
        text = f"{human_bytes(free)} are free; word comes below {human_bytes(disk_below)}"
        yield Notice("disk", "the disk is nearly full", text)
    if certificate_ends is None:
        return
    days = (certificate_ends - now) / DAY
    due = [limit for limit in CERTIFICATE_DAYS if days < limit]
    if due:
        left = "It has ended" if days < 0 else f"It ends in {int(days)} days"
        text = f"{left}. Make a new one: konsil provision renew"
        yield Notice(f"certificate {min(due)}", "the certificate for the broker ends", text)
