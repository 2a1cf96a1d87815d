"""The report's section on sites whose scores contradict the others'."""

from __future__ import annotations

from deploy.report.html import format_number, make_table
from deploy.story.doubts import list_doubts
from deploy.story.story import ExperimentStory
from messages.contradictions import CONTRADICTION_ADVICE


def doubts_section(story: ExperimentStory) -> str:
    """A table of them, and what to do; empty where there is none."""
    doubts = list_doubts(story)
    if not doubts:
        return ""
    rows = [
        [
            one.found.site,
            one.found.target,
            "test" if one.round is None else f"validation, model of round {one.round}",
            format_number(one.found.mean),
            str(one.found.n),
            format_number(one.found.others),
        ]
        for one in doubts
    ]
    head = ["site", story.reader.target, "scored on", story.reader.title, "n", "median of the other sites"]
    caption = "Scores that contradict those of the other sites for the same model"
    return (
        make_table(caption, head, rows, words={1, 2})
        + f'<p class="note">Look at such a site: {CONTRADICTION_ADVICE}.</p>'
    )
