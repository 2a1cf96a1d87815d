"""An experiment's figures as CSV files (RFC 4180, UTF-8): what other tools read without Konsil."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from deploy.story.figures import Figure, list_rounds, list_scores, list_updates
from deploy.story.story import ExperimentStory
from messages.ground.durable import replace_file
from messages.ground.errors import WorkFailed

SHEETS = {"rounds.csv": list_rounds, "updates.csv": list_updates, "scores.csv": list_scores}


def write_sheets(story: ExperimentStory, folder: Path) -> dict[Path, int]:
    """Write the sheets, each whole, in place of older ones; file → rows.

    Raises:
        WorkFailed: the folder cannot be written.
    """
    written = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, list_rows in SHEETS.items():
            rows = list_rows(story)
            replace_file(folder / name, format_sheet(rows).encode())
            written[folder / name] = len(rows)
    except OSError as error:
        raise WorkFailed(f"cannot be written ({error.strerror})", where=str(folder)) from None
    return written


def format_sheet(rows: list[Figure]) -> str:
    """Rows as CSV, under the names of their columns; nothing is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [])
    if rows:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
