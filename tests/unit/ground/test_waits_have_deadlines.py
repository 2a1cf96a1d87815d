"""Every wait in the services has a deadline: a call that waits without one is named here, with who ends it."""

from __future__ import annotations

import ast
from pathlib import Path

from places import ROOT

WAITING = {"wait", "wait_for", "join", "get", "acquire"}
"""Of threads, events, conditions, queues, processes. With no argument at all they wait for ever."""

ENDED_BY: dict[tuple[str, str], str] = {
    ("coordinator/outgoing.py", "_run"): "an idle worker; `stop` puts None into its queue",
    ("messages/bus/memory/connection.py", "close"): "the bus's own thread, which sees `_closed`; tests only",
    ("site_agent/receiver.py", "close"): "its thread looks every half second whether it is to end",
    ("site_agent/sender.py", "_send"): "the broker's answer is here already (`done`)",
    ("site_agent/sender.py", "_send_ahead"): "the same",
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
    services = [*ROOT.glob("coordinator/*.py"), *ROOT.glob("site_agent/*.py"), *ROOT.glob("messages/**/*.py")]
    assert len(services) > 80
    waits = {(str(path.relative_to(ROOT)), name) for path in services for name in unbounded(path)}
    assert waits - set(ENDED_BY) == set()
    assert set(ENDED_BY) - waits == set(), "named here, and gone"
