"""`python -m benchmarks.codec_dice --data DIR`: test Dice of one federation under each codec, and what it loses.

The same sites, cases, seeds and rounds under each codec, in one process without a broker: sites train with the very
`TrainingSession` of a site's training process, updates and models go through files in the codec's bytes, and the
coordinator's own `aggregate` makes the next model. Split, secrets and experiment are those of `konsil demo --data
DIR`, so that a run under float32 is the demo's own. The bar: bfloat16 differences within 0.005 of float32.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from coordinator.work.aggregate import aggregate, share_weights
from deploy.demo import machine
from deploy.demo.consortium import site_names
from deploy.demo.data import read_real
from deploy.demo.experiments import decathlon_demo
from deploy.demo.partition import deal_patients
from messages.experiment import Experiment
from messages.ground.errors import KonsilError
from messages.scores import pool_scores
from messages.tensors.codecs import CODECS, CodecName
from messages.tensors.layout import view_tensors, write_into
from nets.initial import initial_model
from site_agent.training.protocol import Evaluate, Prepare, Train
from site_agent.training.session import TrainingSession

BAR = 0.005


@dataclass(frozen=True, slots=True)
class Result:
    """One federation: test Dice over all sites' cases, bytes of one round (a copy down and an update up a site)."""

    codec: CodecName
    mean: float
    regions: dict[str, float | None]
    cases: int
    round_bytes: int
    seconds: float


def sessions(data: Path, folder: Path, experiment: Experiment, seed: int) -> dict[str, TrainingSession]:
    """Each site's prepared data, dealt out as the demo deals them."""
    real = read_real(data)
    places = {site: folder / site for site in experiment.sites}
    deal_patients(data, list(places.values()), seed=seed)
    return {
        site: TrainingSession(
            Prepare(
                experiment=experiment.as_plain(),
                dataset={**real.describe_source(place), "path": str(place)},
                site=site,
                secret=hashlib.sha256(f"konsil demo|{seed}|{site}".encode()).digest(),
                threads=machine.share_threads(len(places)),
                cache=str(folder / f"{site}-cache"),
            ),
            lambda progress: None,
        )
        for site, place in places.items()
    }


def federate(members: dict[str, TrainingSession], experiment: Experiment, codec: CodecName, folder: Path) -> Result:
    """All rounds under one codec, and the final model on every site's test cases."""
    began = time.monotonic()
    exact, buffer = initial_model(experiment)
    sent, update = exact.in_codec(CODECS[codec].model), exact.in_codec(codec)
    shares = share_weights({site: len(one.splits["train"]) for site, one in members.items()})
    master = np.frombuffer(buffer, dtype=np.uint8)
    model = folder / "model"
    for number in range(1, experiment.rounds.count + 1):
        wire = np.zeros(sent.nbytes, dtype=np.uint8)
        write_into(view_tensors(exact, master), sent, wire.data)
        wire.tofile(model)
        for site in shares:
            members[site].train_round(
                Train(
                    round=number,
                    attempt=1,
                    model=str(model),
                    manifest=sent.plain(),
                    update=update.plain(),
                    output=str(folder / f"{site}.update"),
                )
            )
        updates = [(share, np.fromfile(folder / f"{site}.update", dtype=np.uint8)) for site, share in shares.items()]
        made = np.zeros(exact.nbytes, dtype=np.uint8)
        if not aggregate(exact, updates, made, codec=codec, master=master):
            raise SystemExit(f"{codec}: round {number} made a model that is not finite")
        master = made
        spent = time.monotonic() - began
        print(f"  {codec}: round {number} of {experiment.rounds.count}, {spent:.0f} s", file=sys.stderr, flush=True)
    master.tofile(model)
    request = Evaluate(
        round=experiment.rounds.count, model=str(model), manifest=exact.plain(), splits=["test"], label="final"
    )
    test = pool_scores([members[site].evaluate_model(request).scores[0].scores() for site in shares])
    return Result(
        codec=codec,
        mean=test.mean_score("dice") or 0.0,
        regions=test.by_target("dice"),
        cases=test.cases,
        round_bytes=len(shares) * (sent.nbytes + update.nbytes),
        seconds=round(time.monotonic() - began, 1),
    )


def table(results: Sequence[Result]) -> list[str]:
    """One line a codec, and how far each is from float32."""
    exact = next((one.mean for one in results if one.codec == "float32"), None)
    lines = [f"{'codec':<22}{'test Dice':>10}{'less float32':>14}{'n':>5}{'KB a round':>12}{'s':>8}  regions"]
    for one in results:
        less = "" if exact is None or one.codec == "float32" else f"{one.mean - exact:+.4f}"
        regions = ", ".join(f"{name} {dice or 0.0:.4f}" for name, dice in one.regions.items())
        size = one.round_bytes / 1000
        lines.append(
            f"{one.codec:<22}{one.mean:>10.4f}{less:>14}{one.cases:>5}{size:>12.0f}{one.seconds:>8.0f}  {regions}"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 where bfloat16 differences are further from float32 than the bar."""
    parser = argparse.ArgumentParser(prog="benchmarks.codec_dice", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the Decathlon layout (hippocampus)")
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--codecs", default="float32,bfloat16,bfloat16-difference", help="with a comma between")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    wanted = [name for name in CODECS if name in options.codecs.split(",")]
    try:
        real = read_real(options.data)
        concepts = tuple(real.labels[value] for value in sorted(real.labels))
        plain = decathlon_demo(options.rounds, options.seed, site_names(options.sites), real.channels, concepts)
        experiment = Experiment.model_validate(plain | {"rounds": {"count": options.rounds}})
        with tempfile.TemporaryDirectory(prefix="konsil-codec-") as name:
            members = sessions(options.data, Path(name), experiment, options.seed)
            results = [federate(members, experiment, codec, Path(name)) for codec in wanted]
    except KonsilError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    if options.json:
        facts = {"rounds": options.rounds, "seed": options.seed, "sites": options.sites, "cores": os.cpu_count()}
        print(json.dumps({**facts, "results": [asdict(one) for one in results]}))
    else:
        print("\n".join(table(results)))
    means = {one.codec: one.mean for one in results}
    if "float32" in means and "bfloat16-difference" in means:
        return int(abs(means["bfloat16-difference"] - means["float32"]) > BAR)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
