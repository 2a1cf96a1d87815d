"""What would stop a coordinator, or has: state, journal, register, broker, and the sites that it should hear."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from coordinator.config import CoordinatorConfig
from coordinator.record.journal_file import is_in_use
from coordinator.record.overview import look_at_journal
from deploy.doctor.line import check_line
from messages.ground.errors import KonsilError, RequestError
from messages.ground.units import count_noun, human_bytes
from messages.names import COORDINATOR
from messages.trust.register import Register
from messages.trust.settings import load_trust
from site_agent.desk.checks import Check, Grade, failed_check

AMPLE = 5 * 2**30
"""Free bytes above which nobody need look."""


def check_coordinator(config: CoordinatorConfig) -> Iterator[Check]:
    """Each finding as it is made; nothing is written, and a running coordinator is not disturbed."""
    identity = config.coordinator
    state = identity.state
    if not state.is_dir():
        yield Check(
            "state", Grade.WARN, f"{state} does not exist yet",
            "The first start makes it; else set coordinator.state to the right folder",
        )  # fmt: skip
    else:
        yield from _check_state(state, config.limits.disk_reserve)
        yield from _check_journal(state)
    register = None
    if config.trust is not None:
        try:
            register = load_trust(config.trust, identity.consortium, COORDINATOR).register
        except KonsilError as error:
            yield failed_check("trust", error)
        else:
            yield from _check_register(register, config)
    else:
        yield Check(
            "trust", Grade.WARN, "events are neither signed nor checked: coordinator.toml has no [trust]",
            "Make a consortium with `konsil provision init`",
        )  # fmt: skip
    yield from check_line(config.broker, COORDINATOR, identity.consortium, identity.sites)


def _check_state(state: Path, reserve: int) -> Iterator[Check]:
    if not os.access(state, os.W_OK | os.X_OK):
        what = f"{state} cannot be written by this user"
        yield Check("state", Grade.FAIL, what, "Run this as the coordinator's user, or give it the folder", 2)
    mode = stat.S_IMODE(state.stat().st_mode)
    if mode & 0o077:
        yield Check("state", Grade.WARN, f"{state}: others may look into it (mode {mode:o})", f"chmod 700 {state}")
    free = shutil.disk_usage(state).free
    words = f"{human_bytes(free)} free where the journal lies"
    if free < reserve:
        what = f"{words}, less than limits.disk_reserve ({human_bytes(reserve)}): rounds wait"
        yield Check("disk", Grade.FAIL, what, "Free space; it goes on by itself")
    elif free < AMPLE:
        yield Check("disk", Grade.WARN, words, "Give the disk more, or keep fewer updates (limits.keep_updates)")
    else:
        yield Check("disk", Grade.OK, words)


def _check_journal(state: Path) -> Iterator[Check]:
    if is_in_use(state):
        yield Check("service", Grade.OK, "a coordinator runs on this state")
    else:
        yield Check(
            "service", Grade.WARN, "no coordinator runs on this state",
            "systemctl start konsil-coordinator; its log says why it ended",
        )  # fmt: skip
    try:
        seen = look_at_journal(state)
    except RequestError as error:
        yield Check("journal", Grade.WARN, error.what, "The first start makes it")
        return
    except KonsilError as error:
        yield failed_check("journal", error)
        return
    if seen.problem:
        yield Check("journal", Grade.FAIL, seen.problem)
        return
    yield Check("journal", Grade.OK, f"{count_noun(seen.entries, 'entry')}, term {seen.term}; every entry holds")
    if seen.aside:
        reasons = ", ".join(f"{reason} {count}" for reason, count in seen.aside.most_common(5))
        yield Check(
            "journal", Grade.WARN, f"messages were set aside: {reasons}", "`konsil coordinator status` has them"
        )


def _check_register(register: Register, config: CoordinatorConfig) -> Iterator[Check]:
    now = time.time()
    for role, names in (("site", config.coordinator.sites), ("researcher", config.coordinator.researchers)):
        for name in names:
            if register.role_of(name) is None:
                what = f"{name} stands in coordinator.toml and not in the register"
                grade = Grade.FAIL if register.signatures == "required" else Grade.WARN
                yield Check("register", grade, what, "`konsil provision approve` its request", 2)
            elif register.role_of(name) != role:
                what = f"{name} is {register.role_of(name)} in the register and {role} in coordinator.toml"
                yield Check("register", Grade.FAIL, what, "Correct coordinator.toml", 2)
            elif register.is_barred(name, now):
                what = f"{name} was revoked and still stands in coordinator.toml"
                yield Check("register", Grade.WARN, what, "Take it out of coordinator.toml")
            elif not register.keys_of(name, now):
                what = f"no key of {name} is good any more"
                yield Check("register", Grade.WARN, what, "Ask it for `konsil provision renew`")
    with contextlib.suppress(ValueError):
        ends = max(key.until for key in register.keys if key.name == COORDINATOR)
        days = int((ends - now) // 86400)
        words = f"register {register.serial}; the coordinator's key is good for {days} days"
        grade = Grade.OK if days >= 30 else Grade.WARN
        yield Check("register", grade, words, "" if grade is Grade.OK else "`konsil provision renew`")
