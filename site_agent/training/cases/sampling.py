"""Patches out of memory-mapped cases.

MONAI's dictionary pipeline reads whole volumes, keeps MetaTensors with their transform history and spends 5 to 20 ms
a patch in Python; here a patch is one slice of a memory map. The choices are MONAI's (RandCropByPosNegLabel,
RandFlip, RandScaleIntensity, RandShiftIntensity, RandGaussianNoise), their randomness is `seeds.make_generator`'s.
`varying` has nnU-Net's variations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from messages.sections import Training
from messages.tasks.augmentation import Augmentation
from site_agent.training.cases.cache import CachedCase
from site_agent.training.cases.varying import draw_warp, vary_intensities
from site_agent.training.seeds import make_generator

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images float32 (B, C, *patch) and labels uint8 (B, *patch)."""


class Sampler:
    """The batches of one round, each by its step: a pure function of (cases, settings, key, step).

    An epoch is a permutation of all (case, patch number) pairs; its last step may have fewer.
    """

    def __init__(self, cases: Sequence[CachedCase], training: Training, augmentation: Augmentation, key: int) -> None:
        self._cases = cases
        self._training = training
        self._augmentation = augmentation
        self._variations = augmentation.list_variations(training.patch)
        self._key = key
        self._draws = len(cases) * training.patches_per_case
        self._step_draws = training.batch * training.batches_per_step
        self.steps_per_epoch = -(-self._draws // self._step_draws)
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._concepts: dict[int, list[NDArray[np.int32]]] = {}

    @property
    def steps(self) -> int:
        """Optimiser steps of the round."""
        return self._training.count_steps(len(self._cases))

    def draw_step(self, step: int) -> list[Batch]:
        """The batches of one optimiser step, from 0: one, or as many as its gradients are gathered over."""
        epoch, within = divmod(step, self.steps_per_epoch)
        chosen = self._permute_cases(epoch)[within * self._step_draws : (within + 1) * self._step_draws]
        size, several = self._training.batch, self._training.batches_per_step
        return [
            self._cut_batch(chosen[begin : begin + size], epoch, step * several + number)
            for number, begin in enumerate(range(0, len(chosen), size))
        ]

    def cut_cases(self, chosen: Sequence[int], number: int) -> Batch:
        """A patch of each of these cases, by their numbers, as one batch; `number` tells it from all others."""
        return self._cut_batch(np.asarray(chosen, dtype=np.int64), 0, number)

    def _cut_batch(self, chosen: NDArray[np.int64], epoch: int, number: int) -> Batch:
        """One batch; `number` counts those of the round.

        A patch of two edges is a part of one slice. Where a table says what a case is, the second is truth, (B, K);
        then a last batch of one case gets the epoch's first one beside it, since batch norm needs two whole images.
        """
        whole = bool(self._cases[0].truth.size)
        if whole and len(chosen) == 1 < self._draws:
            chosen = np.append(chosen, self._permute_cases(epoch)[0])
        rng = make_generator(self._key, number)
        channels = self._cases[0].image.shape[0]
        patch = self._training.patch
        images = np.zeros((len(chosen), channels, *patch), dtype=np.float32)
        labels = np.zeros((len(chosen), *patch), dtype=np.uint8)
        cases = [self._cases[int(draw) % len(self._cases)] for draw in chosen]
        for row, case in enumerate(cases):
            flat = len(patch) == 2
            centre = self._draw_centre(int(chosen[row]) % len(self._cases), row, len(cases), rng)
            own = make_generator(self._key, number, row + 1) if self._variations else rng
            self._draw_patch(case, centre, (rng, own), images[row][..., None] if flat else images[row],
                             labels[row][..., None] if flat else labels[row])  # fmt: skip
            vary_intensities(images[row], self._variations, own)
        self._vary_intensities(images, rng)
        if whole:
            return torch.from_numpy(images), torch.from_numpy(np.stack([case.truth for case in cases]))
        return torch.from_numpy(images), torch.from_numpy(labels)

    def _permute_cases(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            # Counters of epochs lie beyond those of steps.
            self._order = (epoch, make_generator(self._key, 2**40 + epoch).permutation(self._draws))
        return self._order[1]

    def _draw_centre(self, number: int, row: int, rows: int, rng: np.random.Generator) -> tuple[int, ...]:
        """A voxel of a case, which stands in a row of a batch of so many: of foreground where that is due."""
        case, share = self._cases[number], self._training.foreground_share
        shape = case.image.shape[1:]
        if self._training.foreground_by == "batch":
            if row >= round(rows * (1 - share)) and (concepts := self._find_concepts(number)):
                voxels = concepts[rng.integers(len(concepts))]
                return tuple(map(int, np.unravel_index(int(voxels[rng.integers(voxels.size)]), shape)))
        elif case.foreground.size and rng.random() < share:
            flat = int(case.foreground[rng.integers(case.foreground.size)])
            return tuple(map(int, np.unravel_index(flat, shape)))
        return tuple(int(rng.integers(edge)) for edge in shape)

    def _find_concepts(self, number: int) -> list[NDArray[np.int32]]:
        """The foreground voxels of a case by concept, as far as they are among those that are kept of it."""
        if number not in self._concepts:
            case = self._cases[number]
            found = case.label.reshape(-1)[case.foreground] if case.foreground.size else np.zeros(0, np.uint8)
            self._concepts[number] = [case.foreground[found == value] for value in np.unique(found)]
        return self._concepts[number]

    def _draw_patch(
        self,
        case: CachedCase,
        centre: tuple[int, ...],
        generators: tuple[np.random.Generator, np.random.Generator],
        image: NDArray[np.float32],
        label: NDArray[np.uint8],
    ) -> None:
        """Write one patch, mirrored by the batch's generator, and moved by the patch's own."""
        rng, own = generators
        shape, patch = case.image.shape[1:], label.shape
        source: list[slice] = []
        target: list[slice] = []
        for middle, edge, width in zip(centre, shape, patch, strict=True):
            if edge <= width:
                source.append(slice(0, edge))
                before = (width - edge) // 2
                target.append(slice(before, before + edge))
            else:
                begin = min(max(int(middle) - width // 2, 0), edge - width)
                source.append(slice(begin, begin + width))
                target.append(slice(0, width))
        flips = tuple(slice(None, None, -1 if rng.random() < self._augmentation.mirrors else None) for _ in range(3))
        warp = draw_warp(self._variations, patch, own)
        if warp is not None:
            about = [
                part.start - at.start + (width - 1) / 2 for part, at, width in zip(source, target, patch, strict=True)
            ]
            image[(slice(None), *flips)], moved = warp.cut_patch(case, np.array(about))
            if moved is not None:
                label[flips] = moved
            return
        # Flipping the views that are written to costs nothing.
        image[(slice(None), *flips)][(slice(None), *target)] = case.image[(slice(None), *source)]
        if not case.truth.size:
            label[flips][tuple(target)] = case.label[tuple(source)]

    def _vary_intensities(self, images: NDArray[np.float32], rng: np.random.Generator) -> None:
        """Per image and channel: scale by 1 ± s, shift by ± s standard deviations, add noise of up to s."""
        settings = self._augmentation
        ones = (1,) * (images.ndim - 2)
        each = (images.shape[0], images.shape[1], *ones)
        if settings.scale_intensity:
            strength = settings.scale_intensity
            images *= rng.uniform(1 - strength, 1 + strength, each).astype(np.float32)
        if settings.shift_intensity:
            strength = settings.shift_intensity
            images += rng.uniform(-strength, strength, each).astype(np.float32)
        if settings.noise:
            deviation = rng.uniform(0, settings.noise, (images.shape[0], 1, *ones)).astype(np.float32)
            images += deviation * rng.standard_normal(images.shape, dtype=np.float32)
