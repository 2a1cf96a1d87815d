"""From masked updates to what their sites' mean is: the sum, its masks taken off, a model and pooled figures.

Nothing of a single update is ever seen: the blobs are added up as they came, and the masks of all come off at once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coordinator.core.effects import Aggregate, SecureSum
from coordinator.work.blobs import Blobs, Buffer
from messages.ground.errors import KonsilError
from messages.kinds import PooledFigures
from messages.reasons import Reason
from messages.scores import SplitScores
from messages.secure.encoding import Arrival, RestoredSum, find_arrival, restore_tensor
from messages.secure.figures import decode_figures, find_impossible
from messages.secure.masks import add_words
from messages.secure.pooled import PATIENTS, lay_out_words, read_scores, read_training
from messages.secure.shared import find_shared_arrival
from messages.secure.unmasking import unmask_sum
from messages.tensors.layout import view_tensors


class UnsoundSum(KonsilError):
    """A sum that no honest sites can have sent. `reason`: the code of what is wrong with it."""

    def __init__(self, reason: Reason, problem: str) -> None:
        super().__init__(problem, where="the unmasked sum")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Opened:
    """What a secure round's updates come to: the model that is their mean, exact; and what they tell together."""

    model: Buffer
    pooled: PooledFigures
    validation: SplitScores | None


@contextmanager
def open_updates(blobs: Blobs, effect: Aggregate, folder: Path | None = None) -> Iterator[Opened | None]:
    """Add up and unmask what the effect names, where it is masked; None where it is not.

    Args:
        folder: where a file of the model's size may lie meanwhile, without a name; default: the system's.

    Raises:
        UnsoundSum: nothing honest can have this sum.
        FileNotFoundError, ValueError: a blob is gone or of another size; a secret is missing.
    """
    secure = effect.secure
    if secure is None:
        yield None
        return
    masked = effect.manifest_of(effect.updates[0])
    layout = lay_out_words(masked)
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, layout.nbytes)  # a full disk inside a mapping would kill the process
        total: Buffer = np.memmap(file, dtype=np.uint8, mode="r+", shape=(layout.nbytes,))
        for one in effect.updates:
            add_words(total, blobs.open_blob(effect.experiment, one.seal, effect.manifest_of(one)), layout)
        unmask_sum(total, layout, secure.context, secure.sites, secure.secrets)
        values = _read_figures(total[4 * layout.words32 :], secure)
        pooled, validation = _read_scores(values, secure)
        model = blobs.open_blob(effect.experiment, effect.model, effect.manifest)
        _restore_model(total[: 4 * layout.words32], effect, _find_arrival(values, secure), model)
        yield Opened(total[: 4 * layout.words32], pooled, validation)


def _find_arrival(values: Mapping[str, float], secure: SecureSum) -> Arrival:
    dp = secure.experiment.privacy.dp
    if secure.step is None or dp is None:
        return find_arrival(secure.context, secure.sites)
    try:
        return find_shared_arrival(dp, len(secure.sites), round(values[PATIENTS]), secure.step)
    except ValueError as error:
        raise UnsoundSum(Reason.SUM_OUT_OF_RANGE, str(error)) from None


def _restore_model(words: Buffer, effect: Aggregate, arrival: Arrival, model: Buffer) -> None:
    """Each tensor's mean, in the place of its words."""
    secure, seen = effect.secure, RestoredSum()
    assert secure is not None  # noqa: S101 (for mypy: there are words)
    received, means = view_tensors(effect.manifest, model), view_tensors(effect.manifest, words)
    for spec in effect.manifest.tensors:
        out = means[spec.name]
        seen += restore_tensor(out.reshape(-1).view(np.uint32), received[spec.name], arrival, out)
    if not seen.is_sound(arrival, secure.norm_max):
        raise UnsoundSum(Reason.SUM_OUT_OF_RANGE, "no honest updates have this sum")


def _read_figures(words: Buffer, secure: SecureSum) -> dict[str, float]:
    numbers = words.copy().view(np.uint64)
    if (name := find_impossible(secure.figures, numbers, len(secure.sites))) is not None:
        raise UnsoundSum(Reason.SUM_OUT_OF_RANGE, f"no {len(secure.sites)} sites have these {name}")
    return decode_figures(secure.figures, numbers)


def _read_scores(values: Mapping[str, float], secure: SecureSum) -> tuple[PooledFigures, SplitScores | None]:
    try:
        cases, loss = read_training(values)
        pooled = PooledFigures(cases=cases, loss=loss)
        return pooled, read_scores(secure.experiment, "validation", values)
    except ValueError:
        raise UnsoundSum(Reason.IMPLAUSIBLE_SCORES, "no cases have such scores") from None
