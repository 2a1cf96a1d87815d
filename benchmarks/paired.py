"""`python -m benchmarks.paired TREE`: a round of this checkout against one of another, in pairs.

Both consortia stand, each of the code of its own tree, and only the one whose turn it is works: so a pair takes
seconds, and a machine whose speed drifts is as fast for the one as for the other. Which comes first takes turns.

The other tree needs this project's dependencies, and `benchmarks.consortium` as it was since 0.1 (`git worktree add`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).resolve().parents[1]
WITHIN_A_ROUND = 120.0
DRAWS = 10_000


class Side:
    """The consortium of one tree, in a process with an experiment for each line that it reads. A context manager."""

    def __init__(self, tree: Path, sites: int, kilobytes: int, rounds: int) -> None:
        command = [sys.executable, __file__, str(tree), "--serve", "--sites", str(sites), "--rounds", str(rounds)]
        self._process = subprocess.Popen(
            [*command, "--megabytes", str(kilobytes / 1000)],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def run_experiment(self, name: str) -> float:
        """Median seconds of a round, the first one left out."""
        assert self._process.stdin is not None
        print(name, file=self._process.stdin, flush=True)
        seconds: list[float] = self._answer()
        return statistics.median(seconds)

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"paired: the consortium ended with status {self._process.wait()}")
        return json.loads(line)


def serve_experiments(sites: int, kilobytes: int, rounds: int) -> None:
    """Run an experiment for each name that comes in; tell the seconds of each of its rounds but the first."""
    from benchmarks.consortium import rehearsal, running

    with running(sites, kilobytes * 1000, tls=False, say=lambda text: print(text, file=sys.stderr)) as bench:
        print(json.dumps([]), flush=True)
        for line in sys.stdin:
            ends = bench.run(rehearsal(line.strip(), bench.sites, kilobytes, rounds), WITHIN_A_ROUND * rounds)
            print(json.dumps([end - start for start, end in itertools.pairwise(ends)]), flush=True)


def spread_median(ratios: Sequence[float]) -> tuple[float, float]:
    """A 95 % interval of the median, by bootstrap over pairs."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(DRAWS))
    return medians[int(0.025 * DRAWS)], medians[int(0.975 * DRAWS) - 1]


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="benchmarks.paired", description=__doc__.split("\n\n")[0])
    parser.add_argument("tree", type=Path, help="the other checkout")
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--megabytes", type=float, default=30.0, help="of 1,000,000 bytes")
    parser.add_argument("--rounds", type=int, default=5, help="of one experiment")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    work = (options.sites, round(options.megabytes * 1000), options.rounds)
    if options.serve:
        serve_experiments(*work)
        return 0
    seconds: dict[str, list[float]] = {"here": [], "there": []}
    with Side(HERE, *work) as here, Side(options.tree.resolve(), *work) as there:
        sides = [("here", here), ("there", there)]
        for number in range(options.pairs + 1):
            for name, side in sides if number % 2 else reversed(sides):
                seconds[name].append(side.run_experiment(f"pair-{number}"))
            if number == 0:  # files, streams and caches are new
                seconds = {"here": [], "there": []}
            else:
                told = " ".join(f"{name} {found[-1]:.3f}" for name, found in seconds.items())
                print(f"pair {number} of {options.pairs}: {told}", file=sys.stderr, flush=True)
    ratios = [here / there for here, there in zip(*seconds.values(), strict=True)]
    low, high = spread_median(ratios)
    found = {name: round(statistics.median(one), 4) for name, one in seconds.items()}
    found |= {"pairs": options.pairs, "ratio": statistics.median(ratios), "low": low, "high": high}
    if options.json:
        print(json.dumps(found | {"ratios": [round(one, 4) for one in ratios]}))
    else:
        print(
            f"median seconds of a round: here {found['here']:.3f}, there {found['there']:.3f};"
            f" ratio {found['ratio']:.3f} ({low:.3f} to {high:.3f}) over {options.pairs} pairs"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
