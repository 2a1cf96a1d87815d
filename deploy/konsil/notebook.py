"""How an experiment shows itself in a notebook: HTML in which everything that others wrote is escaped."""

from __future__ import annotations

import sys
import time
from html import escape
from typing import Any

from deploy.cli.live import Lines, View
from deploy.cli.words import closing_lines, headline_words, progress_words, silence_words, waiting_words
from deploy.console import format_score
from deploy.konsil.tables import list_sites
from deploy.report.html import NOTHING, make_table
from deploy.story.story import ExperimentStory

EVERY = 1.0
"""Seconds between two pictures."""


def render_story(story: ExperimentStory, now: float) -> str:
    """Headline, what it waits for, and a row for each site."""
    lines = [headline_words(story, now), *(closing_lines(story) if story.over else (waiting_words(story, now),))]
    head = ["site", "state", "doing", "cases", f"validation {story.reader.title}", f"test {story.reader.title}"]
    rows = [_row(story, found) for found in list_sites(story)]
    said = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return f"<div><strong>{escape(story.id)}</strong>{said}{make_table('', head, rows)}</div>"


def _row(story: ExperimentStory, found: dict[str, Any]) -> list[str]:
    why = f" ({found['reason']})" if found["reason"] else ""
    counts = [found[f"{split}_cases"] for split in ("training", "validation", "test")]
    return [
        found["site"],
        f"{found['state']}{why}",
        "" if story.over else progress_words(story, found["site"]),
        NOTHING if counts[0] is None else "+".join(map(str, counts)),
        format_score(found["validation"]),
        format_score(found["test"]),
    ]


def choose_view() -> View:
    """A picture that renews itself in a notebook; lines elsewhere."""
    python = sys.modules.get("IPython")
    shell = None if python is None else python.get_ipython()
    return Lines() if shell is None or not hasattr(shell, "kernel") else NotebookView()


class NotebookView:
    """One output of a cell, renewed once a second."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._shown: Any = display(HTML(""), display_id=True)
        self._next = 0.0

    def show_story(self, story: ExperimentStory, now: float, coordinator_at: float | None) -> None:
        """Draw it anew, where a second has gone by."""
        if now >= self._next:
            self._next = now + EVERY
            quiet = escape(silence_words(story, now) or "")
            self._shown.update(self._html(render_story(story, now) + (f"<p>{quiet}</p>" if quiet else "")))

    def close_view(self, story: ExperimentStory) -> None:
        """The last picture stays."""
        self._shown.update(self._html(render_story(story, time.time())))
