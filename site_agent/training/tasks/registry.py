"""Which tasks a training process can do."""

from __future__ import annotations

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from site_agent.training.tasks.base import Learner
from site_agent.training.tasks.classification import ClassificationLearner
from site_agent.training.tasks.regression import RegressionLearner
from site_agent.training.tasks.segmentation import SegmentationLearner

LEARNERS: dict[str, type[Learner]] = {
    "segmentation": SegmentationLearner,
    "classification": ClassificationLearner,
    "regression": RegressionLearner,
}
"""By `task.kind`, as `messages.tasks.registry.TASKS`."""


def learner_for(experiment: Experiment) -> Learner:
    """The experiment's task.

    Raises:
        ConfigError: this version cannot do it.
    """
    kind = experiment.task.kind
    if kind not in LEARNERS:
        raise ConfigError(f"{kind!r} cannot be trained here", where="task.kind", advice="Install a newer version")
    return LEARNERS[kind](experiment)
