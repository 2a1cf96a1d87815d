"""Concepts → regions → what the net is trained towards, by activation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray


class Regions:
    """Regions as unions of concepts.

    Args:
        regions: region → concepts, in the order of the net's outputs.
        concepts: concept i is the label value i + 1.
        softmax: outputs exclude each other and channel 0 is background.
    """

    def __init__(self, regions: Mapping[str, Sequence[str]], concepts: Sequence[str], *, softmax: bool) -> None:
        self.names = tuple(regions)
        self.softmax = softmax
        self.background: int | None = 0 if softmax else None
        # member[r, v]: whether label value v belongs to region r; classes[v]: softmax class of value v.
        self._member = np.zeros((len(regions), len(concepts) + 1), dtype=bool)
        for index, members in enumerate(regions.values()):
            for concept in members:
                self._member[index, concepts.index(concept) + 1] = True
        self._classes = np.zeros(len(concepts) + 1, dtype=np.int64)
        for index in range(len(regions)):
            self._classes[self._member[index]] = index + 1
        self._member_float = torch.from_numpy(self._member.astype(np.float32))
        self._classes_torch = torch.from_numpy(self._classes)

    def make_target(self, labels: torch.Tensor) -> torch.Tensor:
        """Labels uint8 (B, x, y, z) → sigmoid: float (B, R, x, y, z); softmax: one-hot float (B, 1 + R, x, y, z)."""
        index = labels.long()
        if self.softmax:
            classes = self._classes_torch.to(labels.device)[index]
            one_hot = torch.nn.functional.one_hot(classes, len(self.names) + 1)
            return one_hot.movedim(-1, 1).float()
        table = self._member_float.to(labels.device)
        return torch.stack([row[index] for row in table], dim=1)

    def reference_masks(self, reference: NDArray[np.uint8]) -> list[NDArray[np.bool_]]:
        """The reference's mask of each region."""
        return [row[reference] for row in self._member]

    def to_probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits (B, K, …) → probabilities."""
        return logits.softmax(1) if self.softmax else logits.sigmoid()

    def predicted_masks(self, probabilities: torch.Tensor) -> list[NDArray[np.bool_]]:
        """Probabilities (K, X, Y, Z) → the mask of each region: p ≥ 0.5, or the largest where they exclude others."""
        if self.softmax:
            classes = probabilities.argmax(0).cpu().numpy()
            return [classes == index + 1 for index in range(len(self.names))]
        return [mask.cpu().numpy() for mask in probabilities >= 0.5]
