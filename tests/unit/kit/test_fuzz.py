"""What sites read, damaged at random: a part of the suite. `python -m tests.fuzz` tries more."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from messages.ground.kernel import die_with_parent
from tests.fuzz import harness
from tests.fuzz.harness import Figures, Kind, Lost, Runner

COUNTS = {"dicom": 100}
"""Inputs of a kind, where they are not 300: a DICOM object takes as long as ten others."""
SEED = int(os.environ.get("KONSIL_FUZZ_SEED", "0"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(harness.find_kinds()))
def test_damaged_inputs_end_as_a_code_and_cost_nothing_else(name: str) -> None:
    kind, count = harness.find_kinds()[name], COUNTS.get(name, 300)
    with Runner(kind) as runner:
        seen = Figures()
        for batch in runner.try_numbers(SEED, 0, count):
            seen.add_batch(batch)
        kept = kind.kept_inputs()
        if kept:
            seen.add_batch(runner.try_inputs(kept))
    assert seen.faults == []
    assert seen.tried == count + len(kept)
    assert len(seen.outcomes) >= 2


def _damage(rng: random.Random) -> bytes:
    return bytes([rng.randrange(256)])


def _attempt(folder: Path, inputs: Sequence[bytes]) -> Counter[str]:
    for one in inputs:
        match one:
            case b"defect":
                raise KeyError("a name")
            case b"lost":
                raise Lost("1 of 2 whole ones")
            case b"hangs":
                time.sleep(3600)
            case b"dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case b"slow":
                until = time.process_time() + 0.6
                while time.process_time() < until:
                    sum(range(10**5))
            case b"large":
                bytearray(b"x" * (64 * 2**20))
    return Counter({"fine": len(inputs)})


SICK = Kind("sick", _damage, _attempt, seconds=0.2, slack=0.1, memory=32 * 2**20)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("defect", "KeyError in test_fuzz.py"), ("lost", "lost: 1 of 2"), ("hangs", "hangs"),
        ("dies", "ended its process"),
        ("slow", "took 0"), ("large", "grew by"),
    ],
)  # fmt: skip
def test_what_one_input_of_a_batch_does_wrong_is_told_of_that_one(
    fault: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "hangs":
        monkeypatch.setattr(harness, "PATIENCE", 5.0)
    monkeypatch.setattr(harness, "_try_batch", _try_sick)
    monkeypatch.setattr(harness, "_load_kind", _load_sick)
    with Runner(SICK) as runner:
        seen = runner.try_inputs([("1", b"fine"), ("2", fault.encode()), ("3", b"fine")])
    [(number, what)] = seen.faults
    assert number == "2"
    assert what.startswith(words)
    assert seen.outcomes == {"fine": 2}


def _load_sick(_name: str, parent: int) -> bool:
    """None of the real kinds, whose libraries take each new process a second."""
    return die_with_parent(parent)


def _try_sick(_name: str, inputs: harness.Named, alone: bool) -> Figures | str:
    harness._kinds["sick"] = SICK
    return harness.try_batch("sick", inputs, alone)


def test_an_input_is_the_same_bytes_each_time() -> None:
    for kind in harness.find_kinds().values():
        assert [kind.damaged_input(3, n) for n in range(5)] == [kind.damaged_input(3, n) for n in range(5)]
