"""What a look before work finds: each finding with its grade, and the exit status of them all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from messages.ground.errors import KonsilError


class Grade(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `exit_status` is what a failure stands for."""

    name: str
    grade: Grade
    what: str
    advice: str = ""
    exit_status: int = 1


def exit_status(checks: Iterable[Check]) -> int:
    """0, or the worst failure's: something wrong with the request (2) before something unreachable (3) before 1."""
    failed = {check.exit_status for check in checks if check.grade is Grade.FAIL}
    return next((status for status in (2, 3, 1) if status in failed), 0)


def failed_check(name: str, error: KonsilError) -> Check:
    """An error of ours as a finding."""
    what = f"{error.where}: {error.what}" if error.where else error.what
    return Check(name, Grade.FAIL, what, error.advice, error.exit_status)
