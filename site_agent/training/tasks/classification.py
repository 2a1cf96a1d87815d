"""Classification in the training process: whole images, a class each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from messages.experiment import Experiment
from messages.ground.errors import ConfigError
from messages.tasks.base import Split, TaskRows
from messages.tasks.classification import ClassificationTask, ClassRow, ClassRows
from messages.tasks.losses import LossTable
from site_agent.training.cases.cache import CachedCase
from site_agent.training.tasks.base import Learner, answer_image


class ClassificationLearner(Learner):
    """Trains towards classes, and scores each case by the probability of each class.

    Raises:
        ConfigError: the experiment's task is another one.
    """

    def __init__(self, experiment: Experiment) -> None:
        super().__init__(experiment)
        task = experiment.task
        if not isinstance(task, ClassificationTask):
            raise ConfigError(f"{task.kind!r} is no classification", where="task.kind")
        self._task = task
        self._table = experiment.training.loss_table
        given = self._table.class_weights
        numbers = [given[name] for name in task.classes] if isinstance(given, dict) else [1.0] * len(task.classes)
        self._weights = torch.tensor(numbers)

    def look_at_cases(self, cases: Sequence[CachedCase]) -> None:
        if self._table.class_weights == "balanced" and cases:
            self._weights = torch.from_numpy(balance_classes(np.stack([case.truth for case in cases])))

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        weights = self._weights.to(logits.device)
        if self._task.labels == "exclusive":
            return exclusive_loss(logits, labels, weights, self._table)
        if self._task.labels == "ordinal":
            return binary_loss(logits, at_or_above(labels), torch.ones_like(logits[0]), self._table)
        return binary_loss(logits, labels, weights, self._table)

    def score_case(self, net: torch.nn.Module, case: CachedCase, device: torch.device) -> ClassRow:
        image = torch.from_numpy(np.asarray(case.image, dtype=np.float32))
        logits = answer_image(net, image, self.asked, device)
        predicted = to_probabilities(logits, self._task.labels).clamp(0, 1).cpu().tolist()
        return ClassRow(
            case=case.name,
            classes=[name for name, true in zip(self._task.classes, case.truth, strict=True) if true],
            predicted=dict(zip(self._task.classes, predicted, strict=True)),
        )

    def failed_case(self, name: str) -> ClassRow:
        return ClassRow(case=name, failed=True)

    def rows_of(self, split: Split, cases: list[Any]) -> TaskRows:
        return ClassRows(split=split, labels=self._task.labels, classes=list(self._task.classes), cases=cases)


def balance_classes(truths: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Weights (K,) by which each class counts as much as any other: cases / (classes that occur x cases of the class).

    King and Zeng 2001. A class that no case has gets 1: nothing is weighed by it.

    Args:
        truths: (cases, K), 0 or 1.
    """
    counts = truths.sum(axis=0)
    occurring = max(1, int((counts > 0).sum()))
    weights = np.where(counts > 0, truths.sum() / (occurring * np.maximum(counts, 1)), 1.0)
    return weights.astype(np.float32)


def exclusive_loss(logits: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor, table: LossTable) -> torch.Tensor:
    """Cross-entropy of classes that exclude each other; focal: each case times (1 - p)^gamma (Lin et al. 2017).

    A batch's loss is the weighted mean over its cases.

    Args:
        logits: (B, K). truth: (B, K), 1 for the true class. weights: (K,).
    """
    true = truth.argmax(1)
    each = torch.nn.functional.cross_entropy(logits, true, reduction="none", label_smoothing=table.label_smoothing)
    counts = weights[true]
    if table.name == "focal":
        each = each * (1 - (logits.softmax(1) * truth).sum(1)) ** table.focus
    total: torch.Tensor = (each * counts).sum() / counts.sum().clamp(min=1e-6)
    return total


def binary_loss(logits: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor, table: LossTable) -> torch.Tensor:
    """Binary cross-entropy of each output, mean over batch and outputs; a positive counts by its class's weight.

    Args:
        logits, truth: (B, K). weights: (K,).
    """
    smooth = truth * (1 - table.label_smoothing) + table.label_smoothing / 2
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, smooth, reduction="none")
    if table.name == "focal":
        right = torch.where(truth > 0, logits.sigmoid(), 1 - logits.sigmoid())
        each = each * (1 - right) ** table.focus
    total: torch.Tensor = (each * torch.where(truth > 0, weights, torch.ones_like(weights))).mean()
    return total


def at_or_above(truth: torch.Tensor) -> torch.Tensor:
    """One-hot (B, K) of ordered classes → (B, K - 1): whether a case lies at class 1, 2, … or above."""
    return (
        truth @ torch.ones((truth.shape[1], truth.shape[1]), device=truth.device).tril()[:, 1:]
    )  # no sum with atomics


def to_probabilities(logits: torch.Tensor, labels: str) -> torch.Tensor:
    """Logits (outputs,) → probability of each class (K,).

    Of ordered classes each logit says how likely the case lies at a class or above; where these do not fall from class
    to class, the smallest so far holds. So no probability is negative, and they add up to 1.
    """
    if labels == "multi":
        return logits.sigmoid()
    if labels == "exclusive":
        return logits.softmax(0)
    above = logits.sigmoid().cummin(0).values
    ends = torch.cat([torch.ones_like(above[:1]), above, torch.zeros_like(above[:1])])
    return (ends[:-1] - ends[1:]).clamp(0, 1)
