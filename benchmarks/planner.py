"""Whether a federation configures itself as nnU-Net would from all its data in one place:

python -m benchmarks.planner --data DIR --peer PYTHON [--gib 8] [--sites 3]

Two data sets: one in Decathlon's layout (DIR), and phantoms. Both planners read the same files. Ours sees what so many
sites tell of them above their floors, dealt out evenly; nnU-Net v2's own (`nnunetv2`, in an environment of its own
whose interpreter is PYTHON) sees all of them. The same memory is given to both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coordinator.core.planning.planner import plan_configuration
from deploy.demo.data import read_real
from deploy.demo.phantoms.phantom import CONTRASTS, write_site
from messages.experiment import Experiment
from messages.statistics.fingerprint import pool_fingerprints
from site_agent.core.permissions import Floors
from site_agent.core.sharing import make_shareable
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import Case, LoadedCase, survey_cases
from site_agent.training.statistics.measure import measure_case

CHILD = """
import json, sys
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
if __name__ == "__main__":
    gib = float(sys.argv[1])
    DatasetFingerprintExtractor(1, 1).run(overwrite_existing=True)
    plans = ExperimentPlanner(1, gpu_memory_target_in_gb=gib).plan_experiment()
    plan, forward = plans["configurations"]["3d_fullres"], plans["transpose_forward"]
    made = plan["architecture"]["arch_kwargs"]
    back = lambda edges: [float(edges[forward.index(axis)]) for axis in (2, 1, 0)]
    print("PLAN " + json.dumps({
        "spacing": back(plan["spacing"]), "patch": back(plan["patch_size"]), "batch": plan["batch_size"],
        "stages": made["n_stages"], "normalise": plan["normalization_schemes"], "mask": plan["use_mask_for_norm"],
        "median": back(plan["median_image_size_in_voxels"]),
    }))
"""
"""Run in nnU-Net's environment; its arrays are (z, y, x), ours (x, y, z)."""
SCHEMES = {"zscore": ("ZScoreNormalization", False), "zscore-nonzero": ("ZScoreNormalization", True)}
PHANTOMS = 12


@dataclass(frozen=True)
class Plan:
    """What both planners say, axes as (x, y, z)."""

    spacing: list[float]
    normalise: list[tuple[str, bool]]
    stages: int
    patch: list[int]
    batch: int
    median: list[float]


def read_cases(config: DatasetConfig, experiment: Experiment) -> list[dict[str, Any]]:
    """Every usable case of a folder, measured as a site's trainer measures it."""
    measured: list[dict[str, Any]] = []
    task = experiment.task

    def visit(case: Case, loaded: LoadedCase) -> None:
        told = measure_case(loaded.image, loaded.label, loaded.affine, "RAS", task.channels, loaded.concepts)
        measured.append({"key": case.key, "files": case.files, **told.model_dump()})

    survey_cases(config, task.channels, task.concepts, visit=visit)
    return measured


def plan_federated(experiment: Experiment, cases: Sequence[dict[str, Any]], sites: int) -> Plan:
    """As the coordinator plans from what so many sites tell, each above the floors that a site has by default."""
    told = [make_shareable(Floors(), experiment.task.channels, cases[first::sites]) for first in range(sites)]
    made = plan_configuration(experiment, pool_fingerprints([one for one in told if one is not None]), None)
    normalise = [SCHEMES[made.normalise]] * len(experiment.task.channels)
    return Plan(
        [*made.spacing_mm],
        normalise,
        len(made.filters),
        [*made.patch],
        made.batch,
        [float(e) for e in made.median_shape],
    )


def plan_with_peer(peer: Path, config: DatasetConfig, experiment: Experiment, cases: Sequence[dict[str, Any]]) -> Plan:
    """As nnU-Net plans from all files together, linked into its own layout."""
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw" / "Dataset001_Pooled"
        (raw / "imagesTr").mkdir(parents=True)
        (raw / "labelsTr").mkdir()
        for case in cases:
            *images, label = case["files"]
            for place, image in enumerate(images):
                (raw / "imagesTr" / f"{case['key']}_{place:04}.nii.gz").symlink_to(image.resolve())
            (raw / "labelsTr" / f"{case['key']}.nii.gz").symlink_to(label.resolve())
        concepts = {concept: value for value, concept in sorted(config.labels.items())}
        plain = {
            "channel_names": {str(place): name for place, name in enumerate(experiment.task.channels)},
            "labels": {"background": 0, **concepts},
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
        }
        (raw / "dataset.json").write_text(json.dumps(plain))
        named = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
        places = {key: str(Path(folder) / value) for key, value in named.items()}
        script = Path(folder) / "plan.py"
        script.write_text(CHILD)
        gib = str(experiment.net.parameters["memory_gib"])
        environment = {**os.environ, **places, "PYTHONPATH": "", "nnUNet_def_n_proc": "1"}
        done = subprocess.run(
            [str(peer), str(script), gib], env=environment, capture_output=True, text=True, check=False
        )
    found = [line.removeprefix("PLAN ") for line in done.stdout.splitlines() if line.startswith("PLAN ")]
    if not found:
        raise SystemExit(f"nnU-Net could not plan:\n{done.stderr[-2000:]}")
    plan = json.loads(found[0])
    normalise = [*zip(plan.pop("normalise"), plan.pop("mask"), strict=True)]
    return Plan(normalise=normalise, **{**plan, "patch": [int(edge) for edge in plan["patch"]]})


def describe_experiment(config: DatasetConfig, channels: Sequence[str], gib: float) -> Experiment:
    concepts = sorted(set(config.labels.values()))
    return Experiment.model_validate(
        {
            "schema": 1,
            "id": "planner",
            "sites": ["site-a"],
            "task": {"kind": "segmentation", "channels": list(channels), "regions": {one: [one] for one in concepts}},
            "data": {"dataset": "pooled"},
            "net": {"name": "auto", "memory_gib": gib},
            "rounds": {"count": 1},
        }
    )


def compare_planners(name: str, config: DatasetConfig, channels: Sequence[str], options: Any) -> dict[str, Any]:
    """One data set under both planners, and whether they agree: patches may differ by a step of the net's divisor."""
    experiment = describe_experiment(config, channels, options.gib)
    cases = read_cases(config, experiment)
    ours = plan_federated(experiment, cases, options.sites)
    theirs = plan_with_peer(options.peer, config, experiment, cases)
    step = 2 ** (theirs.stages - 1)
    agrees = {
        "spacing": all(abs(one / other - 1) < 0.005 for one, other in zip(ours.spacing, theirs.spacing, strict=True)),
        "normalise": [tuple(one) for one in ours.normalise] == [tuple(one) for one in theirs.normalise],
        "stages": ours.stages == theirs.stages,
        "patch": all(abs(one - other) <= step for one, other in zip(ours.patch, theirs.patch, strict=True)),
    }
    return {"data": name, "cases": len(cases), "konsil": asdict(ours), "nnunet": asdict(theirs), "agrees": agrees}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--gib", type=float, default=8.0)
    parser.add_argument("--sites", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    real = read_real(options.data)
    described = {"source": "decathlon", "path": options.data, "labels": real.labels, "channels": list(real.channels)}
    found = [
        compare_planners(
            options.data.name,
            DatasetConfig.model_validate(described),
            real.channels,
            options,
        )
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_site(Path(folder), site_index=0, cases=PHANTOMS * options.sites, seed=1)
        labels = {1: "NCR", 2: "ED", 3: "ET"}
        config = DatasetConfig.model_validate({"source": "brats", "path": folder, "labels": labels})
        found.append(compare_planners("phantoms", config, CONTRASTS, options))
    if options.json:
        json.dump(found, sys.stdout, indent=2)
        return 0
    print("| data | cases | planner | spacing (mm) | normalisation | stages | patch | batch | median shape |")
    print("|---|---|---|---|---|---|---|---|---|")
    for one in found:
        for who in ("konsil", "nnunet"):
            plan = Plan(**one[who])
            scheme, mask = plan.normalise[0]
            cells = [one["data"], one["cases"], who, " × ".join(f"{edge:.4g}" for edge in plan.spacing)]
            cells += [f"{scheme}{', inside the mask' if mask else ''}", plan.stages, " × ".join(map(str, plan.patch))]
            print(f"| {' | '.join(map(str, [*cells, plan.batch, ' × '.join(f'{e:g}' for e in plan.median)]))} |")
    return 0 if all(all(one["agrees"].values()) for one in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
