"""What a task does in the training process: what the net is trained towards, and how a case is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch

from messages.experiment import Experiment
from messages.tasks.base import Split, TaskRows
from nets.monai_parts import sliding_window_inference
from site_agent.training.cases.cache import CachedCase
from site_agent.training.cases.sampling import Batch


class Learner(ABC):
    """One experiment's task. A subclass a task, each in its file; `messages.tasks` has the half without torch."""

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.asked = Inference.of_experiment(experiment)

    def look_at_cases(self, cases: Sequence[CachedCase]) -> None:  # noqa: B027 - most tasks need none of it
        """What the loss has to know of the site's training cases, once they are prepared."""

    @abstractmethod
    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of one step, a scalar.

        Args:
            logits: float32 (B, outputs, x, y, z), in 2D (B, outputs, x, y); of whole images (B, outputs).
            labels: uint8 (B, x, y, z), in 2D (B, x, y), concept i as value i + 1. Where a table says what a case is:
                float32 (B, K), its truth.
        """

    @abstractmethod
    def score_case(self, net: torch.nn.Module, case: CachedCase, device: torch.device) -> Any:
        """One case's row, as `rows_of` takes it.

        Raises:
            OSError, ValueError: the case cannot be read.
        """

    @abstractmethod
    def failed_case(self, name: str) -> Any:
        """The row of a case that could not be read: counted, never skipped."""

    @abstractmethod
    def rows_of(self, split: Split, cases: list[Any]) -> TaskRows:
        """All rows of a split, in its order."""

    def evaluate(
        self,
        net: torch.nn.Module,
        cases: Sequence[CachedCase],
        *,
        split: Split,
        device: torch.device,
        report: Callable[[int, int], None] | None = None,
    ) -> TaskRows:
        """Score a net on all cases of a split, in their order.

        A case that cannot be read counts as failed; running out of memory is the round's failure and is raised.

        Args:
            report: told (cases done, cases).
        """
        net.eval()
        rows = []
        for done, case in enumerate(cases):
            try:
                rows.append(self.score_case(net, case, device))
            except (OSError, ValueError):
                rows.append(self.failed_case(case.name))
            if report is not None:
                report(done + 1, len(cases))
        return self.rows_of(split, rows)


@dataclass(frozen=True)
class Inference:
    """How a net is asked.

    Attributes:
        patch: what it sees at once, voxels along each axis; two edges: it is a net in 2D.
        overlap: of neighbouring patches, 0 to 1. batch: patches that it sees together.
        precision: `training.precision` of the experiment. mirror: whether it is asked of each mirror image too.
    """

    patch: tuple[int, ...]
    overlap: float
    batch: int = 1
    precision: str = "float32"
    mirror: bool = False

    @classmethod
    def of_experiment(cls, experiment: Experiment) -> Inference:
        """As an experiment's cases are scored."""
        training = experiment.training
        asked = experiment.evaluation
        return cls(training.patch, asked.overlap, training.batch, training.precision, bool(asked.mirror))

    @property
    def flat(self) -> bool:
        return len(self.patch) == 2


def weigh_batches(batches: Sequence[Batch]) -> Iterator[tuple[Batch, float]]:
    """The batches of one optimiser step, each with its share of the patches: gradients of means add up to a mean's."""
    whole = sum(len(images) for images, _labels in batches)
    for images, labels in batches:
        yield (images, labels), len(images) / whole


def loss_of_outputs(learner: Learner, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """A batch's loss by what a net gives in training mode, in any precision.

    Of a net with deep supervision (`NetSpec.supervised_levels`) it is the weighted mean of the losses of its outputs,
    with weights 1, 1/2, 1/4, ... as in nnU-Net (Isensee et al. 2021). nnU-Net brings labels to the coarser grids; here
    the outputs are on the finest one, as MONAI's net gives them.
    """
    if outputs.ndim - labels.ndim < 2:
        return learner.loss(outputs.float(), labels)
    levels = outputs.float().unbind(1)
    shares = [0.5**level for level in range(len(levels))]
    losses = [learner.loss(one, labels) * (share / sum(shares)) for one, share in zip(levels, shares, strict=True)]
    return torch.stack(losses).sum()


def ask_mirrored(net: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A net that is asked of an image (B, C, *grid) mirrored along every choice of its axes; its logits, mirrored back,
    are averaged, as in nnU-Net. Logits without a grid are averaged as they are."""

    def ask(images: torch.Tensor) -> torch.Tensor:
        axes = range(2, images.ndim)
        total = net(images)
        choices = [several for count in range(1, len(axes) + 1) for several in combinations(axes, count)]
        for chosen in choices:
            logits = net(images.flip(chosen))
            total = total + (logits.flip(chosen) if logits.ndim == images.ndim else logits)
        return total / (1 + len(choices))

    return ask


def cast_numbers(precision: str, device: torch.device) -> torch.autocast:
    """In which numbers a net computes, by `training.precision`: "amp" means float16, and nothing without a GPU."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return torch.autocast(device.type, enabled=precision == "amp" and device.type == "cuda")


@torch.inference_mode()
def predict_logits(net: torch.nn.Module, image: torch.Tensor, asked: Inference, device: torch.device) -> torch.Tensor:
    """Logits (1, K, x, y, z), float32, on the net's whole grid: a Gaussian-weighted sliding window over the patches.

    The windows' logits are blended, as MONAI and nnU-Net do. A net in 2D is asked slice by slice, along z.

    Args:
        image: float32 (C, x, y, z).
    """
    batch = image.movedim(-1, 0) if asked.flat else image[None]
    with cast_numbers(asked.precision, device):
        logits: torch.Tensor = sliding_window_inference(
            batch.to(device),
            roi_size=asked.patch,
            sw_batch_size=asked.batch,
            predictor=ask_mirrored(net) if asked.mirror else net,
            overlap=asked.overlap,
            mode="gaussian",
        )
    return logits.movedim(0, -1)[None].float() if asked.flat else logits.float()


@torch.inference_mode()
def answer_image(net: torch.nn.Module, image: torch.Tensor, asked: Inference, device: torch.device) -> torch.Tensor:
    """Logits (outputs,), float32, of a net that sees a whole image at once.

    Args:
        image: float32 (C, x, y, z), of the size that the experiment asks for; in 2D of one slice.
    """
    whole = image[..., 0] if asked.flat else image
    with cast_numbers(asked.precision, device):
        logits = (ask_mirrored(net) if asked.mirror else net)(whole[None].to(device))
    return logits[0].float()
