"""One page over several experiments: results, curves, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from deploy.report.curves import Line, draw_chart
from deploy.report.html import NOTHING, format_duration, format_megabytes, format_number, make_table
from deploy.report.page import frame_page
from deploy.story.comparison import find_differences, find_incomparable, summarise_story
from deploy.story.story import ExperimentStory

HEAD = [
    "experiment",
    "state",
    "plan",
    "rounds",
    "test",
    "mean of sites",
    "worst site",
    "cases",
    "took",
    "sent",
    "model",
]


def comparison_rows(stories: Sequence[ExperimentStory]) -> list[list[str]]:
    """A row an experiment, under `HEAD`."""
    rows = []
    for story in stories:
        one = summarise_story(story)
        plan = f"{one['plan']}, {one['strategy']}" if one["plan"] == "aggregation" else str(one["plan"] or NOTHING)
        worst = NOTHING if one["worst"] is None else f"{one['worst_site']} {format_number(one['worst'])}"
        test = NOTHING if one["test"] is None else f"{one['metric']} {format_number(one['test'], 4)}"
        rows.append(
            [
                one["experiment"],
                one["state"],
                plan,
                str(one["rounds"]),
                test,
                format_number(one["unweighted_mean"], 4),
                worst,
                str(one["test_cases"] or NOTHING),
                format_duration(one["seconds"]),
                format_megabytes(one["bytes"]),
                (one["model_digest"] or NOTHING)[:12],
            ]
        )
    return rows


def render_comparison_page(stories: Sequence[ExperimentStory]) -> str:
    """The page as text."""
    names = ", ".join(one.id for one in stories)
    warnings = find_incomparable(stories)
    lead = f"{len(stories)} experiments."
    lead += f" Their scores do not compare: {'; '.join(warnings)}." if warnings else " Same task, data, split, sites."
    note = (
        '<p class="note">The difference of two scores may be chance: run each with several seeds '
        "(<code>konsil simulate --seeds</code> gives paired intervals).</p>"
    )
    return frame_page(
        f"Konsil: {names}",
        lead,
        [
            ("Results", make_table("Each experiment", HEAD, comparison_rows(stories), words=(1, 2, 6)) + note),
            ("Curves", _draw_curves(stories)),
            ("Settings that differ", _tell_differences(stories)),
        ],
    )


def _draw_curves(stories: Sequence[ExperimentStory]) -> str:
    scores: dict[tuple[str, float | None], list[Line]] = {}
    losses = []
    for story in stories:
        reader = story.reader
        known = [(p.round, v) for p in story.validation_curve() if (v := reader.headline_score(p.pooled)) is not None]
        line = Line(story.id, [x for x, _ in known], [y for _, y in known])
        scores.setdefault((reader.title, reader.most), []).append(line)
        told = [(one.number, one.loss) for one in story.round_list if one.loss is not None]
        losses.append(Line(story.id, [x for x, _ in told], [y for _, y in told]))
    drawn = [
        (f"Validation {title}", draw_chart(f"Validation {title}", "rounds trained", title, lines, most=most))
        for (title, most), lines in scores.items()
    ]
    drawn.append(("Training loss", draw_chart("Training loss", "round", "loss (mean over steps and sites)", losses)))
    figures = "".join(f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in drawn if svg)
    return f'<div class="charts">{figures}</div>' if figures else ""


def _tell_differences(stories: Sequence[ExperimentStory]) -> str:
    rows = [[one.key, *one.values] for one in find_differences(stories)]
    if not rows:
        return "<p>None: the files are the same but for their ids.</p>"
    words = tuple(range(1, len(stories) + 1))
    return make_table("Keys of the experiment files", ["key", *(one.id for one in stories)], rows, words=words)
