"""What the `konsil` command prints: results on standard output, everything else on standard error.

With --json standard output carries exactly one JSON object (a watch: one a line), so that programs can read it.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from messages.ground.errors import KonsilError
from messages.ground.shown import escape_controls, escape_json
from messages.ground.units import human_moment

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


def say_line(text: str = "") -> None:
    """One line of the result; what a terminal would obey stands there as an escape."""
    sys.stdout.write(escape_controls(text) + "\n")
    sys.stdout.flush()


def note_line(text: str, before: str = "") -> None:
    """A line beside the result, or some: progress, hints, warnings.

    Args:
        before: what a terminal is to obey first; never others' text.
    """
    sys.stderr.write(before + escape_controls(text, keep="\n") + "\n")
    sys.stderr.flush()


def make_notes(prefix: str) -> Callable[[str], None]:
    """A teller of notes: in a terminal, news of the same matter ("writing images: …") takes the place of the last."""
    matter = ""

    def tell(text: str) -> None:
        nonlocal matter
        news, _, rest = text.partition(":")
        again = bool(rest) and news == matter and sys.stderr.isatty()
        matter = news
        note_line(f"{prefix}{text}", "\x1b[1A\x1b[2K" if again else "")  # up one line, clear it (ECMA-48 CUU, EL)

    return tell


EMITTED = threading.Event()
"""Set once an object was printed."""


def emit_json(value: dict[str, Any]) -> None:
    """One JSON object on a line of its own."""
    EMITTED.set()
    # JSON is UTF-8 (RFC 8259, 8.1); in another encoding its escapes say the same.
    say_line(escape_json(json.dumps(value, default=_as_plain, ensure_ascii=not _speaks_utf8())))


def _speaks_utf8() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"


def _as_plain(value: Any) -> Any:
    if isinstance(value, set | frozenset | tuple):
        return sorted(value) if not isinstance(value, tuple) else list(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return str(value)


def error_object(error: KonsilError) -> dict[str, Any]:
    """The object that --json prints instead of a result."""
    return {
        "error": {
            "what": error.what,
            "where": error.where,
            "advice": error.advice,
            "kind": type(error).__name__,
            "exit_status": error.exit_status,
        }
    }


def one_line(error: KonsilError) -> str:
    """`konsil: WHERE: WHAT. ADVICE`, whatever line ends the parts hold."""
    return "konsil: " + " ".join(str(error).split())


@contextmanager
def show_working(text: str) -> Iterator[Callable[[str], None]]:
    """Show that something takes a while: a spinner in a terminal, one line a change elsewhere; on standard error.

    Yields a function that changes the text.
    """
    if not sys.stderr.isatty():
        last = [text]
        note_line(f"{text} ...")

        def plain(changed: str) -> None:
            if changed != last[0]:
                last[0] = changed
                note_line(f"{changed} ...")

        yield plain
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield lambda changed: status.update(changed)


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """A table: by rich in a terminal, aligned columns elsewhere."""
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in rows:
            drawn.add_row(*(Text(escape_controls(cell)) for cell in row))
        Console().print(drawn)
        return
    rows = [[escape_controls(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        say_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def format_moment(moment: float | None) -> str:
    """Seconds since 1970 → "2026-01-31 13:05:09Z"."""
    return "" if moment is None else human_moment(moment)


def format_score(value: float | None, digits: int = 4) -> str:
    """A score, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"
