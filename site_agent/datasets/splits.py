"""Which cases train, validate and test: by a keyed hash of the patient, so nobody chooses and nobody can guess.

HMAC-SHA256 (RFC 2104) of (seed, patient) under the site's secret gives a number in [0, 1) that falls into train,
validation or test. A patient's place depends on nothing but secret, seed and patient: it stays when cases arrive
or are withdrawn, and all time points of a patient stay together. Patients who share content (`twins`) count as one.
The secret keeps others from computing, from a guessed name, whether a patient was in the training set.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Literal

from site_agent.datasets.source import Case

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


def _keyed_digest(secret: bytes, purpose: str, seed: int, name: str) -> bytes:
    # lengths are fixed or delimited by a byte that a name's UTF-8 cannot hold, so no two inputs collide
    text = (
        f"konsil-{purpose}".encode() + b"\xff" + str(seed).encode() + b"\xff" + name.encode("utf-8", "surrogateescape")
    )
    return hmac.new(secret, text, sha256).digest()


def split_of(secret: bytes, patient: str, seed: int, fractions: Mapping[str, float]) -> SplitName:
    """The split of a patient.

    Args:
        secret: the site's own; an empty one is refused.
        patient: what `DatasetConfig.patient_of` found.
        seed: the experiment's.
        fractions: shares of "train", "validation", "test", which add up to 1.

    Raises:
        ValueError: no secret, or shares that do not add up.
    """
    if not secret:
        raise ValueError("the split needs the site's secret")
    shares = [fractions.get(name, 0.0) for name in SPLITS]
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6 or set(fractions) - set(SPLITS):
        raise ValueError("fractions name train, validation and test and add up to 1")
    # 53 bits: exactly what a float holds, so the number is below 1
    place = (int.from_bytes(_keyed_digest(secret, "split", seed, patient)[:8], "big") >> 11) / 2**53
    if place < shares[2]:  # test first: its members do not move when train and validation trade shares
        return "test"
    return "validation" if place < shares[2] + shares[1] else "train"


def order_of(secret: bytes, case: str, seed: int) -> bytes:
    """What a split's cases are sorted by: a keyed hash of the case's name (32 bytes), which tells nothing of it."""
    return _keyed_digest(secret, "order", seed, case)


def split_cases(
    cases: Iterable[Case], secret: bytes, seed: int, fractions: Mapping[str, float]
) -> dict[SplitName, tuple[Case, ...]]:
    """All cases by split; inside a split in the order of `order_of`.

    Patients that have images in common (`Case.kin`) go where one of them does, which a keyed hash picks.
    """
    parts: dict[SplitName, list[Case]] = {name: [] for name in SPLITS}
    for case in sorted(cases, key=lambda case: order_of(secret, case.key, seed)):
        parts[split_of(secret, _head_of(secret, case, seed), seed, fractions)].append(case)
    return {name: tuple(members) for name, members in parts.items()}


def _head_of(secret: bytes, case: Case, seed: int) -> str:
    """The patient whose place a case takes."""
    return min(case.kin, key=lambda patient: order_of(secret, patient, seed)) if case.kin else case.patient
