"""What each strategy bears: `python -m benchmarks.attackers`. The tables of docs/strategies.md are what it prints.

A toy federation of 11 sites learns 64 numbers. An honest site goes half of the way to its own optimum in a round, with
some noise; the sites' optima lie around one point. The attackers know all honest updates of the round and send:

- sign flip: ten times their own honest change, the other way
- scale: a hundred times their own honest change
- noise: Gaussian noise, ten times as large as an honest change of the first round
- a little is enough (Baruch et al. 2019): the honest mean, less as many standard deviations of each number as still
  look honest to a majority

The error is how far the model is from the honest sites' mean optimum after 30 rounds, in units of where it began.
A strategy *bears* so many attackers where that is below one half.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from coordinator.work.aggregate import aggregate
from coordinator.work.strategies.base import Strategy
from coordinator.work.strategies.table import strategy_of
from messages.strategies import SPECS, StrategySpec
from messages.tensors.layout import manifest_of

SITES, NUMBERS, ROUNDS, SEED = 11, 64, 30, 7
SPREAD, NOISE = 0.2, 0.02
BORNE = 0.5
ATTACKS = ("sign flip", "scale", "noise", "a little is enough")
COMPARED = ("FedAvg", "NormBound", "Median", "TrimmedMean", "Krum", "MultiKrum", "RFA")
TOLD = frozenset({"TrimmedMean", "Krum", "MultiKrum"})
"""They have to be told the number of attackers; here they are told the right one."""
Values = NDArray[np.float64]


class Federation:
    """A toy federation of which some sites attack: the first by name."""

    def __init__(self, attackers: int) -> None:
        rng = np.random.default_rng(SEED)
        self.attackers = attackers
        self.optima = rng.normal(size=NUMBERS) + SPREAD * rng.normal(size=(SITES, NUMBERS))
        self.goal = self.optima[attackers:].mean(axis=0)
        self.began = float(np.linalg.norm(self.goal))
        self._rng = rng

    def end_error(self, strategy: Strategy, attack: str) -> float:
        """The error after all rounds; infinite where the model is not finite any more."""
        x = np.zeros(NUMBERS, np.float32)
        described = manifest_of({"w": x})
        for _ in range(ROUNDS):
            changes = 0.5 * (self.optima - x) + NOISE * self._rng.normal(size=(SITES, NUMBERS))
            sent = (x + self._attack(attack, changes)).astype(np.float32)
            out, model = np.zeros(described.nbytes, np.uint8), x.view(np.uint8)
            updates = [(1 / SITES, row.view(np.uint8)) for row in sent]
            if not aggregate(described, updates, out, master=model, threads=1, strategy=strategy):
                return float("inf")
            x = out.view(np.float32)
        return float(np.linalg.norm(x - self.goal)) / self.began

    def _attack(self, attack: str, changes: Values) -> Values:
        bad, honest = slice(0, self.attackers), changes[self.attackers :]
        if attack == "sign flip":
            changes[bad] *= -10
        elif attack == "scale":
            changes[bad] *= 100
        elif attack == "noise":
            changes[bad] = 10 * 0.5 * self._rng.normal(size=changes[bad].shape)
        else:
            changes[bad] = honest.mean(axis=0) - self._least_seen() * honest.std(axis=0)
        return changes

    def _least_seen(self) -> float:
        """Baruch et al. 2019, algorithm 3: standard deviations within which enough honest sites lie farther off."""
        supporters = SITES // 2 + 1 - self.attackers
        honest = SITES - self.attackers
        return NormalDist().inv_cdf((honest - supporters) / honest)


def defend_against(name: str, attackers: int) -> Strategy | None:
    """The strategy, told of so many attackers where it has to be; None where an experiment file could not say so."""
    (spec,) = (one for one in SPECS if one.model_fields["name"].default == name)
    given: dict[str, object] = {"attackers": max(1, attackers)} if name in TOLD else {}
    if name == "NormBound":
        given = {"bound": 0.25 * Federation(0).began}
    try:
        read: StrategySpec = spec.model_validate({"name": name, **given})
    except ValidationError:
        return None
    return strategy_of(read) if read.least_updates <= SITES else None


def count_borne(name: str, attack: str) -> int:
    """Most attackers that a strategy bears."""
    borne = 0
    for attackers in range(1, SITES // 2 + 1):
        strategy = defend_against(name, attackers)
        if strategy is None or not Federation(attackers).end_error(strategy, attack) < BORNE:
            break
        borne = attackers
    return borne


def main() -> None:
    """Print both tables, as the docs have them."""
    print(f"Most attackers of {SITES} sites that are borne:\n")
    _print_table(lambda name, attack: str(count_borne(name, attack)))
    print("\nThe error with 3 attackers; the first column: with none:\n")
    _print_table(lambda name, attack: _tell_error(name, attack, 3), lambda name: _tell_error(name, ATTACKS[0], 0))


def _tell_error(name: str, attack: str, attackers: int) -> str:
    strategy = defend_against(name, attackers)
    error = float("nan") if strategy is None else Federation(attackers).end_error(strategy, attack)
    return "diverges" if error > 100 else f"{error:.2f}"


def _print_table(cell, first=None) -> None:
    head = [*(["none"] if first else []), *ATTACKS]
    print(f"| strategy | {' | '.join(head)} |")
    print("|---" * (len(head) + 1) + "|")
    for name in COMPARED:
        cells = [*([first(name)] if first else []), *(cell(name, attack) for attack in ATTACKS)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
