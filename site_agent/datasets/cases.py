"""One case: which files it has, and its voxels, read and looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from messages.reasons import Reason
from site_agent.datasets import look
from site_agent.datasets.barrier import CaseError, hold_faults
from site_agent.datasets.description import MOST_LABEL
from site_agent.datasets.filenames import LABEL, is_picture
from site_agent.datasets.layouts import Candidate, Layout
from site_agent.datasets.nifti import AGREE, SAME_MM, NiftiFile, read_nifti, require_room
from site_agent.datasets.opening import show_name
from site_agent.datasets.tables.pictures import read_picture
from site_agent.datasets.tables.rows import EncodeValue, encode_row
from site_agent.datasets.vault import Vault


@dataclass(frozen=True)
class Case:
    """One case's files.

    Attributes:
        key: the case's name on disk (folder or file stem). Never leaves the site.
        patient: what all time points of one patient share. Never leaves the site.
        images: a path per requested channel; the same path repeated for a 4-D file.
        label: path of the label map; None where the table alone says what the case is.
        volumes: for 4-D files, which volume of `images[i]` is channel i; empty for 3-D files.
        rivals: (one of these paths, another that has the same role): they have to hold the same.
        kin: every patient that has an image in common with this one, itself included; empty where none has.
        numbers: of a table without images, one a channel; then there is no image.
        truth: what the table says of it, as numbers that the net is trained towards; empty where a label map does.
    """

    key: str
    patient: str
    images: tuple[Path, ...]
    label: Path | None
    volumes: tuple[int, ...] = ()
    rivals: tuple[tuple[Path, Path], ...] = ()
    kin: tuple[str, ...] = ()
    truth: tuple[float, ...] = ()
    numbers: tuple[float, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that decides what the case is."""
        labels = () if self.label is None else (self.label,)
        return (*dict.fromkeys(self.images), *labels, *(other for _, other in self.rivals))


@dataclass(frozen=True)
class LoadedCase:
    """Voxels of a case.

    Attributes:
        image: float32 (C, X, Y, Z), channels in the experiment's order.
        label: uint8 (X, Y, Z); value i + 1 means concepts[i], 0 is background.
        concepts: names behind the label's values, sorted; the same for every case of a data set.
        affine: float64 (4, 4), voxel indices → mm in RAS.
    """

    image: npt.NDArray[np.float32]
    label: npt.NDArray[np.uint8]
    concepts: tuple[str, ...]
    affine: npt.NDArray[np.float64]


def assemble_case(
    candidate: Candidate, patient: str, channels: Sequence[str], layout: Layout, encode: EncodeValue | None = None
) -> Case:
    """Pick the files of the channels that the experiment wants; CaseError where one is missing.

    Args:
        encode: makes a case's truth of what the table says; None: a label map is wanted.
    """
    where = candidate.key
    if candidate.unreadable:
        raise CaseError(Reason.UNREADABLE, candidate.unreadable, where=where)
    if layout.table is not None and layout.table.numbers:
        return _assemble_numbers(candidate, patient, channels, layout, encode)
    if not candidate.images:
        raise _lacking(Reason.NO_IMAGE, "there is no image", candidate, layout)
    truth: tuple[float, ...] = ()
    if encode is not None:
        truth = encode_row(candidate.words, layout.table, encode, where)
    elif candidate.label is None:
        raise _lacking(Reason.NO_LABEL, "there is an image and no label", candidate, layout)
    absent = [
        name for name in channels if name not in (layout.channels if layout.four_dimensional else candidate.images)
    ]
    if absent and layout.four_dimensional:
        raise CaseError(Reason.MISSING_CHANNEL, f"no modality {', '.join(absent)}", where=where)
    if absent:
        raise _lacking(Reason.MISSING_CHANNEL, f"no file for {', '.join(absent)}", candidate, layout)
    roles = ("",) * len(channels) if layout.four_dimensional else tuple(channels)
    label = candidate.label if encode is None else None
    chosen = {role: candidate.images[role] for role in roles} | ({} if label is None else {LABEL: label})
    return Case(
        key=candidate.key,
        patient=patient,
        images=tuple(candidate.images[role] for role in roles),
        label=label,
        volumes=tuple(layout.channels.index(name) for name in channels) if layout.four_dimensional else (),
        rivals=tuple((chosen[role], other) for role, other in candidate.rivals if role in chosen),
        truth=truth,
    )


def _assemble_numbers(
    candidate: Candidate, patient: str, channels: Sequence[str], layout: Layout, encode: EncodeValue | None
) -> Case:
    """A case of a table without images."""
    where = candidate.key
    if encode is None:
        raise CaseError(Reason.NO_LABEL, "a table of numbers has no label map", where=where)
    if absent := [name for name in channels if not candidate.numbers.get(name)]:
        raise CaseError(Reason.MISSING_CHANNEL, f"no number for {', '.join(absent)}", where=where)
    numbers = []
    for name in channels:
        try:
            numbers.append(float(candidate.numbers[name]))
        except ValueError:
            said = f"{name} is {candidate.numbers[name]!r:.60}, which is no number (38.5)"
            raise CaseError(Reason.UNREADABLE, said, where=where) from None
    if not all(abs(one) <= look.MOST_VALUE for one in numbers):  # NaN is not, either
        raise CaseError(Reason.NOT_FINITE, f"a number is none up to {look.MOST_VALUE:g}", where=where)
    truth = encode_row(candidate.words, layout.table, encode, where)
    return Case(candidate.key, patient, (), None, truth=truth, numbers=tuple(numbers))


def _lacking(reason: Reason, what: str, candidate: Candidate, layout: Layout) -> CaseError:
    """Why a file is missing: perhaps it is there, and nothing says what it is."""
    if candidate.lost:
        what += f": the table names {show_name(candidate.lost)}, and no such file lies in the folder"
        advice = "Paths begin at the data set's folder, with the file's ending; capitals count"
        return CaseError(reason, what, where=candidate.key, advice=advice)
    if not candidate.unrecognised and candidate.foreign:
        what += f" that is NIfTI in one file; there is {show_name(candidate.foreign)}"
        return CaseError(reason, what, where=candidate.key, advice="Convert it to NIfTI in one file (.nii.gz)")
    if not candidate.unrecognised:
        return CaseError(reason, what, where=candidate.key)
    what += f", and nothing says what {show_name(candidate.unrecognised)} is"
    advice = 'Say in site.toml how files are named: names = { label = ["ENDING"], T1 = ["ENDING"] }'
    if layout.channels:
        advice = (
            f"Files are NAME_0000 to NAME_{len(layout.channels) - 1:04}: name each modality under channels in site.toml"
        )
    return CaseError(reason, what, where=candidate.key, advice=advice)


def read_case(case: Case, labels: Mapping[int, str], vault: Vault | None, ignored: int | None = None) -> LoadedCase:
    """Read one case's voxels and check them.

    Args:
        labels: integers → concepts. vault: opens files that are encrypted.
        ignored: the label's integer of what nobody annotated.

    Raises:
        CaseError: with the reason under which to count the case.
    """
    with hold_faults(case.key):
        rivals = _Rivals(case, vault)
        first = case.images[0] if case.label is None else case.label
        lying = rivals.read_file(first, Reason.AMBIGUOUS_SERIES if case.label is None else Reason.SEVERAL_LABELS)
        axes = 4 if case.label is None and case.volumes and len(lying.shape) == 4 else 3
        if len(lying.shape) != axes:
            what = f"the {'image' if case.label is None else 'label map'} has {len(lying.shape)} axes, not 3"
            raise CaseError(Reason.SHAPE_MISMATCH, what, where=lying.name)
        grid = lying.shape[:3]
        look.judge_geometry(lying.affine, grid, lying.name)
        require_room(grid, np.dtype((np.float32, (len(case.images),))), lying.name)
        if case.label is None:
            label, concepts = _no_labels(lying)
        else:
            label, concepts = _map_labels(lying, labels, ignored)
        image = np.empty((len(case.images), *grid), dtype=np.float32)
        for path in dict.fromkeys(case.images):
            file = lying if path == first else rivals.read_file(path, Reason.AMBIGUOUS_SERIES, grid)
            _require_grid(case, file, lying)
            voxels = file.read_voxels()
            for channel, own in enumerate(case.images):
                if own == path:
                    image[channel] = voxels[..., case.volumes[channel]] if voxels.ndim == 4 else voxels
                    look.judge_values(image[channel], file.name)
                    look.judge_slices(image[channel], file.name)
                    if case.label is not None:
                        look.judge_against_label(image[channel], lying.read_voxels, file.name)
        return LoadedCase(image, label, concepts, lying.affine)


def _require_grid(case: Case, file: NiftiFile, label: NiftiFile) -> None:
    """Raise CaseError where an image does not lie on its label's grid."""
    axes = 4 if case.volumes and len(file.shape) == 4 else 3
    if len(file.shape) != axes or file.shape[:3] != label.shape[:3]:
        what = f"shape {file.shape}, the {'first image' if case.label is None else 'label'}'s is {label.shape}"
        raise CaseError(Reason.SHAPE_MISMATCH, what, where=file.name)
    held = file.shape[3] if axes == 4 else 1
    if case.volumes and max(case.volumes) >= held:
        raise CaseError(Reason.MISSING_CHANNEL, f"holds {held} of the modalities only", where=file.name)
    if not _is_one_grid(file, label):
        raise CaseError(Reason.AFFINE_MISMATCH, "position or spacing differs from the label's", where=file.name)


def _is_one_grid(one: NiftiFile, other: NiftiFile) -> bool:
    """Whether two affines are the same but for rounding: each number, and where they put the last voxel."""
    x, y, z = (length - 1 for length in other.shape[:3])
    ends = np.array([(0, 0, 0, 1), (x, 0, 0, 1), (0, y, 0, 1), (0, 0, z, 1), (x, y, z, 1)]).T
    apart = float(np.abs((one.affine - other.affine) @ ends).max())
    size = float(np.linalg.norm(other.affine[:3, :3], axis=0).min())
    return bool(np.allclose(one.affine, other.affine, atol=SAME_MM, rtol=0)) and apart <= AGREE * size


class _Rivals:
    """Files that have the role of another one: a copy is no harm, anything else is a question for the operator."""

    def __init__(self, case: Case, vault: Vault | None) -> None:
        self._case, self._vault = case, vault

    def read_file(self, path: Path, reason: Reason, grid: tuple[int, ...] | None = None) -> NiftiFile:
        """Read one of the case's files; CaseError (`reason`) where another of its role does not hold the same.

        Args:
            grid: as for `read_nifti`.
        """
        others = [other for chosen, other in self._case.rivals if chosen == path]
        if not others:
            if is_picture(path.name):
                return read_picture(path, grid, mask=path == self._case.label)
            return read_nifti(path, self._vault, grid)
        try:
            file = read_nifti(path, self._vault)
            differ = not all(file.holds_same(read_nifti(other, self._vault)) for other in others)
        except CaseError as error:
            differ, problem = True, f" ({show_name(error.where)} {error.what})"
        else:
            problem = ""
        if differ:
            named = ", ".join(show_name(other.name) for other in others)
            advice = 'Leave one out, or say in site.toml which one counts: names = { label = ["ENDING"] }'
            raise CaseError(reason, f"there is {named} too, and it differs{problem}", where=path.name, advice=advice)
        return file


def _no_labels(file: NiftiFile) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    return np.zeros(file.shape[:3], dtype=np.uint8), ()


def _map_labels(
    file: NiftiFile, labels: Mapping[int, str], ignored: int | None
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """A site's integers → positions in the sorted concepts, plus one."""
    whole = file.read_whole()
    concepts = tuple(sorted(set(labels.values())))
    table, known = np.zeros(MOST_LABEL + 1, np.uint8), np.zeros(MOST_LABEL + 1, np.bool_)
    known[0] = True
    for value, concept in labels.items():
        table[value], known[value] = concepts.index(concept) + 1, True
    within = np.clip(whole, 0, min(MOST_LABEL, np.iinfo(whole.dtype).max)).astype(np.uint16)
    strange = ~known[within] | (within != whole)
    if strange.any():
        unknown = [int(value) for value in np.unique(whole[strange])]
        what = f"integers without a concept: {unknown[:8]}"
        if ignored in unknown:
            what = f'holds {ignored}, which dataset.json calls "ignore": nobody annotated these voxels'
        raise CaseError(Reason.UNKNOWN_LABEL_VALUE, what, where=file.name)
    return table[within], concepts
