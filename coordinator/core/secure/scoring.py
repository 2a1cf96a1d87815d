"""The scores of a secure evaluation: few figures, which are summed and unmasked where they are decided upon."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from coordinator.core import models
from coordinator.core.secure.facts import arrived_in, context_of, rebuild_from
from coordinator.core.state import EMPTY, MASKED, ExperimentState, Round
from messages.scores import SplitScores, is_sound
from messages.secure.figures import Figure, decode_figures, find_impossible
from messages.secure.masks import WordLayout, add_words
from messages.secure.pooled import SPLITS, list_scoring, name_scores, read_scores
from messages.secure.unmasking import unmask_sum


def list_asked(state: ExperimentState) -> tuple[Figure, ...]:
    """The figures that a secure evaluation asks for."""
    return list_scoring(state.experiment, [one.label for one in models.list_candidates(state)])


def open_scores(state: ExperimentState, round_: Round) -> Mapping[tuple[str, str], SplitScores]:
    """(label, split) → pooled scores; in REVEAL, once enough is revealed. What no honest sites can have is left out."""
    figures, secrets = list_asked(state), rebuild_from(state, round_)
    layout, arrived = WordLayout(0, len(figures)), arrived_in(round_)
    total = np.zeros(layout.nbytes, dtype=np.uint8)
    for _site, part in sorted(round_.earlier[MASKED].items()):
        add_words(total, np.frombuffer((part.answer or {})["masked"], dtype=np.uint8), layout)
    unmask_sum(total, layout, context_of(state, round_), arrived, secrets)
    words = total.view(np.uint64)
    if find_impossible(figures, words, len(arrived)) is not None:
        return EMPTY
    values, found = decode_figures(figures, words), {}
    for label in (one.label for one in models.list_candidates(state)):
        for split in SPLITS:
            try:
                scores = read_scores(state.experiment, name_scores(label, split), values)
            except ValueError:
                continue
            most = sum(2 * (getattr(state.members[site], split) or 0) for site in arrived)  # they may be rounded
            if scores is not None and scores.cases <= most and is_sound(scores):
                found[label, split] = scores
    return found
