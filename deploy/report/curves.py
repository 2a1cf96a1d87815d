"""The report's curves as inline SVG: text stays text, and lines and letters take the page's colour (dark or light)."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

INK = "#010203"
"""Stands for the page's own text colour; becomes `currentColor`."""
# Okabe and Ito 2008: told apart by colour-blind readers, and legible on white and on near-black alike.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
STYLES = ("-", "--", "-.", ":")
MOST_NAMED = 30
"""Lines that a legend names: of more there is no room beside it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: x and y of equal length."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    heavy: bool = False


def draw_chart(title: str, x_label: str, y_label: str, lines: Sequence[Line], *, most: float | None = None) -> str:
    """One chart as an SVG element; "" where there is nothing to draw.

    Args:
        title: also the chart's accessible name.
        most: beyond which there is no value; None: from 0 to where the lines end. The axis shows where the lines are,
            not all that could be: the last tenths of a score are what a reader looks for.
    """
    lines = [line for line in lines if len(line.x)]
    if not lines:
        return ""
    # Here: to load it takes a second, and most commands that could draw a report end without one.
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,  # same story, same bytes; and no id occurs twice on the page
        "font.family": ["sans-serif"],
        "font.size": 9,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(5.6, 3.1), layout="constrained")
        axes = figure.add_subplot()
        for number, line in enumerate(lines):
            axes.plot(
                line.x,
                line.y,
                label=line.label,
                color=PALETTE[number % len(PALETTE)],
                marker=MARKERS[number % len(MARKERS)],
                linestyle=STYLES[number % len(STYLES)],
                markersize=3.5,
                linewidth=2.2 if line.heavy else 1.3,
            )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if most is not None:
            values = [value for line in lines for value in line.y]
            space = max(0.08 * (max(values) - min(values)), 0.02 * most)
            axes.set_ylim(max(0.0, min(values) - space), min(most, max(values) + space))
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        if all(float(x).is_integer() for line in lines for x in line.x):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True, color="#888888", alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) <= MOST_NAMED:
            axes.legend(frameon=False, fontsize=8, ncols=2 if len(lines) > 3 else 1)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?) ?width="[^"]*pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg [^>]*?) ?height="[^"]*pt"', r"\1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)
    return svg.replace(INK, "currentColor")
