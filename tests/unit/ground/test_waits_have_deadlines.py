"""Every wait in the services has a deadline: a call that waits without one is named here, with who ends it."""

from __future__ import annotations

import ast
from pathlib import Path

from places import ROOT

WAITING = {"wait", "wait_for", "join", "get", "acquire"}
"""Of threads, events, conditions, queues, processes. With no argument at all they wait for ever."""

ELSEWHERE = (
    "site_agent/dicom",
    "site_agent/training",
    "site_agent/external",
    "site_agent/datasets",
    "messages/ground/virtual",
)
"""No part of a service's own process; virtual time serves tests."""

ENDED_BY: dict[tuple[str, str], str] = {
    ("coordinator/wire/outgoing.py", "_handle_items"): "an idle worker; `stop` puts None into its queue",
    ("messages/bus/memory/connection.py", "close"): "the bus's own thread, which sees `_closed`; tests only",
    ("site_agent/wire/receiver.py", "close"): "its thread ends at the None in its queue, after the chunk in hand",
    ("site_agent/wire/sender.py", "_send_task"): "the broker's answer is here already (`done`)",
    ("site_agent/wire/sender.py", "_send_ahead"): "the same",
}


def unbounded(path: Path) -> list[str]:
    """Functions in which something is waited for without a deadline."""
    functions = [one for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.FunctionDef)]
    return [one.name for one in functions if any(_waits(node) for node in ast.walk(one))]


def _waits(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return False
    return node.func.attr in WAITING and not node.args and not node.keywords


def test_no_wait_of_a_service_is_without_a_deadline_or_a_named_owner() -> None:
    found = [*ROOT.glob("coordinator/**/*.py"), *ROOT.glob("site_agent/**/*.py"), *ROOT.glob("messages/**/*.py")]
    services = [path for path in found if not any(path.is_relative_to(ROOT / elsewhere) for elsewhere in ELSEWHERE)]
    assert len(services) > 80
    waits = {(str(path.relative_to(ROOT)), name) for path in services for name in unbounded(path)}
    assert waits - set(ENDED_BY) == set()
    assert set(ENDED_BY) - waits == set(), "named here, and gone"
