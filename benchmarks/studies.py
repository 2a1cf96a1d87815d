"""Two rounds of each published study on generated images, through `konsil simulate`: python -m benchmarks.studies.

Each file of experiments/ keeps plan, strategy, task and sites. Its net has its smallest parameters, its patch is the
smallest that the net takes, and a site has a dozen invented cases of the study's kind: NIfTI with label maps, or PNG or
NIfTI beside a table. Where sites take turns, two rounds are two cycles. So the table shows that every row runs from end
to end, and how long that takes here. Its scores say nothing of a study.

What was run is kept in --out, and not run again. `--page docs/studies.md` writes the table there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from deploy.demo.toml import write_toml
from messages.experiment import Experiment, read_experiment
from nets.registry import NETS

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, CASES, BATCH, SLICES = 2, 12, 2, 4
BEGIN, END = "<!-- made by `make studies` -->", "<!-- end -->"


def reduce_size(one: Experiment) -> Experiment:
    """The same with its net's smallest parameters on the smallest patch."""
    name, dims = one.net.name, one.training.dims
    parameters = {"name": name, **NETS[name].tried[0]}
    smallest = list(NETS[name].model_validate(parameters).smallest_patch(dims))
    plain = one.as_plain() | {"net": parameters}
    plain["training"] = {**plain["training"], "batch": BATCH, "patch": smallest}
    if one.preprocessing.size is not None:
        plain["preprocessing"] = {**plain["preprocessing"], "size": smallest}
    return Experiment.model_validate(plain)


def shorten_study(one: Experiment) -> Experiment:
    """Of reduced size, and two rounds; where sites take turns, two cycles."""
    plain = reduce_size(one).as_plain()
    count = ROUNDS * (len(one.sites) if one.plan.kind == "sequential" else 1)
    plain["rounds"] = {**plain["rounds"], "count": count}
    return Experiment.model_validate(plain)


def invent_images(one: Experiment, folder: Path) -> None:
    """A folder for each site, with cases of the study's kind."""
    shutil.rmtree(folder, ignore_errors=True)
    for number, site in enumerate(one.sites):
        draw = np.random.default_rng(number)
        (folder / site).mkdir(parents=True)
        if one.task.truth == "table":
            _invent_table(one, folder / site, draw)
        else:
            _invent_label_maps(one, folder / site, draw)


def _invent_table(one: Experiment, folder: Path, draw: np.random.Generator) -> None:
    """A class is as bright as its number, in a square about the middle."""
    rows = ["image,patient,label"]
    shape = tuple(one.training.patch)
    for case in range(CASES):
        word = one.task.invent_word(case)
        values = draw.normal(90, 15, shape)
        middle = tuple(slice(edge // 4, edge - edge // 4) for edge in shape)
        values[middle] += 20 * (case % len(one.task.targets))
        name = f"case-{case:02d}" + (".png" if len(shape) == 2 else ".nii.gz")
        if len(shape) == 2:
            Image.fromarray(values.clip(0, 255).astype(np.uint8).T).save(folder / name)
        else:
            nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), folder / name)
        rows.append(f"{name},patient-{case:02d},{word}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def _invent_label_maps(one: Experiment, folder: Path, draw: np.random.Generator) -> None:
    """A concept is a block of its own brightness, in each channel another."""
    concepts, channels = list(one.task.concepts), list(one.task.channels)
    patch = one.training.patch
    grid = (*patch, SLICES) if len(patch) == 2 else tuple(patch)
    for inside in ("imagesTr", "labelsTr"):
        (folder / inside).mkdir()
    for case in range(CASES):
        image = draw.normal(100, 10, (*grid, len(channels))).astype(np.float32)
        label = np.zeros(grid, np.uint8)
        for value in range(1, len(concepts) + 1):
            begin = [int(draw.integers(0, edge - edge // 2)) for edge in grid]
            block = tuple(slice(at, at + max(1, edge // (1 + value))) for at, edge in zip(begin, grid, strict=True))
            label[block] = value
        for value in range(1, len(concepts) + 1):
            for channel in range(len(channels)):
                image[..., channel][label == value] += 25 * value + 5 * channel
        flat = image[..., 0] if len(channels) == 1 else image
        nib.save(nib.Nifti1Image(flat, np.eye(4)), folder / "imagesTr" / f"case_{case:02d}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "labelsTr" / f"case_{case:02d}.nii.gz")
    labels = {"0": "background", **{str(value): name for value, name in enumerate(concepts, 1)}}
    described = {"modality": {str(n): name for n, name in enumerate(channels)}, "labels": labels}
    (folder / "dataset.json").write_text(json.dumps({"name": one.id, **described}))


@dataclass(frozen=True, slots=True)
class Ran:
    """A study that came to its end."""

    id: str
    rounds: int
    seconds: float
    title: str
    score: float | None
    digest: str

    @property
    def row(self) -> str:
        """Of the table."""
        score = "-" if self.score is None else f"{self.score:.3f}"
        return f"| `{self.id}` | {self.rounds} | {self.seconds:.0f} | {self.title} {score} | `{self.digest[:12]}` |"


def run_study(file: Path, out: Path, jobs: int) -> Ran:
    """Two rounds of a study, unless they were run before.

    Raises:
        SystemExit: it did not come to a model.
    """
    one = shorten_study(read_experiment(file))
    folder = out / one.id
    result = folder / "simulated" / f"seed-{one.seed}" / "result.json"
    if not result.exists():
        folder.mkdir(parents=True, exist_ok=True)
        experiment = folder / "experiment.toml"
        experiment.write_text(write_toml(one.as_plain()))
        invent_images(one, folder / "data")
        shutil.rmtree(folder / "simulated", ignore_errors=True)
        command = [sys.executable, "-m", "deploy.cli", "simulate", str(experiment), "--data", str(folder / "data")]
        command += ["--out", str(folder / "simulated"), "--threads", "1", "--jobs", str(jobs)]
        with (folder / "said.txt").open("w") as said:
            status = subprocess.run(command, stdout=said, stderr=subprocess.STDOUT, check=False).returncode
        shutil.rmtree(folder / "data")
        if status:
            raise SystemExit(f"{one.id}: ended with status {status}, see {folder / 'said.txt'}")
    return read_result(one.id, json.loads(result.read_text()))


def read_result(identity: str, plain: dict[str, Any]) -> Ran:
    """What `konsil simulate` left of a study."""
    score = plain[plain["metric"]]["federated"]["mean"]
    return Ran(identity, plain["rounds"], plain["seconds"], plain["title"], score, plain["model_digest"] or "")


def write_table(page: Path, ran: Sequence[Ran]) -> None:
    """Between the page's two marks."""
    head = ["| file | rounds | seconds | test score | model |", "|---|---|---|---|---|"]
    before, _, rest = page.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    of_all = f"{len(ran)} of {len(list((ROOT / 'experiments').glob('*.toml')))} files have been run so far."
    page.write_text("\n".join([before + BEGIN, "", *head, *(one.row for one in ran), "", of_all, "", END + after]))


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.studies", description=__doc__.split("\n\n")[0])
    parser.add_argument("studies", nargs="*", help="ids; default: all")
    parser.add_argument("--out", type=Path, default=Path(".studies"))
    parser.add_argument("--page", type=Path, help="a page with the marks of the table")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    files = sorted((ROOT / "experiments").glob("*.toml"))
    failed, ran = [], []
    for file in files:
        if options.studies and file.stem not in options.studies:
            continue
        try:
            ran.append(run_study(file, options.out, options.jobs))
            print(ran[-1].row, flush=True)
        except SystemExit as error:
            failed.append(str(error))
            print(error, file=sys.stderr, flush=True)
    if options.page is not None:
        write_table(options.page, ran)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
