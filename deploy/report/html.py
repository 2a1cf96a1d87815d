"""Small pieces of HTML: escaping, numbers, tables with real headers."""

from __future__ import annotations

from collections.abc import Container, Sequence
from html import escape

NOTHING = "–"


def format_number(value: float | None, digits: int = 3) -> str:
    """A score, or a dash where there is none."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def format_count(count: int, noun: str) -> str:
    """ "1 site", "3 sites"."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def format_megabytes(count: int) -> str:
    """Bytes in MB (10⁶)."""
    return f"{count / 1e6:,.1f} MB"


def format_duration(seconds: float | None) -> str:
    """Seconds in words: 8.2 s, 3 min 5 s, 2 h 4 min."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def make_table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    strong_rows: int = 0,
    words: Container[int] = (),
) -> str:
    """A table with a caption and scoped headers; the first column heads its row.

    Args:
        rows: cells as text (escaped here).
        strong_rows: so many of the last rows are totals.
        words: columns that hold words and no figures, from 0.
    """
    parts = [f"<div class=scroll><table><caption>{escape(caption)}</caption><thead><tr>"]
    left = [' class="text"' if column in words else "" for column in range(len(head))]
    parts += [f'<th scope="col"{align}>{escape(cell)}</th>' for align, cell in zip(left, head, strict=True)]
    parts.append("</tr></thead><tbody>")
    for index, (first, *rest) in enumerate(rows):
        total = ' class="total"' if index >= len(rows) - strong_rows else ""
        parts.append(f'<tr{total}><th scope="row">{escape(first)}</th>')
        parts += [f"<td{align}>{escape(cell)}</td>" for align, cell in zip(left[1:], rest, strict=True)]
        parts.append("</tr>")
    parts.append("</tbody></table></div>")
    return "".join(parts)


def make_definitions(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values; values are escaped."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs) + "</dl>"
