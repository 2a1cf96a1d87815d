"""A finished model on one image: masks on the image's own grid, probabilities of classes, or a number.

What the model file says is all that is needed: how images are prepared, and how the net's outputs read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from messages.ground.errors import ConfigError
from messages.sections import Preprocessing
from nets.export import load_model
from site_agent.datasets.cases import LoadedCase
from site_agent.datasets.look import judge_preprocessing
from site_agent.training.cases.preprocess import PreparedCase, prepare_case, to_native
from site_agent.training.tasks.base import Inference, answer_image, predict_logits
from site_agent.training.tasks.classification import to_probabilities
from site_agent.training.tasks.regions import Regions

NAME_OF_TARGET = r"[A-Za-z][A-Za-z0-9_-]{0,31}"
"""As the experiment file has it (`messages.tasks.base.Concept`)."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image; which field has something depends on its task.

    Attributes:
        masks: region → bool (X, Y, Z), on the image's own grid. chances: class → probability. value: in `unit`.
    """

    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    chances: Mapping[str, float] = field(default_factory=dict)
    value: float | None = None


class Predictor:
    """A model, ready to be asked.

    Args:
        path: the model file. own: what a site kept of its own (`nets.export.load_model`).

    Raises:
        ConfigError, WorkFailed, DataError: as `load_model`; also where the file does not say how its outputs read.
    """

    def __init__(self, path: Path, device: torch.device, own: Path | None = None) -> None:
        net, self.about = load_model(path, own)
        self._net, self._device = net.to(device), device
        try:
            self._preprocessing = Preprocessing.model_validate(self.about["preprocessing"])
            patch, overlap = tuple(self.about["patch"]), float(self.about["overlap"])
            self._asked = Inference(patch, overlap, mirror=bool(self.about.get("mirror", False)))
            self._regions = _read_regions(self.about)
            self._ask = next(ask for key, ask in self._tasks().items() if key in self.about)
        except (KeyError, TypeError, ValueError, ValidationError, StopIteration):
            advice = "Get the model again with `konsil experiment model`"
            raise ConfigError("does not say how images are prepared for it", where=str(path), advice=advice) from None

    @property
    def excludes(self) -> bool:
        """Whether its regions exclude each other, so that one label map holds them all."""
        return self._regions is not None and self._regions.softmax

    def predict(self, loaded: LoadedCase) -> Prediction:
        """Ask the model; raises CaseError where the image is nothing that training would let it see."""
        whole = self._regions is None
        judge_preprocessing(loaded.image, loaded.affine, self._preprocessing, whole=whole)
        prepared = prepare_case(loaded.image, loaded.label, loaded.affine, self._preprocessing)
        return self._ask(prepared)

    def _tasks(self) -> Mapping[str, Callable[[PreparedCase], Prediction]]:
        return {"regions": self._draw_masks, "classes": self._weigh_classes, "quantity": self._tell_value}

    @torch.inference_mode()
    def _draw_masks(self, case: PreparedCase) -> Prediction:
        regions = self._regions
        if regions is None:
            raise ConfigError("a model without regions draws no masks")
        logits = predict_logits(self._net, torch.from_numpy(case.image), self._asked, self._device)
        whole = to_native(regions.to_probabilities(logits)[0].cpu(), case.geometry, regions.background)
        return Prediction(masks=dict(zip(regions.names, regions.predicted_masks(whole), strict=True)))

    def _weigh_classes(self, case: PreparedCase) -> Prediction:
        found = to_probabilities(self._answer(case), self.about["labels"]).tolist()
        return Prediction(chances=dict(zip(self.about["classes"], found, strict=True)))

    def _tell_value(self, case: PreparedCase) -> Prediction:
        return Prediction(value=float(self._answer(case)[0]) * self.about["scale"] + self.about["centre"])

    def _answer(self, case: PreparedCase) -> torch.Tensor:
        return answer_image(self._net, torch.from_numpy(case.image), self._asked, self._device).cpu()


def _read_regions(about: Mapping[str, Any]) -> Regions | None:
    if "regions" not in about:
        return None
    if not all(re.fullmatch(NAME_OF_TARGET, name) for name in about["regions"]):
        raise ValueError("a region's name that is no name: it becomes a file's")
    concepts = sorted({concept for several in about["regions"].values() for concept in several})
    return Regions(about["regions"], concepts, softmax=about["activation"] == "softmax")
