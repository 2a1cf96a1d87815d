"""The cross-site matrix: each site's own model on each site's cases, where the sites have trained alone; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deploy.story.story import ExperimentStory, pool_sound
from messages.scores import SplitScores
from messages.tasks.base import ScoreReader


@dataclass(frozen=True, slots=True)
class CrossSite:
    """One split's matrix. `cells`: by whose model it is, then by the site that scored it, both in the order of names.
    `chosen`: whose model the experiment yields; None before its end."""

    split: str
    cells: Mapping[str, Mapping[str, SplitScores]]
    reader: ScoreReader
    chosen: str | None

    @property
    def sites(self) -> list[str]:
        """Who scored any of the models."""
        return sorted({site for row in self.cells.values() for site in row})

    def row_of(self, model: str) -> list[float | None]:
        """The scores of a site's model: at each of `sites`, then over all of their cases."""
        row, read = self.cells[model], self.reader.headline_score
        pooled = read(pool_sound(self.reader, row.values())) if row else None
        return [*(read(row[site]) if site in row else None for site in self.sites), pooled]

    def as_plain(self) -> dict[str, dict[str, float | None]]:
        """For --json."""
        return {model: dict(zip([*self.sites, "overall"], self.row_of(model), strict=True)) for model in self.cells}


def read_matrix(story: ExperimentStory, split: str) -> CrossSite | None:
    """The matrix of a split (validation, test); None where sites have no models of their own, or none is scored yet."""
    experiment = story.experiment
    if experiment is None:
        return None
    labels = {site: label for label in story.candidates if (site := experiment.site_of(label)) is not None}
    cells = {site: story.scores_of(label, split) for site, label in sorted(labels.items())}
    if not any(cells.values()):
        return None
    chosen = None if story.model_label is None else experiment.site_of(story.model_label)
    return CrossSite(split, cells, story.reader, chosen)
