"""The demo's baselines: the same net on the pooled data, or at one site alone (rules of evaluation 6 and 7).

In the field nobody can pool; here all data lie on one machine. `deploy.baseline` trains, in a process of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.demo import machine
from deploy.demo.consortium import Consortium
from deploy.demo.processes import Child, Children
from deploy.report.baselines import Baseline, Gain
from deploy.story.story import ExperimentStory
from messages.experiment import Experiment
from messages.ground.errors import WorkFailed
from messages.ground.units import human_seconds
from messages.scores import SplitScores

KNOWN = ("pooled", "alone")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The baselines of a run.

    `alone` is the mean test score of the single-site models, `gain` the paired gain of the federated model over them.
    """

    baselines: tuple[Baseline, ...] = ()
    alone: float | None = None
    gain: Gain | None = None

    @property
    def pooled(self) -> Baseline | None:
        """The pooled baseline, if it was asked for."""
        return next((one for one in self.baselines if one.name == "pooled"), None)


def start_baselines(
    children: Children, consortium: Consortium, experiment: Experiment, wanted: tuple[str, ...]
) -> Child:
    """Start the process that trains the baselines; it takes the images where the sites keep them.

    With the sites' secrets, so that each case is in the same split; in a hospital these never leave the site.
    """
    from site_agent import config as site_config

    layout = consortium.layout
    sites = {}
    for index, site in enumerate(consortium.sites):
        dataset = site_config.read_config(consortium.config_of(site)).datasets[experiment.data.dataset]
        sites[site] = {
            "dataset": dataset.model_dump(mode="json"),
            "secret": (layout.site_folder(site) / "secret").read_bytes().hex(),
            "cache": str(layout.site_folder(site) / "cache" / experiment.id),  # the agents have ended
            "state": str(layout.site_folder(site)),
            "gpus": machine.share_gpus(index, min(1, machine.count_gpus())),
        }
    description = layout.run / "baseline.json"
    description.touch(mode=0o600)
    description.write_text(json.dumps(sites))
    command = [sys.executable, "-m", "deploy.baseline", "--experiment", str(layout.experiment)]
    command += ["--sites", str(description), "--baselines", ",".join(wanted), "--threads", str(machine.count_cores())]
    command += ["--out", str(layout.run / "baselines-result.json")]
    # Threads that wait for each other sleep instead of spinning: on a machine that does other work besides, spinning
    # made a round many times slower.
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"}
    return children.start_child("baseline", command, layout.log_of("baseline"), piped=True, environment=waiting)


def compare_baselines(
    children: Children,
    consortium: Consortium,
    experiment: Experiment,
    story: ExperimentStory,
    wanted: tuple[str, ...],
    say: Say,
) -> Comparison:
    """Train the baselines that are wanted, and hold the federated result against them.

    Raises:
        KonsilError: the process ended without a result.
    """
    if not wanted:
        return Comparison()
    say(f"training for comparison: {', '.join(wanted)}")
    child = start_baselines(children, consortium, experiment, wanted)
    _relay_lines(child, say, experiment.task.reader.title)
    child.process.wait()
    if child.process.returncode != 0:
        child.check_alive()
    from deploy.baseline import read_result

    result = consortium.layout.run / "baselines-result.json"
    if not result.exists():
        raise WorkFailed("the baselines left no result", where=str(child.log))
    return hold_against(story, read_result(result))


def hold_against(story: ExperimentStory, baselines: list[Baseline]) -> Comparison:
    """The baselines with their paired gains; rows by case are there because the demo's sites share them."""
    from deploy.baseline import with_gain

    federated: Mapping[str, SplitScores] = story.test.sites if story.test else {}
    if federated:
        baselines = [with_gain(one, federated) for one in baselines]
    single = [one for one in baselines if one.name.startswith("alone")]
    means = [score for one in single if (score := one.score(story.reader)) is not None]
    alone = sum(means) / len(means) if means else None
    return Comparison(tuple(baselines), alone, _gain_over(federated, single) if federated and single else None)


def _gain_over(federated: Mapping[str, SplitScores], single: list[Baseline]) -> Gain | None:
    """Over the mean single-site model, case by case."""
    from deploy.baseline import mean_rows, paired_bootstrap

    if any(scores.rows is None for one in (federated, *(b.sites for b in single)) for scores in one.values()):
        return None
    theirs = mean_rows([{site: scores.rows or [] for site, scores in one.sites.items()} for one in single])
    return paired_bootstrap({site: scores.rows or [] for site, scores in federated.items()}, theirs)


def _relay_lines(child: Child, say: Say, title: str) -> None:
    """Tell each line of progress until the process closes its output."""
    assert child.process.stdout is not None  # noqa: S101 - it was started piped
    for line in child.process.stdout:
        try:
            told: dict[str, Any] = json.loads(line)
            score = "" if told["score"] is None else f", validation {title} {told['score']:.3f}"
            left = human_seconds(told["eta_seconds"])
            say(f"{told['baseline']}: round {told['round']} of {told['rounds']}{score}, about {left} left")
        except (ValueError, KeyError, TypeError):
            continue  # a library's own words
