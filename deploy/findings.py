"""Findings of a look at a party, as a person and a program read them: one line each, one JSON object of all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from deploy.console import emit_json, say_line
from site_agent.desk.checks import Check, exit_status

MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}


def show_finding(check: Check) -> None:
    """Its line on standard output."""
    advice = f". {check.advice}" if check.advice else ""
    say_line(f"{MARKS[check.grade]} {check.name:<18} {check.what}{advice}")


def emit_findings(checks: Iterable[Check], more: Mapping[str, Any] = {}) -> None:
    """All of them as one JSON object, beside what else the command tells."""
    done = list(checks)
    rows = [{"name": one.name, "grade": one.grade.value, "what": one.what, "advice": one.advice} for one in done]
    emit_json({**more, "checks": rows, "exit_status": exit_status(done)})
