"""What differential privacy costs in Dice: python -m benchmarks.private_dice --data DIR --out FOLDER

`konsil simulate` trains on a folder in Decathlon's layout, dealt out evenly to three sites: once with `[privacy.dp]`,
once without. Everything else is the same file, steps too. A run that was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.honest_updates import SITES
from coordinator.core.inputs import Received
from coordinator.record.journal import STEP
from coordinator.record.recovery import read_body
from deploy.demo import experiments
from deploy.demo.data import read_real
from deploy.demo.toml import write_toml
from messages import codec
from messages.kinds import WeightsReady
from messages.log.exports import read_entries


def describe_experiment(options: argparse.Namespace, *, private: bool) -> dict[str, Any]:
    """One side's file: a net of few weights on images of 2 mm, since noise is added to each weight."""
    real = read_real(options.data)
    plain = experiments.decathlon_demo(
        rounds=options.rounds,
        seed=1,
        sites=SITES,
        channels=real.channels,
        concepts=tuple(real.labels[value] for value in sorted(real.labels)),
        regions=real.regions,
    )
    plain["id"] = f"hippocampus-{'private' if private else 'plain'}"
    plain["net"] = {"name": "DilatedCNN", "channels": 6, "dilations": [1, 2, 4]}
    plain["preprocessing"] = {"spacing_mm": [2.0, 2.0, 2.0]}
    plain["training"] = {
        "patch": [16, 24, 16], "local_steps": options.steps, "batch": 4, "loss": "dice+ce",
        "optimizer": {"name": "Adam", "lr": 0.01, "reset": False},
    }  # fmt: skip
    plain["evaluation"] = {"every": options.rounds, "select_by": "last"}
    if private:
        dp = {"clip_norm": 0.1, "noise_multiplier": options.noise, "sample_rate": 0.2, "patches_per_patient": 2}
        plain["privacy"] = {"dp": dp | {"epsilon_max": 8.0}}
    return plain


def read_epsilon(log: Path) -> float:
    """The largest that any site tells of its last round."""
    told = [0.0]
    for entry in read_entries(log):
        given = read_body(codec.unpack(entry.body))[0] if entry.type == STEP else None
        if isinstance(given, Received) and isinstance(given.event.body, WeightsReady):
            told.append(given.event.body.epsilon or 0.0)
    return max(told)


def main() -> int:
    """Simulate both, and print a row for each."""
    parser = argparse.ArgumentParser(prog="benchmarks.private_dice")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("private-dice"))
    parser.add_argument("--rounds", type=int, default=22)
    parser.add_argument("--steps", type=int, default=5, help="of a site in a round")
    parser.add_argument("--noise", type=float, default=1.5)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--only", choices=("private", "plain"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print("| | seed | steps a site | epsilon | Dice |\n|---|---|---|---|---|", flush=True)
    for side in [options.only] if options.only else ("private", "plain"):
        file = options.out / f"{side}.toml"
        file.write_text(write_toml(describe_experiment(options, private=side == "private")))
        command = [sys.executable, "-m", "deploy.cli", "simulate", str(file), "--data", str(options.data), "--json"]
        command += ["--seeds", options.seeds, "--out", str(options.out / side)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        for run in json.loads(done.stdout)["runs"]:
            spent = f"{read_epsilon(Path(run['log'])):.2f}" if side == "private" else "none"
            dice = run["dice"]["federated"]["mean"]
            print(f"| {side} | {run['seed']} | {options.rounds * options.steps} | {spent} | {dice:.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
