"""What a version can do and say beside 0.1, and what may be used among several. Pure; imports nothing of ours.

Two things tell of a newer version, and both travel in an event's `ext`, which 0.1 takes and ignores:

- *Abilities*: the kinds in `ANNOUNCING` carry one entry `can-ABILITY` for each. None means 0.1. Something new is used
  only where all who take part have said its ability (`may_use`). `versions` of `hello` would fit 0.1 as well, but it
  has 16 places, people read it, and `joined`, which the journal keeps, has none.
- *The vocabulary*: kinds, reasons, states and fields that came after 0.1 have a number (`NEWER`). An event that holds
  such a word says the number under `words`; all other events are byte for byte those of 0.1. A reader whose own number
  is lower reads what it does not know in it as "other"; one that is told no number is as strict as ever. The event
  itself says so, not its sender's last `hello`: so a journal replays alike, whoever was heard of before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

VOCABULARY = 7
"""Number of the words that this version knows; 0.1's are 1."""
NEWER: Mapping[str, int] = MappingProxyType(
    {
        "experiment-finish": 2,
        "model-wanted": 2,
        "patch-too-large": 2,
        "amp-without-gpu": 2,
        "experiment-exclude": 3,
        "site-excluded": 3,
        "too-many-cases": 3,
        "implausible-scores": 3,
        "outlying-update": 3,
        "wrong-labels": 3,
        "excluded": 3,
        "too-many-experiments": 3,
        "RoundStart.own": 4,
        "EvaluationStart.combined": 4,
        "ExperimentComplete.combined": 4,
        "SplitScores.histograms": 4,
        "SplitScores.confusion": 4,
        "register": 5,
        "bad-signature": 5,
        "signature-missing": 5,
        "no-good-key": 5,
        "equivocation": 5,
        "forked-log": 5,
        "wrong-addressee": 5,
        "out-of-time": 5,
        "unproven-log": 5,
        "log-head": 5,
        "head-witnessed": 5,
        "Hello.head": 5,
        "plan-not-allowed": 5,
        "purpose-not-allowed": 5,
        "approval-missing": 5,
        "RoundStart.going_on": 6,
        "RoundComplete.staleness": 6,
        "too-stale": 6,
        "statistics-start": 6,
        "statistics-pooled": 6,
        "statistics-ready": 6,
        "statistics-not-allowed": 6,
        "no-configuration": 6,
        "last-heard": 6,
        "privacy-budget-spent": 7,
        "LastHeard.private": 7,
        "secure-keys": 7,
        "secure-roster": 7,
        "secure-shares": 7,
        "secure-masking": 7,
        "secure-mail": 7,
        "secure-figures": 7,
        "secure-closing": 7,
        "secure-consent": 7,
        "secure-unmasking": 7,
        "secure-reveal": 7,
        "secure-complaint": 7,
        "round-void": 7,
        "net-not-maskable": 7,
        "RoundStart.secure": 7,
        "EvaluationStart.secure": 7,
        "RoundComplete.pooled": 7,
        "secrets-lost": 7,
        "net-not-private": 7,
        "Joined.privacy": 7,
        "WeightsReady.epsilon": 7,
        "bad-roster": 7,
        "too-few-peers": 7,
        "asked-twice": 7,
        "other-context": 7,
        "consent-missing": 7,
        "bad-share": 7,
        "share-unreadable": 7,
        "update-out-of-range": 7,
        "sum-out-of-range": 7,
    }
)
"""Word → the number with which it came: a kind, a reason, a state; a field as "Model.field". 0.1's are not here."""
WORDS_3 = "words-3"
"""Reads the words of vocabulary 3: what a coordinator asks before it says one of them to sites."""
WORDS_4 = "words-4"
"""Reads the words of vocabulary 4."""
WORDS_5 = "words-5"
"""Reads the words of vocabulary 5: signatures, registers and heads."""
WORDS_6 = "words-6"
"""Reads the words of vocabulary 6: statistics, work that goes on from round to round, signed chunks."""
WORDS_7 = "words-7"
"""Reads the words of vocabulary 7: secure rounds and differential privacy."""
OURS: frozenset[str] = frozenset({WORDS_3, WORDS_4, WORDS_5, WORDS_6, WORDS_7})
"""What this version can do and 0.1 cannot: code words of at most 28 characters."""

ANNOUNCING = frozenset({"hello", "joined", "coordinator-hello", "standing", "experiment-accepted"})
"""Kinds that carry their sender's abilities: a site's when it comes and when it takes part, the coordinator's when it
starts, when it answers a site, and when it announces an experiment."""
WORDS = "words"
_CAN = "can-"


def announce_abilities(abilities: Iterable[str]) -> dict[str, int]:
    """Abilities as entries of an `ext`."""
    return {f"{_CAN}{one}": 1 for one in sorted(abilities)}


def read_abilities(ext: Mapping[str, Any]) -> frozenset[str]:
    """The abilities that an event's sender has said; none where it is a 0.1."""
    return frozenset(key.removeprefix(_CAN) for key in ext if key.startswith(_CAN) and key != _CAN)


def read_vocabulary(ext: Mapping[str, Any]) -> int:
    """The number of the words that an event holds; 1 where it says none, or no number."""
    said = ext.get(WORDS)
    return said if type(said) is int and said > 1 else 1


def share_abilities(parties: Iterable[Iterable[str]], ours: Iterable[str] | None = None) -> frozenset[str]:
    """What all can do, we included (`ours`: default, this version's)."""
    shared = frozenset(OURS if ours is None else ours)
    for one in parties:
        shared &= frozenset(one)
    return shared


def may_use(ability: str, parties: Iterable[Iterable[str]], ours: Iterable[str] | None = None) -> bool:
    """Whether something new may be used among these parties: each of them has said that it can."""
    return ability in share_abilities(parties, ours)


def is_known(word: str, vocabulary: int) -> bool:
    """Whether a word that we know belongs to the vocabulary of this number."""
    return NEWER.get(word, 1) <= vocabulary
