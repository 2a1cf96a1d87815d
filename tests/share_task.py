"""A task that only tests have: regression of the share of a volume that is labelled.

It is written as any task is: one half without torch, one for the training process. `registered` is what a line in each
registry is for a real one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field

from messages.experiment import Experiment
from messages.ground.strictness import StrictModel
from messages.scores import SplitScores, sum_scores
from messages.tasks import registry
from messages.tasks.base import Concept, ScoreReader, Split, Task, TaskRows
from messages.tasks.metrics import METRICS, Metric


class ShareRow(StrictModel):
    """One case: how far the predicted share is from the true one, in percent; None: it could not be read."""

    case: str
    error: float | None = Field(ge=0)


class ShareRows(TaskRows):
    task: Literal["share"] = "share"
    cases: list[ShareRow]

    def scores(self) -> SplitScores:
        errors = [row.error for row in self.cases if row.error is not None]
        sums = sum_scores(errors, reference_empty=[False] * len(errors), failed=len(self.cases) - len(errors))
        rows = [{"labelled": row.error} for row in self.cases]
        return SplitScores(cases=len(self.cases), metrics={"share-error": {"labelled": sums}}, rows=rows)


@dataclass(frozen=True)
class ShareReader(ScoreReader):
    metric: ClassVar[str] = "share-error"
    metrics: ClassVar[tuple[str, ...]] = ("share-error",)
    target: ClassVar[str] = "quantity"
    plural: ClassVar[str] = "quantities"
    higher_is_better: ClassVar[bool] = False


class ShareTask(Task):
    kind: Literal["share"]
    of: tuple[Concept, ...]

    losses: ClassVar[tuple[str, ...]] = ("l1",)
    defaults: ClassVar[Any] = {
        "training": {"loss": "l1"},
        "evaluation": {"metrics": ["share-error"], "select_by": "validation.share-error.mean"},
    }
    rows: ClassVar[type[TaskRows]] = ShareRows
    reader_type: ClassVar[type[ScoreReader]] = ShareReader

    @property
    def concepts(self) -> tuple[str, ...]:
        return tuple(sorted(self.of))

    @property
    def targets(self) -> tuple[str, ...]:
        return ("labelled",)

    def rehearse_split(self, split: Split, cases: int) -> TaskRows:
        return ShareRows(split=split, cases=[ShareRow(case=f"{split}-{n}", error=5.0) for n in range(cases)])


@contextmanager
def registered(*, torch: bool = False) -> Iterator[None]:
    """What two lines in the registries and one in the table of metrics are.

    Args:
        torch: the training process's half as well.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METRICS, "share-error", Metric("Share error (%)", headline=True))
        patch.setitem(registry.TASKS, "share", ShareTask)
        if torch:
            from site_agent.training.tasks import registry as learners

            patch.setitem(learners.LEARNERS, "share", _learner())
        yield


def _learner() -> Any:
    import torch
    from torch import Tensor

    from site_agent.training.cases.cache import CachedCase
    from site_agent.training.tasks.base import Learner, predict_logits

    class ShareLearner(Learner):
        def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
            return (logits.sigmoid().mean() - (labels > 0).float().mean()).abs()

        def score_case(self, net: torch.nn.Module, case: CachedCase, device: torch.device) -> ShareRow:
            share = predict_logits(net, torch.from_numpy(case.image.astype("float32")), self.asked, device)
            error = 100 * abs(float(share.sigmoid().mean()) - float((case.label > 0).mean()))
            return ShareRow(case=case.name, error=error)

        def failed_case(self, name: str) -> ShareRow:
            return ShareRow(case=name, error=None)

        def rows_of(self, split: Split, cases: Sequence[Any]) -> TaskRows:
            return ShareRows(split=split, cases=list(cases))

    return ShareLearner


def share_experiment(plain: dict[str, Any]) -> Experiment:
    """An experiment of another task, as one of this task; what its sections say of losses and metrics is left out."""
    made = {name: dict(section) if isinstance(section, dict) else section for name, section in plain.items()}
    made["task"] = {"kind": "share", "channels": list(plain["task"]["channels"]), "of": ["ED", "NCR", "ET"]}
    for section, keys in ShareTask.defaults.items():
        made[section] = {key: value for key, value in made.get(section, {}).items() if key not in keys}
    return Experiment.model_validate(made)
