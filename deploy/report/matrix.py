"""The report's cross-site matrices."""

from __future__ import annotations

from deploy.report.html import format_number, make_table
from deploy.story.matrix import read_matrix
from deploy.story.story import ExperimentStory


def matrix_section(story: ExperimentStory) -> str:
    """Each site's own model on each site's cases, test and validation; "" where sites did not train alone."""
    made = []
    for split in ("test", "validation"):
        found = read_matrix(story, split)
        if found is None:
            continue
        rows = [
            [f"{model} (yielded)" if model == found.chosen else model, *map(format_number, found.row_of(model))]
            for model in found.cells
        ]
        caption = f"{found.reader.title} of each site's model (rows) on each site's {split} cases (columns)"
        made.append(make_table(caption, ["model of", *found.sites, "overall"], rows))
    return "".join(made)
