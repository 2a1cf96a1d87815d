"""How folders are laid out: BraTS (a folder a case), Medical Segmentation Decathlon and nnU-Net (imagesTr, labelsTr).

A table beside the images lays them out, too: a line a case (`tables`).

Finds files and pairs them; opens none of them but dataset.json. BraTS and the endings of files: `filenames`. Decathlon:
Simpson et al. 2019, arXiv 1902.09063, a 4-D file a case. nnU-Net's raw layout (documentation/dataset_format.md): a file
a channel, NAME_0000.nii.gz.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeGuard

from messages.ground.errors import DataError
from messages.ground.written.identifiers import normalise_identifier
from site_agent.datasets.config import MOST_CONCEPTS, DatasetConfig
from site_agent.datasets.description import DescribedLabels, Description, read_description
from site_agent.datasets.filenames import (
    LABEL,
    FileRoles,
    FoundFiles,
    foreign_stem,
    nifti_stem,
    split_channel,
    strip_copy,
)
from site_agent.datasets.opening import is_folder, show_name
from site_agent.datasets.tables.config import TableColumns
from site_agent.datasets.tables.rows import EncodeValue, map_classes, read_table

IMAGES, LABELS = "imagesTr", "labelsTr"
MOST_FOLDERS = 20
"""Folders of a folder that are looked into for a file to name."""


@dataclass(frozen=True)
class Candidate:
    """Files that belong together by their names.

    Attributes:
        images: by channel. label: None where there is none.
        unreadable: why the case's own folder cannot be looked into.
        rivals: further files of a role (channel, or "label"): one name too many, unless they hold the same.
        unrecognised: the name of a NIfTI file of which nothing says what it is. foreign: that of an image in a format
            that is not read.
        numbers: by channel, as a table without images writes them.
        lost: a file that a table names and that is not there, as the table writes it.
        patient: where a table says it. words: what a table says of the case, as the site writes it.
        cells: of a table's line that nobody understands, what may name a patient.
    """

    key: str
    images: dict[str, Path]
    label: Path | None
    unreadable: str = ""
    rivals: tuple[tuple[str, Path], ...] = ()
    unrecognised: str = ""
    foreign: str = ""
    lost: str = ""
    patient: str = ""
    words: tuple[str, ...] = ()
    numbers: Mapping[str, str] = field(default_factory=dict)
    cells: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What lies in a folder.

    Attributes:
        candidates: by key, sorted.
        labels: integers → concepts, from the operator or from dataset.json.
        channels: decathlon, table: the modalities' names in their order; else empty.
        four_dimensional: one file holds all channels (a single channel may be 3-D all the same).
        ignored: the label's integer of what nobody annotated (nnU-Net).
        stray: names of NIfTI files beside the cases, which belong to none.
        unused: endings of the operator's (`names`) that no file has.
        table: the columns of the table that says what the cases are. remarks: what else the operator should read.
    """

    candidates: tuple[Candidate, ...]
    labels: dict[int, str]
    channels: tuple[str, ...] = ()
    four_dimensional: bool = False
    ignored: int | None = None
    stray: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    table: TableColumns | None = None
    remarks: tuple[str, ...] = ()

    def patient_of(self, candidate: Candidate, config: DatasetConfig) -> str:
        """Whose case it is, in the normal form: a patient has one name in splits, however each file writes it."""
        said = candidate.patient or config.patient_of(candidate.key)
        return normalise_identifier(said) or said

    def names_of(self, candidate: Candidate, config: DatasetConfig) -> tuple[str, ...]:
        """All by which a list may name whose case it is: its key, its patient, what its line of a table has."""
        own = candidate.patient or config.patient_of(candidate.key)
        return (candidate.key, own, *candidate.cells)

    @property
    def any_value(self) -> EncodeValue | None:
        """Takes whatever the table's words mean, for whom no experiment asks; None where a label map says what a case
        is."""
        return None if self.table is None or self.table.label is None else _take_any

    def classes_of(self, candidate: Candidate) -> tuple[str, ...]:
        """What the table says of a case, in the words of experiments."""
        mapped = {} if self.table is None else map_classes(self.table)
        return tuple(mapped.get(word, word) for word in candidate.words)


def _take_any(_words: Sequence[str]) -> tuple[float, ...]:
    return (1.0,)


def find_cases(config: DatasetConfig) -> Layout:
    """Find a data set's cases.

    Raises:
        DataError: the folder is missing, may not be read, or holds no case.
    """
    if config.table is not None:
        return _find_rows(config, config.table)
    layout = _find_brats(config) if config.source == "brats" else _find_pairs(config)
    if not layout.candidates:
        lying = _name_stray(config.path)
        raise DataError(
            "the folder holds no case" + (f", but {lying}" if lying else ""),
            where=str(config.path),
            advice='A "brats" data set has a folder a case with files such as NAME-t1c.nii.gz and NAME-seg.nii.gz'
            if config.source == "brats"
            else 'A "decathlon" data set has imagesTr/NAME.nii.gz (or NAME_0000.nii.gz) and labelsTr/NAME.nii.gz',
        )
    return layout


def labels_of(config: DatasetConfig) -> dict[int, str]:
    """Integers → concepts: the operator's, or for Decathlon those of dataset.json.

    Raises:
        DataError: neither says what the integers mean.
    """
    return dict(describe_labels(config).concepts)


def describe_labels(config: DatasetConfig) -> DescribedLabels:
    """What the labels' integers mean; raises as `labels_of`."""
    if config.labels or config.table is not None:
        return DescribedLabels(config.labels)
    labels = read_description(config.path).read_labels()
    if not labels.concepts:
        raise DataError(
            "nothing says what the labels' integers mean",
            where=str(config.path),
            advice='Add labels = { 1 = "NAME", … } to the data set in site.toml, or a dataset.json',
        )
    if len(set(labels.concepts.values())) > MOST_CONCEPTS:
        raise DataError(f"names more than {MOST_CONCEPTS} labels", where=str(config.path / "dataset.json"))
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


def _find_brats(config: DatasetConfig) -> Layout:
    roles, found, stray = FileRoles(config.names), [], []
    below: list[str] = []
    for entry in list_entries(config.path):
        if not is_folder(entry):
            if nifti_stem(entry.name) is not None:
                stray.append(entry.name)
                continue
            if entry.is_symlink() and not os.path.exists(entry.path):
                found.append(Candidate(entry.name, {}, None, "is a link that leads nowhere"))
            continue
        try:
            files = list_entries(Path(entry.path))
        except DataError as error:  # one locked case must not hide the others
            found.append(Candidate(entry.name, {}, None, error.what))
            continue
        lying = FoundFiles()
        for file in files:
            if (stem := nifti_stem(file.name)) is not None and not is_folder(file):
                lying.add_file(roles.find_role(stem) or roles.find_role(strip_copy(stem)), Path(file.path))
            elif foreign_stem(file.name) is not None and not is_folder(file):
                lying.foreign = lying.foreign or file.name
        if lying.chosen:
            below += [f"{entry.name}/{one.name}" for one in files if is_folder(one) and _holds_nifti(Path(one.path))]
        if lying.chosen or lying.unrecognised or lying.foreign:  # a folder of something else is no case
            found.append(_make_candidate(entry.name, lying))
    remarks = () if not below else (_say_below(below),)
    return Layout(tuple(found), dict(config.labels), stray=tuple(stray), unused=roles.unused, remarks=remarks)


def _make_candidate(key: str, lying: FoundFiles) -> Candidate:
    label = lying.chosen.pop(LABEL, None)
    rivals = tuple(lying.rivals)
    return Candidate(key, lying.chosen, label, "", rivals, lying.unrecognised, lying.foreign)


def _say_below(folders: Sequence[str]) -> str:
    shown = ", ".join(folders[:5]) + (" …" if len(folders) > 5 else "")
    return f"NIfTI files in folders within a case's are not looked at (another rater's labels?): {shown}"


def _find_pairs(config: DatasetConfig) -> Layout:
    """Decathlon, or nnU-Net's raw layout: the names decide, and dataset.json where they leave it open."""
    list_entries(config.path)  # says what is wrong with the data set's own folder first
    roles = FileRoles(config.names)
    images = _list_niftis(config.path / IMAGES)
    labels: dict[str, list[Path]] = {}
    for stem, paths in _list_niftis(config.path / LABELS).items():
        labels.setdefault(roles.strip_label(stem), []).extend(paths)
    description = _describe(config)
    channels = config.channels or description.read_channels()
    if not channels:
        raise DataError(
            "nothing names the images' modalities",
            where=str(config.path),
            advice='Add channels = ["T1"] to the data set in site.toml, or a dataset.json with "modality"',
        )
    described = describe_labels(config)
    raw = is_raw(images, labels, description)
    found: dict[str, FoundFiles] = {}
    for stem, paths in images.items():
        case, role = _place_image(stem, channels) if raw else (stem, "")
        for path in paths:
            found.setdefault(case, FoundFiles()).add_file(role, path)
    for stem, paths in labels.items():
        for path in paths:
            found.setdefault(stem, FoundFiles()).add_file(LABEL, path)
    for place in (IMAGES, LABELS):
        for entry in list_entries(config.path / place):
            if (foreign := foreign_stem(entry.name)) is not None and not is_folder(entry):
                case = (split_channel(foreign) or (foreign,))[0] if raw and place == IMAGES else foreign
                case = roles.strip_label(case) if place == LABELS else case
                found.setdefault(case, FoundFiles()).foreign = entry.name
    candidates = [_make_candidate(key, lying) for key, lying in sorted(found.items())]
    layout = Layout(tuple(candidates), dict(described.concepts), channels, not raw, described.ignored)
    return replace(layout, unused=roles.unused)


def _find_rows(config: DatasetConfig, table: TableColumns) -> Layout:
    list_entries(config.path)  # says what is wrong with the data set's own folder first
    channels, read = config.channels or (), read_table(config.path, table)
    candidates = tuple(
        Candidate(
            row.key,
            {name: path for name, path in zip(channels, row.images, strict=False) if _is_there(path)},
            row.mask if _is_there(row.mask) else None,
            row.fault,
            lost=next((said for said, path in row.files if not _is_there(path)), ""),
            patient=row.patient,
            cells=row.cells,
            words=row.words,
            numbers=dict(zip(channels, row.numbers, strict=False)),
        )
        for row in sorted(read.rows, key=lambda row: row.key)
    )
    if not candidates:
        raise DataError(
            "the table has no line that counts",
            where=str(config.path / table.file),
            advice="Look at table.only in site.toml",
        )
    return Layout(candidates, dict(config.labels), channels, table=table, remarks=read.remarks)


def _is_there(path: Path | None) -> TypeGuard[Path]:
    return path is not None and os.path.exists(path)


def is_raw(images: Collection[str], labels: Collection[str], description: Description) -> bool:
    """Whether files of these names (without endings) are in nnU-Net's raw layout: NAME_0000 and NAME."""
    numbered = {stem: split[0] for stem in images if (split := split_channel(stem)) is not None}
    exact = sum(stem in labels for stem in images)
    paired = sum(case in labels for case in numbered.values())
    if exact and paired:
        return description.is_raw or paired > exact
    return bool(paired) or (bool(numbered) and not exact and description.is_raw)


def _place_image(stem: str, channels: Sequence[str]) -> tuple[str, str | None]:
    """Case and channel of a raw file; the channel is None where it has no number, or one that nothing names."""
    split = split_channel(stem)
    if split is None:
        return stem, None
    return split[0], channels[split[1]] if split[1] < len(channels) else None


def _list_niftis(folder: Path) -> dict[str, list[Path]]:
    """NIfTI files by their names without endings; a second copy beside the first under the first one's name."""
    lying = [
        (stem, Path(entry.path))
        for entry in list_entries(folder)
        if (stem := nifti_stem(entry.name)) is not None and not is_folder(entry)
    ]
    stems = {stem for stem, _ in lying}
    found: dict[str, list[Path]] = {stem: [] for stem, _ in lying if strip_copy(stem) not in stems - {stem}}
    for stem, path in lying:
        found[stem if stem in found else strip_copy(stem)].append(path)
    return found


def _describe(config: DatasetConfig) -> Description:
    """dataset.json; where the operator says all that it could, a broken one does not matter."""
    try:
        description = read_description(config.path)
        description.require_nifti()
    except DataError:
        if config.labels and config.channels:
            return Description(config.path / "dataset.json", {})
        raise
    return description


def _holds_nifti(folder: Path) -> bool:
    with contextlib.suppress(DataError):
        return any(nifti_stem(entry.name) is not None for entry in list_entries(folder))
    return False


def _name_stray(folder: Path, deep: int = 3) -> str:
    """An image that lies in a folder, or in one below it, in words; "" where there is none."""
    try:
        entries = list_entries(folder)
    except DataError:
        return ""
    for entry in entries:
        if nifti_stem(entry.name) is not None:
            return f"NIfTI files such as {show_name(entry.name)}"
        if foreign_stem(entry.name) is not None:
            return f"files such as {show_name(entry.name)}, which are no NIfTI in one file"
    below = (Path(entry.path) for entry in entries[:MOST_FOLDERS] if is_folder(entry)) if deep else ()
    return next((found for place in below if (found := _name_stray(place, deep - 1))), "")
