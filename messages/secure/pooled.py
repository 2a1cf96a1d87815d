"""Which figures of a round are told only as sums, and how a masked update looks on the wire.

All parties make both from the experiment file. A masked update is two tensors: the model's numbers as words of 32 bits,
and the figures as words of 64 bits. They travel as whole numbers of these sizes: what a word is modulo 2^32 or 2^64
does not ask for a sign.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from messages import codec
from messages.scores import ScoreSums, SplitScores
from messages.secure.figures import Figure
from messages.secure.masks import WordLayout
from messages.tasks.histograms import BINS, ScoreHistogram
from messages.tasks.metrics import METRICS
from messages.tensors.layout import Manifest, TensorSpec

if TYPE_CHECKING:
    from messages.experiment import Experiment

MASKED, FIGURES = "masked32", "figures64"
"""Names of the two tensors."""
CASES, LOSS, PATIENTS = "cases", "loss", "patients"
SPLITS = ("validation", "test")
"""What an evaluation scores."""
_MOST_CASES = 2.0**24
_BOUNDED = (_MOST_CASES, 25), (_MOST_CASES, 25)
"""Largest sum and sum of squares of one site, each with its binary places: of a metric that is at most 1."""
_UNBOUNDED = (2.0**31, 20), (2.0**41, 10)
"""The same of one in millimetres, or of a task's own unit."""
_COUNTED = ("n", "both_empty", "reference_empty", "false_positive", "failed", "withheld")


def list_figures(experiment: Experiment, *, evaluate: bool) -> tuple[Figure, ...]:
    """The figures of a training round: training cases, their loss, and the scores of the model that was received; under
    `noise = "shared"` also the patients as announced, which the sum is divided by.

    Args:
        evaluate: whether the round scores it.
    """
    told: tuple[Figure, ...] = (Figure(CASES, _MOST_CASES), Figure(LOSS, 2.0**30, 19))
    if experiment.privacy.dp is not None and experiment.privacy.dp.is_shared:
        told = (*told, Figure(PATIENTS, _MOST_CASES))
    return (*told, *list_scores(experiment, "validation")) if evaluate else told


def list_scoring(experiment: Experiment, labels: Iterable[str]) -> tuple[Figure, ...]:
    """The figures of a secure evaluation: of each candidate, by label, the scores on both splits."""
    return tuple(
        one for label in labels for split in SPLITS for one in list_scores(experiment, name_scores(label, split))
    )


def name_scores(label: str, split: str) -> str:
    """What the figures of a candidate's scores on a split begin with."""
    return f"{label} {split}"


def name_candidates(digests: Mapping[str, str]) -> str:
    """The digest (hex) that stands for the models which a secure evaluation is of: of the only one, or of all."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    return sha256(b"konsil secure candidates 1\n" + codec.canonical(dict(digests))).hexdigest()


def list_scores(experiment: Experiment, prefix: str) -> tuple[Figure, ...]:
    """The figures of one split's scores of one model."""
    reader, found = experiment.task.reader, [Figure(f"{prefix} cases", _MOST_CASES)]
    for metric in reader.metrics:
        sums, squares = _BOUNDED if METRICS[metric].most is not None else _UNBOUNDED
        for target in reader.targets:
            name = f"{prefix} {metric} {target}"
            found += [Figure(f"{name} {one}", _MOST_CASES) for one in _COUNTED]
            found += [Figure(f"{name} sum", *sums), Figure(f"{name} squares", *squares)]
    if experiment.task.reading != "plain" and experiment.task.truth == "table":
        for target in reader.targets:
            for side in ("positive", "negative"):
                found += [Figure(f"{prefix} {target} {side} {number}", _MOST_CASES) for number in range(BINS)]
        for target in reader.targets:
            found += [Figure(f"{prefix} {target} as {other}", _MOST_CASES) for other in reader.targets]
    return tuple(found)


def describe_masked(model: Manifest, figures: int) -> Manifest:
    """How a masked update of this model is laid out."""
    words = sum(spec.size for spec in model.tensors)
    tensors = (
        TensorSpec(name=MASKED, shape=(words,), dtype="int32"),
        TensorSpec(name=FIGURES, shape=(figures,), dtype="int64"),
    )
    return Manifest(tensors=tensors, chunk_bytes=model.chunk_bytes)


def lay_out_words(masked: Manifest) -> WordLayout:
    """The same as words."""
    words32, words64 = masked.tensors
    return WordLayout(words32.size, words64.size)


def is_maskable(model: Manifest) -> bool:
    """Whether every tensor of a model can be masked."""
    return all(spec.dtype == "float32" for spec in model.tensors)


def tell_training(
    cases: int, loss: float | None, validation: SplitScores | None, patients: int | None = None
) -> dict[str, float]:
    """What a site puts into its figures; the loss counts with its cases.

    Args:
        patients: as announced, under `noise = "shared"`.
    """
    told = {CASES: 0.0 if loss is None else float(cases), LOSS: 0.0 if loss is None else loss * cases}
    if patients is not None:
        told[PATIENTS] = float(patients)
    return told if validation is None else told | tell_scores("validation", validation)


def tell_scoring(scores: Mapping[str, Mapping[Any, SplitScores]]) -> dict[str, float]:
    """What a site puts into the figures of a secure evaluation: label → split → scores."""
    told: dict[str, float] = {}
    for label, splits in scores.items():
        for split, one in splits.items():
            told |= tell_scores(name_scores(label, split), one)
    return told


def tell_scores(prefix: str, scores: SplitScores) -> dict[str, float]:
    """A site's scores as figures. What it withholds is not in them, as in an open report."""
    told = {f"{prefix} cases": float(scores.cases)}
    for metric, targets in scores.metrics.items():
        for target, sums in targets.items():
            name = f"{prefix} {metric} {target}"
            told |= {f"{name} {one}": float(getattr(sums, one)) for one in (*_COUNTED, "sum", "squares")}
    for target, histogram in scores.histograms.items():
        for side in ("positive", "negative"):
            counts = getattr(histogram, side)
            told |= {f"{prefix} {target} {side} {number}": float(count) for number, count in enumerate(counts)}
    for target, row in scores.confusion.items():
        told |= {f"{prefix} {target} as {other}": float(count) for other, count in row.items()}
    return told


def read_training(values: Mapping[str, float]) -> tuple[int, float | None]:
    """Cases whose training loss was told, and its mean; None: no case."""
    cases = round(values[CASES])
    return cases, values[LOSS] / cases if cases else None


def read_scores(experiment: Experiment, prefix: str, values: Mapping[str, float]) -> SplitScores | None:
    """Pooled scores out of figures; None where they are of no case, or no scores can be so (ValueError inside).

    A sum that is told to 2^-25 may leave what scores can be by as much: squares are at least what the sum asks for.
    """
    cases = round(values.get(f"{prefix} cases", 0.0))
    if not cases:
        return None
    reader, metrics = experiment.task.reader, {}
    for metric in reader.metrics:
        found = {
            target: sums
            for target in reader.targets
            if (sums := _read_sums(f"{prefix} {metric} {target}", values, METRICS[metric].most)) is not None
        }
        if found:
            metrics[metric] = found
    histograms, confusion = {}, {}
    for target in reader.targets:
        sides = {
            side: [round(values.get(f"{prefix} {target} {side} {number}", 0.0)) for number in range(BINS)]
            for side in ("positive", "negative")
        }
        if any(map(any, sides.values())):
            histograms[target] = ScoreHistogram(**sides)
        row = {other: round(values.get(f"{prefix} {target} as {other}", 0.0)) for other in reader.targets}
        if any(row.values()):
            confusion[target] = row
    return SplitScores(cases=cases, metrics=metrics, histograms=histograms, confusion=confusion)


def _read_sums(name: str, values: Mapping[str, float], most: float | None) -> ScoreSums | None:
    counts = {one: round(values.get(f"{name} {one}", 0.0)) for one in _COUNTED}
    if not any(counts.values()):
        return None
    n = counts["n"]
    total = max(0.0, values.get(f"{name} sum", 0.0)) if n else 0.0
    squares = max(0.0, values.get(f"{name} squares", 0.0)) if n else 0.0
    if most is not None:
        total, squares = min(total, n * most), min(squares, n * most * most)
    return ScoreSums(**counts, sum=total, squares=max(squares, total * total / n) if n else 0.0)
