"""The headlines: which cases, which sites, which net, which arms, and in which order they run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.headline import arms
from benchmarks.headline.arms import Arm
from deploy.demo.experiments import decathlon_demo

JIP_SITES = ("site-a", "site-b", "site-c")
BREAST_SITES = ("logiq-5", "logiq-7", "others", "poland")


@dataclass(frozen=True, slots=True)
class Run:
    """One arm on one split with one seed."""

    split: str
    arm: Arm
    seed: int

    @property
    def place(self) -> str:
        """Its folder below the study's."""
        return f"{self.split}/{self.arm.name}/{self.seed}"


@dataclass(frozen=True, slots=True)
class Study:
    """One headline.

    Attributes:
        splits: ways in which the cases lie at the sites.
        runs: in the order of their importance.
        describe: rounds, seed → the experiment file, without id, plan and norm layers.
        described: the keys of [datasets.NAME], where a table lies beside the images.
    """

    name: str
    sites: Sequence[str]
    splits: Sequence[str]
    rounds: int
    runs: Sequence[Run]
    describe: Callable[[int, int], dict[str, Any]]
    described: Mapping[str, Any] | None = None

    def describe_run(self, run: Run, rounds: int | None = None) -> dict[str, Any]:
        """The experiment file of a run; the pooled one has the sites of the federation, whose cases it takes."""
        count = rounds or self.rounds
        plain = self.describe(count, run.seed)
        plain |= {"id": f"{self.name}-{run.split}-{run.arm.name}-{run.seed}", "purpose": "docs/headline.md"}
        if run.arm.plan:
            plain["plan"] = dict(run.arm.plan)
        if run.arm.norm is not None:
            plain["net"] = {**plain["net"], "norm": run.arm.norm}
        if run.arm.visits:
            plain["rounds"] = {**plain["rounds"], "count": count * len(self.sites)}
        return plain


def _order(splits: Sequence[str], seeds: Sequence[int], tiers: Sequence[Sequence[Arm]]) -> tuple[Run, ...]:
    """Each tier whole before the next: seed by seed, split by split."""
    return tuple(Run(split, arm, seed) for tier in tiers for seed in seeds for split in splits for arm in tier)


def _describe_hippocampus(rounds: int, seed: int) -> dict[str, Any]:
    """The demo's experiment with JIP Federated's round: one epoch, Adam reset before it."""
    plain = decathlon_demo(rounds, seed, JIP_SITES, ("MRI",), ("anterior", "posterior"))
    plain["training"] = {**plain["training"], "local_epochs": 1}
    plain["evaluation"] = {**plain["evaluation"], "every": 5}
    return plain


def _describe_breast(rounds: int, seed: int) -> dict[str, Any]:
    """What both tasks on the breast images have in common."""
    return {
        "schema": 1,
        "seed": seed,
        "sites": list(BREAST_SITES),
        "data": {"dataset": "breast"},
        "rounds": {"count": rounds, "enrol_within": "5m", "train_within": "2h"},
        "quorum": {"least_sites": "all"},
    }


def _describe_breast_classes(rounds: int, seed: int) -> dict[str, Any]:
    return _describe_breast(rounds, seed) | {
        "task": {"kind": "classification", "channels": ["US"], "classes": ["benign", "malignant"]},
        "net": {"name": "ResNet18", "width": 16},
        "preprocessing": {"size": [96, 96], "crop": "none", "normalise": "zscore"},
        "augmentation": {"flip": 0.5, "scale_intensity": 0.1, "shift_intensity": 0.1},
        "training": {
            "local_epochs": 1,
            "patch": [96, 96],
            "batch": 16,
            "optimizer": {"name": "Adam", "lr": 1e-3, "reset": True},
            "schedule": {"name": "poly", "over": "rounds"},
        },
        "evaluation": {"every": 5, "select_by": "last"},
    }


def _describe_breast_lesions(rounds: int, seed: int) -> dict[str, Any]:
    return _describe_breast(rounds, seed) | {
        "task": {
            "kind": "segmentation",
            "channels": ["US"],
            "activation": "sigmoid",
            "regions": {"lesion": ["lesion"]},
        },
        "net": {
            "name": "UNet",
            "channels": [16, 32, 64, 128],
            "strides": [2, 2, 2],
            "num_res_units": 2,
            "norm": "batch",
        },
        "preprocessing": {"crop": "none", "normalise": "zscore"},
        "augmentation": {"flip": 0.5, "scale_intensity": 0.1, "shift_intensity": 0.1},
        "training": {
            "local_epochs": 1,
            "patch": [96, 96],
            "batch": 8,
            "optimizer": {"name": "Adam", "lr": 1e-3, "reset": True},
            "schedule": {"name": "poly", "over": "rounds"},
        },
        "evaluation": {"every": 5, "select_by": "last"},
    }


_SEEDS = (1, 2, 3)
_BREAST_TIERS = (
    (arms.FEDAVG, arms.POOLED),
    (arms.ENSEMBLE,),
    (arms.FEDBN_OWN, arms.CYCLIC),
    (arms.FEDPROX, arms.SCAFFOLD),
)

STUDIES = {
    "hippocampus": Study(
        "hippocampus",
        JIP_SITES,
        ("even", "uneven"),
        25,
        _order(
            ("even", "uneven"),
            _SEEDS,
            (
                (arms.FEDAVG, arms.POOLED, arms.CYCLIC),
                (arms.ALONE,),
                (arms.SCAFFOLD, arms.FEDPROX),
                (arms.FEDBN, arms.FEDAVG_BN, arms.POOLED_BN),
            ),
        ),
        _describe_hippocampus,
    ),
    "breast-classes": Study(
        "breast-classes",
        BREAST_SITES,
        ("natural",),
        20,
        _order(("natural",), _SEEDS, _BREAST_TIERS),
        _describe_breast_classes,
        {
            "source": "table",
            "channels": ["US"],
            "table": {
                "images": ["image"],
                "patient": "patient",
                "label": "label",
                "classes": {"benign": "benign", "malignant": "malignant"},
            },
        },
    ),
    "breast-lesions": Study(
        "breast-lesions",
        BREAST_SITES,
        ("natural",),
        20,
        _order(("natural",), _SEEDS, _BREAST_TIERS),
        _describe_breast_lesions,
        {
            "source": "table",
            "channels": ["US"],
            "labels": {"1": "lesion"},
            "table": {"images": ["image"], "patient": "patient", "mask": "mask"},
        },
    ),
}
