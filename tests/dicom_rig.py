"""Studies of invented patients in a folder, as a hospital exports them, and the settings that read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.demo.phantoms import dicom, phantom
from site_agent.datasets.config import DatasetConfig
from site_agent.dicom.base import Accounting, Fetched, Has, Looked, SeriesFound, StudyFound, Take
from site_agent.dicom.config import DicomDataset, FolderSource
from site_agent.dicom.prepared import accounts
from site_agent.dicom.preparing import build
from site_agent.dicom.sources import open_source

SECRET = bytes(range(32))
SHAPE, SPACING = (16, 18, 9), (10.0, 10.0, 13.0)
CHANNELS = ("T1", "T1c", "T2", "FLAIR")


@dataclass(frozen=True)
class Phantom:
    """One study as it was written."""

    images: dict[str, npt.NDArray[np.int16]]
    label: npt.NDArray[np.uint8]
    folder: Path
    examined: dicom.Examination


def series_of(obj: Any) -> str:
    """What a series is, by a word of its description."""
    return "SEG" if obj.Modality == "SEG" else str(obj.SeriesDescription)


def write(
    folder: Path,
    patients: Iterable[int],
    *,
    keep: Callable[[Any], bool] = lambda _obj: True,
    change: Callable[[Any], list[Any]] | None = None,
    visit: int = 0,
) -> list[Phantom]:
    """A study a patient; `keep` says which objects are written, `change` what is written instead of one.

    What `change` is given is its own; what `keep` is given is everybody's.
    """
    done = []
    for patient in patients:
        images, label, examined = invent_study(patient, visit)
        place = folder / f"export {patient} {visit}"
        place.mkdir(parents=True)
        if change is None:
            contents = [content for obj, content in encoded_study(patient, visit) if keep(obj)]
        else:
            kept = (obj for obj in dicom.make_objects(images, label, SPACING, examined) if keep(obj))
            contents = [dicom.encode_dataset(one) for obj in kept for one in change(obj)]
        for number, content in enumerate(contents):
            (place / f"IM{number:05d}").write_bytes(content)
        done.append(Phantom(images, label, place, examined))
    return done


@cache
def invent_study(
    patient: int, visit: int
) -> tuple[dict[str, npt.NDArray[np.int16]], npt.NDArray[np.uint8], dicom.Examination]:
    """A study's volumes, read only, and what it is called: most tests want those of the same few patients."""
    images, label = phantom.make_case(
        site_index=0, patient=patient, visit=visit, seed=5, shape=SHAPE, spacing_mm=SPACING
    )
    for array in (*images.values(), label):
        array.setflags(write=False)
    study = dicom.make_uid("study", patient, visit)
    return images, label, dicom.invent_examination(5, 0, patient, visit, f"KH-{patient:04d}", study)


@cache
def encoded_study(patient: int, visit: int) -> list[tuple[Any, bytes]]:
    """Its objects, each with the bytes of its file."""
    images, label, examined = invent_study(patient, visit)
    return [(obj, dicom.encode_dataset(obj)) for obj in dicom.make_objects(images, label, SPACING, examined)]


def settings(folder: Path, **more: Any) -> FolderSource:
    """A data set of these studies, labels by their codes."""
    codes = {name: {"codes": [f"{scheme}:{value}"]} for name, (scheme, value, _) in dicom.CODES.items()}
    plain = {"source": "dicom", "path": str(folder), "channels": list(CHANNELS), "labels": {"concepts": codes}}
    return FolderSource.model_validate({**plain, **more})


def contents(dataset: DatasetConfig) -> dict[str, dict[str, bytes]]:
    """Every file of a prepared data set, by case and name."""
    return {
        case.name: {file.name: file.read_bytes() for file in sorted(case.iterdir())}
        for case in sorted(dataset.path.iterdir())
    }


def quiet(_done: int, _total: int) -> None:
    """Nobody watches."""


def prepared(state: Path, config: FolderSource, **more: Any) -> DatasetConfig:
    return build.prepare_dataset("glioma", config, state, SECRET, quiet, processes=1, **more)


def counted(state: Path) -> Accounting:
    found = accounts.read_accounting(state, "glioma")
    assert found is not None
    return found


class Watched:
    """The real source, and what was asked of it."""

    def __init__(self, config: DicomDataset, state: Path, asked: Counter[str]) -> None:
        self._real, self._asked = open_source(config, state), asked

    @property
    def looked(self) -> Looked:
        return self._real.looked

    def find_studies(self) -> Sequence[StudyFound]:
        self._asked["find"] += 1
        return self._real.find_studies()

    def fetch_series(self, series: SeriesFound, has: Has, take: Take) -> Fetched:
        self._asked["series"] += 1

        def taken(obj: Any) -> None:
            self._asked["objects"] += 1
            take(obj)

        return self._real.fetch_series(series, has, taken)

    def close(self) -> None:
        self._real.close()
