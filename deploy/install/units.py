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

NOTIFY_WITHIN = 300

NOTIFY_TIMER = """\
# Written by deploy/install-*; off until: systemctl enable --now konsil-{role}-notify.timer
[Unit]
Description=Konsil: word when nobody looks, every five minutes
[Timer]
OnBootSec=5min
OnUnitInactiveSec=5min
[Install]
WantedBy=timers.target
"""

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
    """The unit that runs `konsil site preflight` in the sandbox of `unit`, konsil-site.service."""
    told = "Konsil site preflight: what would stop the site agent"
    return _derive_unit(unit, "preflight", told, PREFLIGHT_WITHIN)


def notify_unit(unit: str) -> str:
    """The unit that runs `konsil site notify` or `konsil coordinator notify` in the sandbox of the service `unit`."""
    return _derive_unit(unit, "notify", "Konsil: word when nobody looks", NOTIFY_WITHIN)


def _derive_unit(unit: str, verb: str, told: str, within: int) -> str:
    """A unit that runs another command in the very sandbox of a service: same user, same view of the disk.

    Args:
        unit: text of the service. verb: instead of `run`. told: its description. within: seconds that it may take.
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
                command = value.replace(" run ", f" {verb} ")
            continue
        if line.startswith("#") and section == "":
            continue  # how to install the service is not how to install this
        if key == "Description":
            line = f"Description={told}"
        lines.append(line)
        if line == "[Service]":
            lines.append("Type=oneshot")
    role = "coordinator" if " coordinator " in command else "site"
    head = f"# Made from konsil-{role}.service by deploy/install-{role}: systemctl start konsil-{role}-{verb}\n"
    at = lines.index("Type=oneshot") + 1
    lines[at:at] = [f"ExecStart={command}", f"TimeoutStartSec={within}"]
    return head + "\n".join(lines).rstrip() + "\n"


def write_sysusers(user: str, home: str, what: str) -> str:
    """sysusers.d(5): a system user and group of one name."""
    return f'u {user} - "{what}" {home} /usr/sbin/nologin\n'
