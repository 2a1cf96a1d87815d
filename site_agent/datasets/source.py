"""From a folder to cases: which there are, which are usable, which are left out and why; and one case's voxels.

A survey opens every file, one case at a time: a hospital's folder holds truncated copies, images without labels
and labels with unknown integers, and each must be counted under its reason instead of ending a training run.
Details (names, paths) are for the operator at the site; only the counts may leave it.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from messages.ground.errors import DataError
from messages.reasons import ADVICE, Reason
from site_agent.datasets import layouts
from site_agent.datasets.cache import VerdictCache
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.consent import Consent, WithdrawnList, compare_list
from site_agent.datasets.remarks import remark_on_content, remark_on_names, remark_on_parts
from site_agent.datasets.twins import Content, digest_content, find_kin
from site_agent.datasets.vault import SUFFIX, Vault

AFFINE_TOLERANCE_MM = 1e-2
"""Headers store affines as float32, through sform or quaternion: the same grid differs by rounding."""


_NIFTI2 = ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))


@dataclass(frozen=True)
class Case:
    """One case's files.

    Attributes:
        key: the case's name on disk (folder or file stem). Never leaves the site.
        patient: what all time points of one patient share. Never leaves the site.
        images: a path per requested channel; the same path repeated for a 4-D file.
        label: path of the label map.
        volumes: for 4-D files, which volume of `images[i]` is channel i; empty for 3-D files.
        kin: every patient that has an image in common with this one, itself included; empty where none has.
    """

    key: str
    patient: str
    images: tuple[Path, ...]
    label: Path
    volumes: tuple[int, ...] = ()
    kin: tuple[str, ...] = ()


@dataclass(frozen=True)
class LeftOut:
    """One case that is not used: for the operator's eyes, not for an event."""

    key: str
    reason: Reason
    text: str


@dataclass(frozen=True)
class Survey:
    """What a folder holds. `found` = len(cases) + sum of left_out.

    Attributes:
        consent: what became of the list of the withdrawn; None where there is none.
        remarks: what else the operator should read; names cases, as `details` does.
    """

    found: int
    cases: tuple[Case, ...]
    left_out: dict[Reason, int]
    details: tuple[LeftOut, ...]
    consent: Consent | None = None
    remarks: tuple[str, ...] = ()


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


class CaseError(DataError):
    """One case cannot be used; `reason` is the code to count it under."""

    def __init__(self, reason: Reason, what: str, *, where: str = "") -> None:
        self.reason = reason
        super().__init__(what, where=where, advice=ADVICE[reason])


def survey_cases(
    config: DatasetConfig,
    channels: Sequence[str],
    concepts: Collection[str],
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
    vault: Vault | None = None,
) -> Survey:
    """Find and check every case of a data set, holding one case's voxels at a time.

    Args:
        config: the operator's description.
        channels: the experiment's channels, in its order.
        concepts: every concept that the experiment's task names.
        progress: called with (cases looked at, cases found).
        cache: file (SQLite) of earlier verdicts by path, size and time of change, for a fast second survey.
        vault: opens files that are encrypted (".nii.gz.enc").

    Raises:
        DataError: the folder or dataset.json cannot be read, holds no case, or its labels do not name each of
            `concepts`; the list of the withdrawn cannot be read or is in doubt (`consent.ListUnclear`).
    """
    layout = layouts.find_cases(config)
    missing = sorted(set(concepts) - set(layout.labels.values()))
    if missing:
        raise DataError(
            f"the data set's labels do not name {', '.join(missing)}",
            where=str(config.path),
            advice=f"Map integers to these concepts under labels in site.toml (now: {_show_labels(layout.labels)})",
        )
    listed = WithdrawnList.read_list(config.withdrawn)
    names = {candidate.key: config.patient_of(candidate.key) for candidate in layout.candidates}
    told = compare_list(listed, names.items())
    cases: list[Case] = []
    details: list[LeftOut] = []
    contents: dict[str, Content] = {}
    lost: set[str] = set()
    with VerdictCache(cache, _rules_of_verdict(layout, channels)) as verdicts:
        for done, candidate in enumerate(layout.candidates, start=1):
            patient = names[candidate.key]
            try:
                if listed.covers(candidate.key, patient):
                    lost |= _digest_withdrawn(candidate, patient, channels, layout, vault)
                    raise CaseError(Reason.WITHDRAWN, "consent was withdrawn", where=candidate.key)
                case = _assemble_case(candidate, patient, channels, layout)
                contents[case.key] = _judge_case(case, layout, verdicts, vault)
                cases.append(case)
            except CaseError as error:
                details.append(LeftOut(candidate.key, error.reason, str(error)))
            if progress is not None:
                progress(done, len(layout.candidates))
    withdrawn = [detail.key for detail in details if detail.reason is Reason.WITHDRAWN]
    for case in [case for case in cases if lost.intersection(contents[case.key].images)]:
        cases.remove(case)
        del contents[case.key]
        details.append(LeftOut(case.key, Reason.WITHDRAWN, "its images are those of somebody who has withdrawn"))
    kin = find_kin(contents, names.__getitem__)
    counts = Counter(detail.reason for detail in details)
    return Survey(
        found=len(layout.candidates),
        cases=tuple(replace(case, kin=kin.get(case.patient, ())) for case in sorted(cases, key=lambda case: case.key)),
        left_out={reason: counts[reason] for reason in sorted(counts)},
        details=tuple(details),
        consent=told,
        remarks=(
            *remark_on_names(config, list(names)),
            *remark_on_parts(withdrawn, contents, names.__getitem__),
            *remark_on_content(contents, names.__getitem__, layout.labels),
        ),
    )


def load_case(case: Case, config: DatasetConfig, vault: Vault | None = None) -> LoadedCase:
    """Read one case's voxels and check them; `vault` opens files that are encrypted.

    Raises:
        CaseError: a DataError whose `reason` says under which code to count the case.
    """
    return _read_case(case, layouts.labels_of(config), vault)


def _show_labels(labels: dict[int, str]) -> str:
    return ", ".join(f"{value} = {concept}" for value, concept in sorted(labels.items())) or "none"


def _rules_of_verdict(layout: layouts.Layout, channels: Sequence[str]) -> str:
    """What a verdict depends on beside the files: another mapping or other channels, another verdict."""
    return f"2|{sorted(layout.labels.items())}|{list(channels)}|{layout.channels}"


def _assemble_case(candidate: layouts.Candidate, patient: str, channels: Sequence[str], layout: layouts.Layout) -> Case:
    """Pick the files of the channels that the experiment wants."""
    if candidate.unreadable:
        raise CaseError(Reason.UNREADABLE, candidate.unreadable, where=candidate.key)
    if not candidate.images:
        raise CaseError(Reason.NO_IMAGE, "there is a label and no image", where=candidate.key)
    if candidate.label is None:
        raise CaseError(Reason.NO_LABEL, "there is an image and no label", where=candidate.key)
    if layout.four_dimensional:
        path = next(iter(candidate.images.values()))
        absent = [name for name in channels if name not in layout.channels]
        if absent:
            raise CaseError(Reason.MISSING_CHANNEL, f"no modality {', '.join(absent)}", where=candidate.key)
        volumes = tuple(layout.channels.index(name) for name in channels)
        return Case(candidate.key, patient, (path,) * len(channels), candidate.label, volumes)
    absent = [name for name in channels if name not in candidate.images]
    if absent:
        raise CaseError(Reason.MISSING_CHANNEL, f"no file for {', '.join(absent)}", where=candidate.key)
    return Case(candidate.key, patient, tuple(candidate.images[name] for name in channels), candidate.label)


def _judge_case(case: Case, layout: layouts.Layout, verdicts: VerdictCache, vault: Vault | None) -> Content:
    """What a case holds; raise what is wrong with it. From the cache where its files did not change."""
    files = (*dict.fromkeys(case.images), case.label)
    known = verdicts.get_verdict(case.key, files)
    if known is None:
        try:
            content = _digest_case(_read_case(case, layout.labels, vault), vault)
        except CaseError as error:
            verdicts.put_verdict(case.key, files, error.reason, error.what)
            raise
        verdicts.put_verdict(case.key, files, None, "", content)
        return content
    if known.reason is not None:
        raise CaseError(known.reason, known.text, where=case.key)
    return known.content or Content()


def _digest_case(loaded: LoadedCase, vault: Vault | None) -> Content:
    key = b"" if vault is None else vault.make_key("twins")
    return digest_content(loaded.image, loaded.label, loaded.affine, key)


def _digest_withdrawn(
    candidate: layouts.Candidate, patient: str, channels: Sequence[str], layout: layouts.Layout, vault: Vault | None
) -> set[str]:
    """Digests of the images of somebody who has withdrawn, to leave out copies under other names; kept nowhere."""
    try:
        case = _assemble_case(candidate, patient, channels, layout)
        return set(_digest_case(_read_case(case, layout.labels, vault), vault).images)
    except CaseError:  # it cannot be used, and nor can a copy of it
        return set()


def _open_image(path: Path, vault: Vault | None) -> Any:
    """A NIfTI file; CaseError where it is none. A .gz is read to its end, so that its checksum is checked."""
    try:
        if path.name.endswith(SUFFIX):
            if vault is None:
                raise CaseError(Reason.UNREADABLE, "is encrypted, and no key was given", where=path.name)
            return nib.Nifti1Image.from_bytes(gzip.decompress(vault.open(path.read_bytes())))
        if path.name.lower().endswith(".gz"):
            with gzip.open(path) as stream:
                raw = stream.read()
            kind = nib.Nifti2Image if raw[:4] in _NIFTI2 else nib.Nifti1Image
            return kind.from_bytes(raw)
        image: Any = nib.load(path)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError, WrapStructError) as error:
        raise CaseError(Reason.UNREADABLE, f"cannot be read ({_tell_why(error)})", where=path.name) from None
    if not isinstance(image, nib.Nifti1Image):
        raise CaseError(Reason.UNREADABLE, "not a NIfTI file", where=path.name)
    return image


def _read_voxels(image: Any, path: Path) -> npt.NDArray[np.float32]:
    """All voxels as float32, scaled as the header says."""
    try:
        return np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, TypeError, zlib.error, OverflowError, MemoryError) as error:
        raise CaseError(Reason.UNREADABLE, f"cannot be read to its end ({_tell_why(error)})", where=path.name) from None


def _tell_why(error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "no permission: let the site agent's user read it"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]


def _read_case(case: Case, labels: dict[int, str], vault: Vault | None) -> LoadedCase:
    label_file = _open_image(case.label, vault)
    shape, affine = label_file.shape, np.asarray(label_file.affine, dtype=np.float64)
    if len(shape) != 3:
        raise CaseError(Reason.SHAPE_MISMATCH, f"the label map has {len(shape)} axes, not 3", where=case.label.name)
    if 0 in shape:
        raise CaseError(Reason.EMPTY_IMAGE, "the label map has no voxel", where=case.label.name)
    files = {path: _open_image(path, vault) for path in dict.fromkeys(case.images)}
    for path, file in files.items():  # headers first: a mismatch needs no voxel
        axes = 4 if case.volumes and len(file.shape) == 4 else 3
        if len(file.shape) != axes or file.shape[:3] != shape:
            raise CaseError(Reason.SHAPE_MISMATCH, f"shape {file.shape}, the label's is {shape}", where=path.name)
        held = file.shape[3] if axes == 4 else 1
        if case.volumes and max(case.volumes) >= held:
            raise CaseError(Reason.MISSING_CHANNEL, f"holds {held} of the modalities only", where=path.name)
        if not np.allclose(file.affine, affine, atol=AFFINE_TOLERANCE_MM, rtol=0):
            raise CaseError(Reason.AFFINE_MISMATCH, "position or spacing differs from the label's", where=path.name)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise CaseError(Reason.AFFINE_MISMATCH, "the header says no usable position", where=case.label.name)
    label, concepts = _map_labels(_read_voxels(label_file, case.label), labels, case.label)
    image = np.empty((len(case.images), *shape), dtype=np.float32)
    for path, file in files.items():
        voxels = _read_voxels(file, path)
        for channel, own in enumerate(case.images):
            if own == path:
                image[channel] = voxels[..., case.volumes[channel]] if voxels.ndim == 4 else voxels
    for path, volume in zip(case.images, image, strict=True):
        if not np.isfinite(volume).all():
            raise CaseError(Reason.NOT_FINITE, "holds NaN or infinity", where=path.name)
        if float(volume.min()) == float(volume.max()):
            raise CaseError(Reason.EMPTY_IMAGE, "all voxels have one value", where=path.name)
    return LoadedCase(image, label, concepts, affine)


def _map_labels(
    voxels: npt.NDArray[np.float32], labels: dict[int, str], path: Path
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """A site's integers → positions in the sorted concepts, plus one."""
    if not np.isfinite(voxels).all():
        raise CaseError(Reason.NOT_FINITE, "the label map holds NaN or infinity", where=path.name)
    rounded = np.rint(voxels)
    # integers stored with a scale factor come back with rounding errors; resampled labels come back as fractions
    if np.abs(voxels - rounded).max(initial=0) > 1e-3:
        raise CaseError(Reason.UNKNOWN_LABEL_VALUE, "values between integers (resampled?)", where=path.name)
    unknown = [int(value) for value in np.unique(rounded) if value != 0 and int(value) not in labels]
    if unknown:
        raise CaseError(Reason.UNKNOWN_LABEL_VALUE, f"integers without a concept: {unknown[:8]}", where=path.name)
    concepts = tuple(sorted(set(labels.values())))
    label = np.zeros(voxels.shape, dtype=np.uint8)
    for value, concept in labels.items():
        label[rounded == value] = concepts.index(concept) + 1
    return label, concepts


__all__ = ["Case", "CaseError", "LeftOut", "LoadedCase", "Survey", "load_case", "survey_cases"]
