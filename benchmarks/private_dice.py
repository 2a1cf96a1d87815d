"""What differential privacy costs in Dice: python -m benchmarks.private_dice --data DIR --out FOLDER

`konsil simulate` trains on a folder in Decathlon's layout, dealt out evenly to three sites: once with `[privacy.dp]`,
once with noise that the sites share under masks, once without. Everything else is the same file, steps too. A run that
was cut off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from coordinator.core.inputs import Received
from coordinator.record.journal import STEP
from coordinator.record.recovery import read_body
from deploy.demo import experiments
from deploy.demo.data import read_real
from deploy.demo.toml import write_toml
from messages import codec
from messages.kinds import WeightsReady
from messages.log.exports import read_entries

SITES = ("site-a", "site-b", "site-c")
SIDES = ("private", "shared", "plain")


def describe_experiment(options: argparse.Namespace, side: str) -> dict[str, Any]:
    """One side's file. Noise is added to each weight and there are few patients: so the net has 363 weights, on whole
    images of 2 mm. Everybody is in each step, since for these patients more noise in fewer, larger sums does no better
    (`docs/privacy.md`, What it costs). The coordinator takes the steps, so its optimiser sees the noise of all sites.
    """
    real = read_real(options.data)
    plain = experiments.decathlon_demo(
        rounds=options.rounds,
        seed=1,
        sites=SITES,
        channels=real.channels,
        concepts=tuple(real.labels[value] for value in sorted(real.labels)),
        regions=real.regions,
    )
    plain["id"] = f"hippocampus-{side}"
    plain["net"] = {"name": "GaussianJets", "positions": True}
    plain["preprocessing"] = {"spacing_mm": [2.0, 2.0, 2.0]}
    plain["training"] = {
        "patch": [24, 32, 24], "local_steps": 1, "batch": 8, "loss": "dice+ce",
        "optimizer": {"name": "SGD", "lr": 1.0, "momentum": 0.0}, "schedule": {"name": "poly"},
    }  # fmt: skip
    strategy = {"name": "FedAdam", "lr": options.lr, "beta1": 0.9, "beta2": 0.99, "tau": 1e-4}
    plain["plan"] = {"weight_by": "equal", "strategy": strategy}
    plain["evaluation"] = {"every": options.rounds, "select_by": "last"}
    if side != "plain":
        dp = {"clip_norm": 0.1, "noise_multiplier": options.noise, "sample_rate": 1.0, "patches_per_patient": 2}
        plain["privacy"] = {"dp": dp | {"epsilon_max": 8.0}}
    if side == "shared":
        plain["privacy"]["secure_aggregation"] = "masks"
        plain["privacy"]["dp"] |= {"noise": "shared", "colluding": 1}  # as sites allow for by default
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
    """Simulate each, and print a row for it."""
    parser = argparse.ArgumentParser(prog="benchmarks.private_dice")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("private-dice"))
    parser.add_argument("--rounds", type=int, default=100, help="of one step each")
    parser.add_argument("--noise", type=float, default=6.1)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--only", choices=SIDES)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print("| | seed | steps | epsilon | Dice |\n|---|---|---|---|---|", flush=True)
    for side in [options.only] if options.only else SIDES:
        file = options.out / f"{side}.toml"
        file.write_text(write_toml(describe_experiment(options, side)))
        command = [sys.executable, "-m", "deploy.cli", "simulate", str(file), "--data", str(options.data), "--json"]
        command += ["--seeds", options.seeds, "--out", str(options.out / side)]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        for run in json.loads(done.stdout)["runs"]:
            spent = f"{read_epsilon(Path(run['log'])):.2f}" if side != "plain" else "none"
            dice = run["dice"]["federated"]["mean"]
            print(f"| {side} | {run['seed']} | {options.rounds} | {spent} | {dice:.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
