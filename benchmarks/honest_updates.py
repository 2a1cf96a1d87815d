"""How often an honest site stands out: python -m benchmarks.honest_updates --data DIR --split 16,40,100

`konsil simulate` trains on a folder in Decathlon's layout, dealt out unevenly, for each seed. Every update's length
and direction beside the others of its round is read from the event log, as `messages.outliers` judges them. Nobody is
hostile, so whoever stands out is a false alarm. A simulation that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from coordinator.core import inputs as i
from coordinator.record.journal import STEP
from coordinator.record.recovery import read_body
from deploy.demo import experiments
from deploy.demo.data import read_real
from deploy.demo.toml import write_toml
from messages import chain, codec
from messages.outliers import UpdateCheck, check_updates

SITES = ("site-a", "site-b", "site-c")


def describe_experiment(data: Path, rounds: int) -> dict[str, Any]:
    """The demo's experiment for a real data set."""
    real = read_real(data)
    return experiments.decathlon_demo(
        rounds=rounds,
        seed=1,
        sites=SITES,
        channels=real.channels,
        concepts=tuple(real.labels[value] for value in sorted(real.labels)),
        regions=real.regions,
    )


def read_checks(log: Path) -> list[tuple[int, str, UpdateCheck]]:
    """(round, site, how its update stands beside the others) of every update in an exported log."""
    norms: dict[int, dict[str, float]] = defaultdict(dict)
    cosines: dict[int, dict[str, float]] = {}
    for entry in chain.read_export(log):
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
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="16,40,100")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("honest-updates"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "experiment.toml"
    file.write_text(write_toml(describe_experiment(options.data, options.rounds)))
    command = [sys.executable, "-m", "deploy.cli", "simulate", str(file), "--data", str(options.data), "--json"]
    command += ["--split", options.split, "--seeds", options.seeds, "--out", str(options.out / "runs")]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    print("| seed | updates | stand out | norm, x the median | cosine | Dice |\n|---|---|---|---|---|---|")
    for run in json.loads(done.stdout)["runs"]:
        found = [check for _round, _site, check in read_checks(Path(run["log"]))]
        ratios = [check.ratio for check in found if check.ratio is not None]
        ways = [check.cosine for check in found if check.cosine is not None]
        print(
            f"| {run['seed']} | {len(found)} | {sum(check.stands_out for check in found)}"
            f" | {min(ratios):.2f} to {max(ratios):.2f} | {min(ways):.2f} to {max(ways):.2f}"
            f" | {run['dice']['federated']['mean']:.3f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
