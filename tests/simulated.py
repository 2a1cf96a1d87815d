"""Simulations for tests: small, and where training is not the point, with the null trainer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from nifti_files import save_image

from deploy.cli.live import View
from deploy.demo import experiments
from deploy.simulate.layout import claim_folder
from deploy.simulate.results import RunResult
from deploy.simulate.sources import DataWish
from deploy.simulate.study import StudyWish, plan_study, run_study
from deploy.story.story import ExperimentStory
from messages.experiment import Experiment
from messages.ground import settings

NULL = (sys.executable, "-m", "site_agent.training.null", "--cases", "40", "--seconds", "0")


def write_set(folder: Path, cases: int = 8) -> Path:
    """A data set of Decathlon's layout with the phantoms' channels and labels."""
    for number in range(cases):
        image = np.random.default_rng(number).integers(0, 9, (6, 6, 6, 4)).astype(np.int16)
        label = np.zeros((6, 6, 6), np.uint8)
        label[:3], label[0, 0, : 1 + number % 2] = 1 + number % 3, 1 + (number + 1) % 3
        save_image(folder / "imagesTr" / f"case-{number:02d}.nii.gz", image)
        save_image(folder / "labelsTr" / f"case-{number:02d}.nii.gz", label)
    channels = {str(index): name for index, name in enumerate(("T1", "T1c", "T2", "FLAIR"))}
    labels = {"0": "background", "1": "NCR", "2": "ED", "3": "ET"}
    (folder / "dataset.json").write_text(json.dumps({"modality": channels, "labels": labels}))
    return folder


def light(sites: Iterable[str] = ("site-a", "site-b", "site-c"), count: int = 3, **sections: Any) -> Experiment:
    """An experiment whose net needs no torch."""
    plain = experiments.glioma_demo(rounds=count, seed=7, sites=[*sites])
    plain["net"] = {"name": "Rehearsal", "tensors": 10, "kilobytes": 40}
    for section, content in sections.items():
        plain[section] = {**plain.get(section, {}), **content} if isinstance(content, Mapping) else content
    return settings.parse_settings(plain, Experiment, "light")


class Silent(View):
    """Shows nothing, and keeps the last story."""

    story: ExperimentStory | None = None

    def show_story(self, story: ExperimentStory, now: float, coordinator_at: float | None) -> None:
        pass

    def close_view(self, story: ExperimentStory) -> None:
        self.story = story


def simulate(
    out: Path, experiment: Experiment, **wish: Any
) -> tuple[list[RunResult], list[str], ExperimentStory | None]:
    """Results, what was said, and the story of the last run that was run now."""
    if "data" not in wish:
        wish["data"] = DataWish(out.parent / "set" if (out.parent / "set").is_dir() else write_set(out.parent / "set"))
    said: list[str] = []
    view = Silent()
    study = plan_study(StudyWish(experiment, **({"trainer": NULL} | wish)))
    with claim_folder(out) as layout:
        results, _outcome = run_study(study, layout, lambda: view, said.append)
    return results, said, view.story
