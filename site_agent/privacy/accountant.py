"""What differential privacy costs, asked of dp-accounting in a child process: it takes 95 MB, and a few seconds.

`python -m site_agent.privacy.accountant BYTES` reads questions as one JSON list on standard input, and prints as many
answers as one JSON list; BYTES are its memory. Answers are kept as long as this process lives: they depend on nothing
else.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from messages.ground.errors import WorkFailed

ANSWERED_WITHIN = 120.0
"""Seconds for one question or many; a child that takes longer is killed."""
MOST_BYTES = 2**30
"""Memory of the child. A noise that is almost none has privacy losses without end, and composing them takes all there
is; what epsilon it has is beyond any use."""
_MOST_KEPT = 4096
_TOO_LARGE = 3
"""The child's exit status."""
_kept: dict[tuple[Any, ...], Any] = {}
_guard = threading.Lock()


@dataclass(frozen=True, slots=True)
class NoisySteps:
    """Steps of the Gaussian mechanism on Poisson samples (Abadi et al. 2016).

    Attributes:
        noise_multiplier: standard deviation of the noise in units of the clipping norm; above 0.
        sample_rate: chance with which each member is drawn into a step; in (0, 1].
        steps: how many; from 0.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


def find_epsilon(
    noise_multiplier: float, sample_rate: float, steps: int, delta: float, *, within: float = ANSWERED_WITHIN
) -> float:
    """The epsilon of so many noisy steps: one member is there or not (add or remove one). Blocks: not in a main loop.

    By composition of privacy loss distributions on a grid of 1e-4 (dp-accounting 0.6.0): an upper bound.

    Raises:
        ValueError: a number outside its range.
        WorkFailed: the child failed, or took longer than `within` seconds, or more than `MOST_BYTES`.
    """
    return find_epsilons([(NoisySteps(noise_multiplier, sample_rate, steps), delta)], within=within)[0]


def find_epsilons(asked: Sequence[tuple[NoisySteps, float]], *, within: float = ANSWERED_WITHIN) -> list[float]:
    """`find_epsilon` for many pairs of steps and delta, in one child."""
    for steps, delta in asked:
        _check_steps(steps)
        if not 0 < delta < 1:
            raise ValueError(f"delta {delta} is not between 0 and 1")
    return _ask([("epsilon", *astuple(steps), delta) for steps, delta in asked], within)


def find_price(
    given: NoisySteps, delta: float, orders: Sequence[float], *, within: float = ANSWERED_WITHIN
) -> tuple[float, tuple[float, ...]]:
    """The epsilon of so many steps, and the Rényi divergence of one at each order (Mironov, Talwar and Zhang 2019).

    As `find_epsilon`; both in one child.
    """
    _check_steps(given)
    questions = [
        ("epsilon", *astuple(given), delta),
        ("divergences", given.noise_multiplier, given.sample_rate, tuple(orders)),
    ]
    epsilon, divergences = _ask(questions, within)
    return epsilon, tuple(divergences)


def count_rounds(
    a_round: NoisySteps, rounds: int, delta: float, most: float, *, within: float = ANSWERED_WITHIN
) -> int:
    """How many of so many rounds end with an epsilon of at most `most`; as `find_epsilon`."""
    _check_steps(a_round)
    found: int = _ask([("rounds", *astuple(a_round), rounds, delta, most)], within)[0]
    return found


def _check_steps(given: NoisySteps) -> None:
    if not (given.noise_multiplier > 0 and 0 < given.sample_rate <= 1 and given.steps >= 0):
        raise ValueError(f"{given}: noise has to be above 0, the sample rate in (0, 1], steps from 0")


def _ask(questions: list[tuple[Any, ...]], within: float) -> list[Any]:
    with _guard:
        unknown = list(dict.fromkeys(one for one in questions if one not in _kept))
        answers = {one: _kept[one] for one in questions if one in _kept}
    if unknown:
        answers.update(zip(unknown, _ask_child(unknown, within), strict=True))
        with _guard:
            if len(_kept) > _MOST_KEPT:
                _kept.clear()
            _kept.update(answers)
    return [answers[one] for one in questions]


def _ask_child(questions: list[tuple[Any, ...]], within: float) -> list[Any]:
    command = [sys.executable, "-m", "site_agent.privacy.accountant", str(MOST_BYTES)]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(questions),
            capture_output=True,
            text=True,
            timeout=within,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},  # their stacks are memory, too
        )
    except subprocess.TimeoutExpired:
        raise WorkFailed(f"the privacy accountant did not answer within {within:.0f} s", where="privacy") from None
    if done.returncode == _TOO_LARGE:
        least = min(one[1] for one in questions)
        what = f"with noise_multiplier = {least:g} epsilon is too large to be found in {MOST_BYTES >> 20} MiB"
        raise WorkFailed(what, where="privacy", advice="Ask for more noise, a lower sample_rate or fewer steps")
    if done.returncode:
        words = done.stderr.strip().splitlines()
        what = words[-1] if words else f"it ended with {done.returncode}"
        raise WorkFailed(f"the privacy accountant failed: {what}", where="privacy")
    said: list[Any] = json.loads(done.stdout)
    return said


def _answer_questions() -> None:
    """The child's part."""
    resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_DATA)[1]))
    from site_agent.privacy import losses

    answers: dict[str, Callable[..., Any]] = {
        "epsilon": losses.measure_epsilon,
        "rounds": losses.count_rounds,
        "divergences": losses.measure_divergences,
    }
    try:
        said = [answers[name](*numbers) for name, *numbers in json.load(sys.stdin)]
    except MemoryError:
        sys.exit(_TOO_LARGE)
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    _answer_questions()
