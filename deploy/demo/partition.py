"""Splits a real data set (imagesTr, labelsTr) among a demo's sites, as folders of symbolic links.

What is untidy goes along (an image without a label, a label without an image), so that some site meets it,
counts it and says so, as in a hospital.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from messages.ground.errors import DataError
from site_agent.datasets.description import Description, read_description
from site_agent.datasets.filenames import nifti_stem, split_channel
from site_agent.datasets.layouts import is_raw, list_entries


@dataclass(frozen=True)
class FoundCases:
    """What lies in a real set, by the names of its cases."""

    source: Path
    files: Mapping[str, Sequence[tuple[str, Path]]]
    """Case → its files, each with the folder that it lies in."""

    def is_untidy(self, name: str) -> bool:
        """Whether an image lacks its label, or a label its image."""
        return len({folder for folder, _ in self.files[name]}) < 2


def find_cases(source: Path) -> FoundCases:
    """The cases of a folder of Decathlon's layout or nnU-Net's raw one; raises DataError where it cannot be read."""
    files: dict[str, list[tuple[str, Path]]] = {}
    lying = {
        folder: [
            (stem, Path(entry.path)) for entry in list_entries(source / folder) if (stem := nifti_stem(entry.name))
        ]
        for folder in ("imagesTr", "labelsTr")
    }
    stems = {folder: {stem for stem, _ in found} for folder, found in lying.items()}
    raw = is_raw(stems["imagesTr"], stems["labelsTr"], _describe(source))
    for folder, found in lying.items():
        for stem, path in found:
            split = split_channel(stem) if raw and folder == "imagesTr" else None
            files.setdefault(split[0] if split else stem, []).append((folder, path))
    return FoundCases(source, {name: files[name] for name in sorted(files)})


def deal_patients(
    source: Path, targets: list[Path], *, seed: int, patient_of: Callable[[str], str] = lambda name: name
) -> list[int]:
    """Deal out the patients of `source` evenly to `targets`, by seed.

    Args:
        source: folder with imagesTr, labelsTr and perhaps dataset.json; Decathlon's layout or nnU-Net's raw one.
        targets: one folder a site; made here. A target that holds something is refused.
        seed: same seed and same source, same partition.
        patient_of: the patient in a case's name; a patient's cases all go to one site.

    Returns:
        Number of cases (by name, untidy ones included) of each site.

    Raises:
        DataError: the source is missing or unreadable, holds fewer patients than there are targets, or a target
            is not empty.
    """
    found = find_cases(source)
    shares = share_evenly(found, len(targets), seed=seed, patient_of=patient_of)
    for names, target in zip(shares, targets, strict=True):
        link_cases(found, names, target)
    return [len(names) for names in shares]


def share_evenly(
    found: FoundCases, sites: int, *, seed: int, patient_of: Callable[[str], str] = lambda name: name
) -> list[list[str]]:
    """The names of each site's cases; see `deal_patients`."""
    patients: dict[str, list[str]] = {}
    for name in found.files:
        patients.setdefault(patient_of(name), []).append(name)
    if len(patients) < sites:
        raise DataError(
            f"{len(patients)} patients cannot be split among {sites} sites",
            where=str(found.source),
            advice="Ask for fewer sites with --sites",
        )
    order = [sorted(patients)[i] for i in np.random.default_rng(seed).permutation(len(patients))]
    # complete and untidy cases are dealt apart, so that no site gets all that is untidy or fewer to train on
    order.sort(key=lambda patient: any(found.is_untidy(name) for name in patients[patient]))
    return [[name for patient in order[site::sites] for name in patients[patient]] for site in range(sites)]


def link_cases(found: FoundCases, names: Sequence[str], target: Path) -> None:
    """Make a site's folder of links to its cases; raises DataError where it holds something."""
    _prepare_target(target)
    for name in names:
        for folder, file in found.files[name]:
            (target / folder / file.name).symlink_to(file.resolve())
    description = found.source / "dataset.json"
    if description.is_file():
        shutil.copyfile(description, target / "dataset.json")


def _describe(source: Path) -> Description:
    try:
        return read_description(source)
    except DataError:  # the sites that get it say so
        return Description(source / "dataset.json", {})


def _prepare_target(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError("is not empty", where=str(target), advice="Name a new folder, or remove this one")
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True, exist_ok=True)
