"""Each site's images: phantoms written by worker processes while the broker starts, or a real set dealt out.

python -m deploy.demo.data --site INDEX:FOLDER ... --cases N --seed S     writes phantoms
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.demo.layout import DemoLayout
from deploy.demo.processes import Child, Children
from messages.ground.errors import DataError


@dataclass(frozen=True, slots=True)
class PhantomShape:
    """Size of the phantoms; the defaults of `deploy.demo.phantoms.phantom` where None."""

    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None


def start_writing(
    children: Children, layout: DemoLayout, sites: Sequence[str], cases: int, seed: int, size: PhantomShape
) -> list[Child]:
    """Start as many workers as there are cores (at most one a site); they end when all is written."""
    workers = max(1, min(os.cpu_count() or 1, len(sites)))
    started = []
    for worker in range(workers):
        command = [sys.executable, "-m", "deploy.demo.data", "--cases", str(cases), "--seed", str(seed)]
        if size.shape:
            command += ["--shape", *map(str, size.shape)]
        if size.spacing_mm:
            command += ["--spacing", *map(str, size.spacing_mm)]
        for index in range(worker, len(sites), workers):
            command += ["--site", f"{index}:{layout.data / sites[index]}"]
        name = f"data-{worker + 1}"
        started.append(children.start_child(name, command, layout.log_of(name), environment={"OMP_NUM_THREADS": "1"}))
    return started


def count_written(layout: DemoLayout, sites: Sequence[str]) -> int:
    """Case folders there are by now."""
    return sum(
        sum(entry.is_dir() for entry in folder.iterdir())
        for folder in (layout.data / site for site in sites)
        if folder.is_dir()
    )


def phantom_source(layout: DemoLayout, site: str, index: int) -> dict[str, Any]:
    """[datasets.NAME] of a site that holds phantoms."""
    from deploy.demo.phantoms import phantom

    labels = {str(integer): concept for integer, concept in phantom.site_labels(index).items()}
    return {
        "source": "brats",
        "path": layout.data / site,
        "labels": labels,
        "patient_id": phantom.patient_id(index),
    }


@dataclass(frozen=True, slots=True)
class RealSet:
    """What a folder of Decathlon's or nnU-Net's layout says of itself.

    Attributes:
        regions: name → concepts, where dataset.json names regions that overlap; else empty.
    """

    path: Path
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    regions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def describe_source(self, folder: Path) -> dict[str, Any]:
        """[datasets.NAME] of a site that holds its share in `folder`."""
        labels = {str(integer): concept for integer, concept in self.labels.items()}
        return {"source": "decathlon", "path": folder, "labels": labels, "channels": list(self.channels)}


def read_real(path: Path) -> RealSet:
    """Channels and labels of a real set: from its dataset.json, else MRI channels and the integers that occur.

    Raises:
        DataError: no such folder, neither Decathlon's nor nnU-Net's layout, or a dataset.json that is none.
    """
    from site_agent.datasets.description import read_description

    for folder in (path, path / "imagesTr", path / "labelsTr"):
        if not folder.is_dir():
            raise DataError(
                "there is no such folder",
                where=str(folder),
                advice="--data takes a folder of the Medical Segmentation Decathlon's layout (imagesTr, labelsTr)",
            )
    description = read_description(path)
    description.require_nifti()
    named = description.read_labels()
    channels = tuple(_make_concept(name) for name in description.read_channels()) or _number_channels(path)
    if len(set(channels)) != len(channels):
        channels = tuple(f"channel-{number}" for number in range(len(channels)))
    if not named.concepts:
        labels = {value: f"label-{value}" for value in _label_values(path / "labelsTr")}
        # The two labels of Task04 are known by name; of any other set the integers are all that is known.
        if set(labels) == {1, 2} and "hippocampus" in path.name.lower():
            labels = {1: "anterior", 2: "posterior"}
        return RealSet(path, channels, labels)
    labels = {value: _make_concept(named.names.get(value, f"label-{value}")) for value in named.concepts}
    if len(set(labels.values())) != len(labels) and len(set(named.names.values())) == len(named.names):
        labels = {value: f"label-{value}" for value in labels}  # names that only differ in what a concept cannot hold
    regions: dict[str, Sequence[str]] = {}
    if named.regions:
        single: dict[str, Sequence[str]] = {
            _make_concept(name): (labels[value],) for value, name in named.names.items()
        }
        several: dict[str, Sequence[str]] = {
            _make_concept(name): tuple(sorted({labels[value] for value in values if value}))
            for name, values in named.regions.items()
        }
        regions = single | several
    return RealSet(path, channels, labels, regions)


def _make_concept(name: str) -> str:
    """A name of the set as a concept: letters, digits, - and _."""
    clean = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in str(name)).strip("-")
    return (clean if clean[:1].isalpha() else f"label-{clean}")[:32]


def _number_channels(path: Path) -> tuple[str, ...]:
    """Names for modalities that nothing names: as many as nnU-Net's files are numbered, else one."""
    from site_agent.datasets.description import Description
    from site_agent.datasets.filenames import nifti_stem, split_channel
    from site_agent.datasets.layouts import is_raw, list_entries

    images, labels = (
        {stem for entry in list_entries(path / folder) if (stem := nifti_stem(entry.name))}
        for folder in ("imagesTr", "labelsTr")
    )
    if not is_raw(images, labels, Description(path / "dataset.json", {})):
        return ("MRI",)
    last = max((split[1] for stem in images if (split := split_channel(stem)) is not None), default=0)
    return ("MRI",) if last == 0 else tuple(f"channel-{number}" for number in range(last + 1))


def _label_values(folder: Path) -> list[int]:
    """The integers above 0 that the first readable labels hold."""
    import numpy as np

    from site_agent.datasets.barrier import CaseError
    from site_agent.datasets.filenames import nifti_stem
    from site_agent.datasets.layouts import list_entries
    from site_agent.datasets.nifti import read_nifti

    found: set[int] = set()
    seen = 0
    for entry in list_entries(folder):
        if nifti_stem(entry.name) is None:
            continue
        try:
            voxels = read_nifti(Path(entry.path)).read_voxels()
        except CaseError:
            continue  # the survey of the site that gets it counts it
        found |= {int(value) for value in np.unique(voxels[np.isfinite(voxels)]) if value > 0}
        seen += 1
        if seen == 8:
            break
    if not found:
        raise DataError("no label could be read", where=str(folder), advice="Are they NIfTI files?")
    return sorted(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write phantoms for some sites; the worker's entry point."""
    from deploy.demo.phantoms import phantom

    parser = argparse.ArgumentParser(prog="python -m deploy.demo.data")
    parser.add_argument("--site", action="append", required=True, help="INDEX:FOLDER")
    parser.add_argument("--cases", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--shape", type=int, nargs=3)
    parser.add_argument("--spacing", type=float, nargs=3)
    options = parser.parse_args(arguments)
    more: dict[str, Any] = {}
    if options.shape:
        more["shape"] = tuple(options.shape)
    if options.spacing:
        more["spacing_mm"] = tuple(options.spacing)
    for site in options.site:
        index, _, folder = site.partition(":")
        try:
            phantom.write_site(Path(folder), site_index=int(index), cases=options.cases, seed=options.seed, **more)
        except OSError as error:
            sys.stderr.write(f"konsil: {folder}: the images cannot be written ({error.strerror})\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
