"""An experiment's figures as rows: a pandas frame where pandas is there, else a list of dicts."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from deploy.story.figures import Figure
from deploy.story.story import ExperimentStory


def make_frame(rows: Sequence[Figure], index: str | None = None) -> Any:
    """Rows as a `pandas.DataFrame`, under the column `index` if one is named; without pandas the rows themselves."""
    if importlib.util.find_spec("pandas") is None:
        return list(rows)
    import pandas

    frame = pandas.DataFrame(list(rows))
    return frame.set_index(index) if index is not None and index in frame.columns else frame


def list_sites(story: ExperimentStory) -> list[Figure]:
    """A row for each invited site: its state, cases, the rounds that it contributed to, its scores."""
    reader, point, test = story.reader, story.latest_point, story.test
    latest = {} if point is None else point.sites
    means = {} if test is None else test.site_means
    return [
        {
            "site": name,
            "state": site.state,
            "reason": None if site.reason is None else str(site.reason),
            "training_cases": None if site.cases is None else site.cases.train,
            "validation_cases": None if site.cases is None else site.cases.validation,
            "test_cases": None if site.cases is None else site.cases.test,
            "rounds": sum(name in one.contributors for one in story.round_list),
            "validation": reader.headline_score(latest[name]) if name in latest else None,
            "test": means.get(name),
        }
        for name, site in sorted(story.sites.items())
    ]


def list_curve(story: ExperimentStory) -> list[Figure]:
    """A row for each model that was scored: validation of all cases ("all") and of each site, in the main metric.

    `round`: how many rounds made the model.
    """
    reader, points = story.reader, story.validation_curve()
    names = sorted({name for point in points for name in point.sites})
    return [
        {
            "round": point.round,
            "all": reader.headline_score(point.pooled),
            **{name: reader.headline_score(point.sites[name]) if name in point.sites else None for name in names},
        }
        for point in points
    ]
