"""The report's curves, as a live page can bear them: fewer points and lines, and no style that a strict policy bars."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from html import escape

from deploy.report.curves import Line, draw_chart
from deploy.story.story import ExperimentStory

_PLOTTER = threading.Lock()
"""The plotter's settings are the process's: one draws at a time."""
MOST_POINTS = 60
MOST_LINES = 8
"""Of sites: with more, the lowest, those in the middle, and the highest of the last round stand for all."""


def draw_curves(story: ExperimentStory) -> str:
    """Validation by round, overall and by site, and the training loss; "" before anything is scored."""
    points, reader = story.validation_curve(), story.reader
    overall = [
        Line(reader.mean_title, [one.round for one in points],
             [reader.headline_score(one.pooled) or 0.0 for one in points], heavy=True)
    ]  # fmt: skip
    for target in reader.targets:
        known = [
            (one.round, score) for one in points if (score := reader.by_target(one.pooled).get(target)) is not None
        ]
        overall.append(_line(target, known))
    by_site: dict[str, list[tuple[int, float]]] = {}
    losses: dict[str, list[tuple[int, float]]] = {}
    for point in points:
        for site, found in point.sites.items():
            if (score := reader.headline_score(found)) is not None:
                by_site.setdefault(site, []).append((point.round, score))
    for one in story.round_list:
        for site, loss in one.losses.items():
            losses.setdefault(site, []).append((one.number, loss))
    title = reader.title
    charts = [
        (f"Validation {title} by round, overall", "rounds trained", title, overall, reader.most),
        (f"Validation {title} by round, each site", "rounds trained", title, pick_lines(by_site), reader.most),
        ("Training loss by round", "round", "loss", pick_lines(losses), None),
    ]
    figures = [
        f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>"
        for name, x, y, lines, most in charts
        if (svg := draw_strict(name, x, y, lines, most))
    ]
    few = f" Of more than {MOST_LINES} sites, the lowest, the middle and the highest ones are drawn."
    note = f'<p class="note">Round 0 is the initial model.{few if len(story.sites) > MOST_LINES else ""}</p>'
    return f'<div class="charts">{"".join(figures)}</div>{note}' if figures else ""


def pick_lines(known: dict[str, list[tuple[int, float]]]) -> list[Line]:
    """A line a site, by name; of many sites only some, by their last value."""
    chosen = sorted(known)
    if len(chosen) > MOST_LINES:
        ranked = sorted(chosen, key=lambda site: (known[site][-1][1], site))
        third, middle = MOST_LINES // 3, len(ranked) // 2
        chosen = sorted({*ranked[:third], *ranked[middle - 1 : middle + 1], *ranked[-third:]})
    return [_line(site, known[site]) for site in chosen]


def _line(name: str, known: Sequence[tuple[int, float]]) -> Line:
    thin = thin_out(known)
    return Line(name, [x for x, _ in thin], [y for _, y in thin])


def thin_out(points: Sequence[tuple[int, float]], most: int = MOST_POINTS) -> list[tuple[int, float]]:
    """At most so many points, evenly chosen; the first and the last are among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(place * (len(points) - 1) / (most - 1))] for place in range(most)]


def draw_strict(title: str, x: str, y: str, lines: Sequence[Line], most: float | None) -> str:
    """A chart without a `style`: a policy without `unsafe-inline` (W3C CSP 3, style-src-attr) bars it."""
    short = [_line_of(one) for one in lines]
    with _PLOTTER:
        return move_styles(draw_chart(title, x, y, short, most=most))


def _line_of(one: Line) -> Line:
    thin = thin_out([(place, 0.0) for place in range(len(one.x))])
    places = [place for place, _ in thin]
    return Line(one.label, [one.x[at] for at in places], [one.y[at] for at in places], one.heavy)


def move_styles(svg: str) -> str:
    """Each declaration of a `style` as the presentation attribute of its name (SVG 2, 6.6)."""
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    # What the style sheet that went says of all elements, once at the root: both are inherited.
    svg = svg.replace("<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', 1)
    return re.sub(r'style="([^"]*)"', lambda found: _as_attributes(found[1]), svg)


def _as_attributes(style: str) -> str:
    told = []
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":
            size, _, family = value.partition(" ")
            told += [f'font-size="{size}"', f'font-family="{escape(family)}"']
        elif name and name not in ("-inkscape-font-specification",):
            told.append(f'{name}="{value}"')
    return " ".join(told)
