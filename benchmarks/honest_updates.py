"""How often an honest site stands out: python -m benchmarks.honest_updates --study hippocampus --data DIR

The headline's FedAvg on sites of unequal cases (`benchmarks.headline`), for each seed. Every update's length and
direction beside the others of its round is read from the event log, as `messages.outliers` judges them. Nobody is
hostile, so whoever stands out is a false alarm. A simulation that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from benchmarks.headline.arms import FEDAVG
from benchmarks.headline.running import Shelf
from benchmarks.headline.studies import STUDIES, Run
from coordinator.core import inputs as i
from coordinator.record.journal import STEP
from coordinator.record.recovery import read_body
from messages import codec
from messages.log.exports import read_entries
from messages.outliers import UpdateCheck, check_updates


def read_checks(log: Path) -> list[tuple[int, str, UpdateCheck]]:
    """(round, site, how its update stands beside the others) of every update in an exported log."""
    norms: dict[int, dict[str, float]] = defaultdict(dict)
    cosines: dict[int, dict[str, float]] = {}
    for entry in read_entries(log):
        if entry.type != STEP:
            continue
        given, _decided = read_body(codec.unpack(entry.body))
        if isinstance(given, i.UpdateStored) and given.norm is not None:
            norms[given.round][given.site] = given.norm
        elif isinstance(given, i.Aggregated):
            cosines[given.round] = given.cosines
    return [
        (number, site, check)
        for number, found in sorted(norms.items())
        for site, check in check_updates({}, found, cosines.get(number, {})).items()
    ]


def main() -> int:
    """Simulate, and print a row for each seed."""
    parser = argparse.ArgumentParser(prog="benchmarks.honest_updates")
    parser.add_argument("--study", choices=sorted(STUDIES), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("honest-updates"))
    options = parser.parse_args()
    study = STUDIES[options.study]
    shelf = Shelf(study, options.data, options.out / study.name)
    print("| seed | updates | stand out | norm, x the median | cosine |\n|---|---|---|---|---|")
    for seed in options.seeds.split(","):
        run = Run(study.splits[-1], FEDAVG, int(seed))
        shelf.finish_run(run, options.rounds, options.jobs, lambda text: print(text, file=sys.stderr))
        found = [check for _round, _site, check in read_checks(shelf.log_of(run))]
        ratios = [check.ratio for check in found if check.ratio is not None]
        ways = [check.cosine for check in found if check.cosine is not None]
        print(
            f"| {seed} | {len(found)} | {sum(check.stands_out for check in found)}"
            f" | {min(ratios):.2f} to {max(ratios):.2f} | {min(ways):.2f} to {max(ways):.2f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
