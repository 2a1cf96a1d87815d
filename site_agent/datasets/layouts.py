"""How folders are laid out: BraTS (a folder a case) and Medical Segmentation Decathlon (imagesTr, labelsTr).

Finds files and pairs them; opens none of them but dataset.json and, in a Decathlon folder, one header.
BraTS: Baid et al. 2021, arXiv 2107.02314 (names of 2017-2021), and the BraTS 2023 challenge's data page (names
since then). Decathlon: Simpson et al. 2019, arXiv 1902.09063.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from messages.ground.errors import DataError
from messages.ground.written.documents import read_json
from site_agent.datasets.config import DatasetConfig

_SUFFIX = re.compile(r"\.nii(\.gz)?(\.enc)?$", re.IGNORECASE)
_BRATS_ENDINGS = {
    "t1": "T1", "t1n": "T1",
    "t1ce": "T1c", "t1c": "T1c", "t1gd": "T1c",
    "t2": "T2", "t2w": "T2",
    "flair": "FLAIR", "t2f": "FLAIR",
    "seg": "label",
}  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """Files that belong together by their names. `images` by channel; label None where there is none;
    `unreadable` says why the case's own folder cannot be looked into."""

    key: str
    images: dict[str, Path]
    label: Path | None
    unreadable: str = ""


@dataclass(frozen=True)
class Layout:
    """What lies in a folder.

    Attributes:
        candidates: by key, sorted.
        labels: integers → concepts, from the operator or from dataset.json.
        channels: decathlon: the modalities' names in the order of the 4-D files' volumes; else empty.
        four_dimensional: one file holds all channels (a single channel may be 3-D all the same).
    """

    candidates: tuple[Candidate, ...]
    labels: dict[int, str]
    channels: tuple[str, ...] = ()
    four_dimensional: bool = False


def find_cases(config: DatasetConfig) -> Layout:
    """Find a data set's cases.

    Raises:
        DataError: the folder is missing, may not be read, or holds no case.
    """
    if config.source == "brats":
        candidates = _find_brats(config.path)
        layout = Layout(candidates, dict(config.labels))
    else:
        channels = config.channels or _json_channels(config.path)
        layout = Layout(_find_decathlon(config.path), labels_of(config), channels, True)
    if not layout.candidates:
        raise DataError(
            "the folder holds no case",
            where=str(config.path),
            advice='A "brats" data set has a folder a case with files such as NAME-t1c.nii.gz and NAME-seg.nii.gz'
            if config.source == "brats"
            else 'A "decathlon" data set has imagesTr/NAME.nii.gz and labelsTr/NAME.nii.gz',
        )
    return layout


def labels_of(config: DatasetConfig) -> dict[int, str]:
    """Integers → concepts: the operator's, or for Decathlon those of dataset.json.

    Raises:
        DataError: neither says what the integers mean.
    """
    if config.labels:
        return dict(config.labels)
    content = _dataset_json(config.path)
    named = content.get("labels") if content else None
    labels: dict[int, str] = {}
    for key, name in (named or {}).items() if isinstance(named, dict) else ():
        if not str(key).isdecimal() or not isinstance(name, str):
            raise DataError(
                '"labels" does not map integers to names',
                where=str(config.path / "dataset.json"),
                advice="Name the integers under labels in site.toml instead",
            )
        if int(key) != 0:
            labels[int(key)] = re.sub(r"[^A-Za-z0-9_-]+", "_", name.strip())
    if not labels:
        raise DataError(
            "nothing says what the labels' integers mean",
            where=str(config.path),
            advice='Add labels = { 1 = "NAME", … } to the data set in site.toml, or a dataset.json',
        )
    return labels


def _tell_why(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else type(error).__name__


def list_entries(folder: Path) -> list[os.DirEntry[str]]:
    """A folder's entries by name, hidden ones (`.DS_Store`, macOS's `._case`) left out.

    Raises:
        DataError: there is no such folder, or it may not be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda e: e.name)
    except FileNotFoundError:
        raise DataError(
            "there is no such folder",
            where=str(folder),
            advice="Check the data set's path, and that it is mounted",
        ) from None
    except NotADirectoryError:
        raise DataError("is not a folder", where=str(folder), advice="Name the data set's folder") from None
    except PermissionError:
        raise DataError(
            "no permission to read the folder",
            where=str(folder),
            advice="Let the site agent's user read it (and enter every folder above it)",
        ) from None
    except OSError as error:
        raise DataError(
            f"cannot be read ({_tell_why(error)})", where=str(folder), advice="Check disk and mount"
        ) from None


def nifti_stem(name: str) -> str | None:
    """A NIfTI file's name without its ending (".enc": encrypted, `vault`); None for another file."""
    return _SUFFIX.sub("", name) if _SUFFIX.search(name) else None


def _find_brats(path: Path) -> tuple[Candidate, ...]:
    found = []
    for entry in list_entries(path):
        if not entry.is_dir():
            continue
        images: dict[str, Path] = {}
        label = None
        try:
            files = list_entries(Path(entry.path))
        except DataError as error:  # one locked case must not hide the others
            found.append(Candidate(entry.name, {}, None, error.what))
            continue
        for file in files:
            name = nifti_stem(file.name)
            channel = _BRATS_ENDINGS.get(re.split(r"[-_]", name)[-1].lower()) if name else None
            if channel == "label":
                label = label or Path(file.path)
            elif channel is not None:
                images.setdefault(channel, Path(file.path))
        if images or label is not None:  # a folder of something else is no case
            found.append(Candidate(entry.name, images, label))
    return tuple(found)


def _find_decathlon(path: Path) -> tuple[Candidate, ...]:
    list_entries(path)  # says what is wrong with the data set's own folder first
    by_name: list[dict[str, Path]] = []
    for folder in ("imagesTr", "labelsTr"):
        files = [(nifti_stem(file.name), Path(file.path)) for file in list_entries(path / folder)]
        by_name.append({name: file for name, file in files if name})
    images, labels = by_name
    return tuple(
        Candidate(name, {"": images[name]} if name in images else {}, labels.get(name))
        for name in sorted(images.keys() | labels.keys())
    )


def _dataset_json(path: Path) -> dict[str, Any] | None:
    """dataset.json where it exists."""
    file = path / "dataset.json"
    if not os.path.lexists(file):
        return None
    content = read_json(file, refuse=DataError, advice="Mend it, or move it away")
    if not isinstance(content, dict):
        raise DataError("is not a JSON object", where=str(file), advice="Mend it, or move it away")
    return content


def _json_channels(path: Path) -> tuple[str, ...]:
    """Modalities' names by dataset.json ("modality": {"0": "MRI"}; "channel_names" in nnU-Net's dialect)."""
    content = _dataset_json(path) or {}
    named = content.get("modality", content.get("channel_names"))
    if not isinstance(named, dict) or not named or not all(str(key).isdecimal() for key in named):
        raise DataError(
            "nothing names the images' modalities",
            where=str(path),
            advice='Add channels = ["T1"] to the data set in site.toml, or a dataset.json with "modality"',
        )
    return tuple(str(named[key]) for key in sorted(named, key=lambda key: int(key)))
