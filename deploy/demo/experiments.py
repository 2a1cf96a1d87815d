"""The experiments that `konsil demo` publishes. Their numbers were tuned for two CPU cores.

Both yield the last round's model (`select_by = "last"`), which is also what the baselines are scored by: with a dozen
validation cases a choice among rounds follows noise, and the learning rate falls to nothing by the last round anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def glioma_demo(rounds: int, seed: int, sites: Sequence[str]) -> dict[str, Any]:
    """Phantom gliomas of `deploy.demo.phantoms.phantom`: four contrasts, overlapping regions, a small U-Net.

    Six patches of 32³ from each case an epoch: three sites' round takes about five seconds of one core.
    """
    return {
        "schema": 1,
        "id": f"demo-glioma-{seed}",
        "purpose": "demonstration on phantoms",
        "approval": "none needed: no patient",
        "seed": seed,
        "sites": list(sites),
        "task": {
            "kind": "segmentation",
            "channels": ["T1", "T1c", "T2", "FLAIR"],
            "activation": "sigmoid",
            "regions": {"WT": ["NCR", "ED", "ET"], "TC": ["NCR", "ET"], "ET": ["ET"]},
        },
        "data": {
            "dataset": "glioma",
            "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
            "least_cases": 4,
            "least_used_share": 0.5,
        },
        "net": {"name": "UNet", "channels": [8, 16, 32], "strides": [2, 2], "num_res_units": 1, "norm": "instance"},
        "preprocessing": {"orientation": "RAS", "crop": "foreground", "normalise": "zscore-nonzero"},
        "augmentation": {"flip": 0.5, "scale_intensity": 0.1, "shift_intensity": 0.1},
        "training": {
            "local_epochs": 1,
            "patch": [32, 32, 32],
            "patches_per_case": 6,
            "foreground_share": 0.5,
            "batch": 2,
            "loss": "dice+bce",
            "optimizer": {"name": "Adam", "lr": 5e-3, "reset": True},
            "schedule": {"name": "poly", "over": "rounds"},
        },
        "evaluation": {"every": 1, "overlap": 0.25, "metrics": ["dice"], "select_by": "last"},
        "rounds": _rounds_section(rounds),
        "quorum": {"least_sites": "all"},
    }


def decathlon_demo(
    rounds: int,
    seed: int,
    sites: Sequence[str],
    channels: Sequence[str],
    concepts: Sequence[str],
    regions: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """A real set of the Decathlon layout, tuned on Task04 (hippocampus): labels exclude each other.

    Args:
        channels: the images' modalities. concepts: one region each, where there are no `regions`, which may overlap.
    """
    return {
        "schema": 1,
        "id": f"demo-decathlon-{seed}",
        "purpose": "demonstration on a public data set",
        "seed": seed,
        "sites": list(sites),
        "task": {
            "kind": "segmentation",
            "channels": list(channels),
            "activation": "sigmoid" if regions else "softmax",
            "regions": {name: list(parts) for name, parts in regions.items()}
            if regions
            else {concept: [concept] for concept in concepts},
        },
        "data": {
            "dataset": "decathlon",
            "split": {"train": 0.7, "validation": 0.1, "test": 0.2},
            "least_cases": 4,
            "least_used_share": 0.5,
        },
        "net": {
            "name": "UNet",
            "channels": [8, 16, 32, 64],
            "strides": [2, 2, 2],
            "num_res_units": 2,
            "norm": "instance",
        },
        "preprocessing": {"orientation": "RAS", "crop": "none", "normalise": "zscore"},
        "augmentation": {"scale_intensity": 0.1, "shift_intensity": 0.1},
        "training": {
            "local_epochs": 2,
            "patch": [40, 56, 40],
            "patches_per_case": 1,
            "foreground_share": 0.5,
            "batch": 2,
            "loss": "dice+bce" if regions else "dice+ce",
            "optimizer": {"name": "Adam", "lr": 2e-3, "reset": True},
            "schedule": {"name": "poly", "over": "rounds"},
        },
        "evaluation": {"every": 2, "overlap": 0.25, "metrics": ["dice"], "select_by": "last"},
        "rounds": _rounds_section(rounds),
        "quorum": {"least_sites": "all"},
    }


def _rounds_section(count: int) -> dict[str, Any]:
    return {"count": count, "enrol_within": "5m", "train_within": "10m"}
