"""Unit files as text: pure."""

from __future__ import annotations

_OF_A_SERVICE = (
    "Type",
    "NotifyAccess",
    "ExecStart",
    "Restart",
    "RestartPreventExitStatus",
    "RestartSec",
    "WatchdogSec",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "KillMode",
)
"""Keys that a command which runs once has no use for."""

PREFLIGHT_WITHIN = 900
"""Seconds: large data sets on slow shares are surveyed in it."""

BACK_OFF_SINCE = 254
"""systemd's version that brought RestartSteps= and RestartMaxDelaySec= (systemd.service(5))."""

BACK_OFF = """\
# Written by deploy/install-*: 5 s after the first failure, then longer and longer, 5 min from the tenth on.
[Service]
RestartSec=5
RestartSteps=9
RestartMaxDelaySec=300
"""


def preflight_unit(unit: str) -> str:
    """The unit that runs `konsil site preflight` in the very sandbox of the service: same user, same view of the disk.

    Args:
        unit: text of konsil-site.service.
    """
    lines = []
    section = command = ""
    for line in unit.splitlines():
        if line.startswith("["):
            section = line
        if section == "[Install]" or (section != "[Service]" and line.startswith("StartLimit")):
            continue
        key, _, value = line.partition("=")
        if section == "[Service]" and key in _OF_A_SERVICE:
            if key == "ExecStart":
                command = value.replace(" site run ", " site preflight ")
            continue
        if line.startswith("#") and section == "":
            continue  # how to install the service is not how to install this
        if key == "Description":
            line = "Description=Konsil site preflight: what would stop the site agent"
        lines.append(line)
        if line == "[Service]":
            lines.append("Type=oneshot")
    head = "# Made from konsil-site.service by deploy/install-site: systemctl start konsil-site-preflight\n"
    at = lines.index("Type=oneshot") + 1
    lines[at:at] = [f"ExecStart={command}", f"TimeoutStartSec={PREFLIGHT_WITHIN}"]
    return head + "\n".join(lines).rstrip() + "\n"


def write_sysusers(user: str, home: str, what: str) -> str:
    """sysusers.d(5): a system user and group of one name."""
    return f'u {user} - "{what}" {home} /usr/sbin/nologin\n'
