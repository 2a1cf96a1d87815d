"""How long work takes in virtual time: a function of the work alone, so that a run repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from messages.experiment import Experiment
from site_agent.training.protocol import Evaluate, Prepared, Train

STEP = 1.0
"""Virtual seconds of an optimiser step, where nobody says otherwise."""
SCORED = 0.5
"""Of scoring a case, in steps."""
READ = 10.0
"""Of reading a site's data, in steps."""


@dataclass(frozen=True, slots=True)
class Tempo:
    """Virtual seconds of each kind of work.

    Attributes:
        step: of an optimiser step.
        slow: site → how many times longer all its work takes.
    """

    step: float = STEP
    slow: Mapping[str, float] = field(default_factory=dict)

    def take_preparing(self, site: str) -> float:
        """Reading the data."""
        return READ * self._step_of(site)

    def take_training(self, site: str, experiment: Experiment, request: Train, prepared: Prepared) -> float:
        """A round's training, and scoring before it where it was asked for."""
        scored = SCORED * prepared.validation if request.evaluate else 0.0
        return (experiment.count_steps(prepared.train) + scored) * self._step_of(site)

    def take_scoring(self, site: str, request: Evaluate, prepared: Prepared) -> float:
        """Scoring a model on whole splits."""
        cases = {"train": prepared.train, "validation": prepared.validation, "test": prepared.test}
        return SCORED * sum(cases[split] for split in request.splits) * self._step_of(site)

    def _step_of(self, site: str) -> float:
        return self.step * self.slow.get(site, 1.0)
