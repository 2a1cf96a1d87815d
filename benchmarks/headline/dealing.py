"""The sites' folders: links to the cases, dealt out as the headline says."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deploy.demo.partition import find_cases, link_cases, share_evenly
from site_agent.datasets.nifti import read_nifti

CUTS = (0.51, 0.89)
"""Where the cases, in the order of their intensity maximum, are cut for the uneven split."""
DESCRIPTION = {
    "name": "Hippocampus",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "anterior", "2": "posterior"},
    "file_ending": ".nii.gz",
}
WHOLE = ".whole"
SCANNERS = (("GE Logiq 5", "logiq-5"), ("GE Logiq 7", "logiq-7"))


def deal_cases(data: Path, split: str, sites: Sequence[str], seed: int, folder: Path) -> None:
    """Make `folder`/SITE for each site, unless it was made before."""
    if (folder / WHOLE).exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if split == "natural":
        _deal_scanners(data, sites, folder)
    else:
        found = find_cases(data)
        shares = share_evenly(found, len(sites), seed=seed) if split == "even" else _share_by_maximum(data)
        for site, names in zip(sites, shares, strict=True):
            link_cases(found, names, folder / site)
            (folder / site / "dataset.json").write_text(json.dumps(DESCRIPTION))
    (folder / WHOLE).touch()


def _share_by_maximum(data: Path) -> list[list[str]]:
    """Names of cases by their image's largest value, cut at `CUTS`; labels without an image go with the largest."""
    largest = {}
    for name, files in find_cases(data).files.items():
        images = [path for inside, path in files if inside == "imagesTr"]
        largest[name] = float(np.nanmax(read_nifti(images[0]).read_voxels())) if images else float("inf")
    order = sorted(largest, key=lambda name: (largest[name], name))
    complete = sum(value < float("inf") for value in largest.values())
    first, second = (round(cut * complete) for cut in CUTS)
    return [order[:first], order[first:second], order[second:]]


def place_scanner(row: dict[str, str]) -> str:
    """The site of a line of the breast images' table: the smallest two scanners of the first hospital are one."""
    if row["site"] == "poland":
        return "poland"
    return next((site for begins, site in SCANNERS if row["scanner"].startswith(begins)), "others")


def _deal_scanners(data: Path, sites: Sequence[str], folder: Path) -> None:
    with (data / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for site in sites:
        own = [row for row in rows if place_scanner(row) == site]
        target = folder / site
        for inside in ("images", "masks"):
            (target / inside).mkdir(parents=True)
        with (target / "labels.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(own)
        for row in own:
            for path in (row["image"], row["mask"]):
                if path:
                    (target / path).symlink_to((data / path).resolve())
