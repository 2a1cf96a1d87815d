"""A NIfTI label beside DICOM → a label map on the reference's grid.

A NIfTI file names no frame of reference: that it belongs to the study follows from its name, and where it lies from its
affine alone. So the affine is checked: the file must say it, say it once, and the label must lie within the image. A
label in another space (an atlas', say) that happens to lie within the image cannot be noticed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from messages.reasons import Reason
from site_agent.datasets.barrier import CaseError
from site_agent.datasets.filenames import nifti_stem
from site_agent.datasets.nifti import NiftiFile, read_nifti
from site_agent.dicom.base import LabelMap, ObjectRefused, Volume
from site_agent.dicom.config import Labels
from site_agent.dicom.labels import concepts
from site_agent.dicom.volumes import grid

ENDINGS = (".nii.gz", ".nii", ".NII.GZ", ".NII")


def read_nifti_label(path: Path, reference: Volume, rules: Labels) -> LabelMap:
    """A label file's label map: as it is where its grid is the reference's, else by the nearest voxel.

    Neither the file's name nor its folder is in any error: they may hold a patient's identifier.

    Raises:
        Refused: what keeps a file from being read (`datasets.nifti`), SHAPE_MISMATCH (not three-dimensional),
            AFFINE_MISMATCH (it does not say where it lies, or twice and differently, or lies outside the image),
            NOT_FINITE, UNKNOWN_LABEL_VALUE, SEVERAL_LABELS (NAME.nii and NAME.nii.gz differ).
    """
    try:
        file = read_nifti(path)
        _require_no_other(path, file)
        values = file.read_whole()
    except CaseError as error:
        raise ObjectRefused(error.reason, f"the label file: {error.what}") from None
    if values.ndim != 3:
        raise ObjectRefused(Reason.SHAPE_MISMATCH, f"the label has {values.ndim} dimensions, not 3")
    affine = _affine_of(file)
    mapped = LabelMap(_map_values(values, rules), rules.names)
    try:
        return concepts.put_on_grid(mapped, affine, reference)
    except ObjectRefused as error:
        raise ObjectRefused(Reason.AFFINE_MISMATCH, error.what) from None


def list_label_files(path: Path) -> list[Path]:
    """The label files of one name, whatever they end with: there should be one."""
    stem = nifti_stem(path.name) or path.name
    return [file for ending in ENDINGS if (file := path.with_name(f"{stem}{ending}")).is_file()]


def _require_no_other(path: Path, file: NiftiFile) -> None:
    """Raise CaseError where there is NAME.nii beside NAME.nii.gz and holds another label."""
    for other in list_label_files(path):
        if other != path and not file.holds_same(read_nifti(other)):
            raise CaseError(Reason.SEVERAL_LABELS, "there is one as .nii and one as .nii.gz, and they differ")


def _affine_of(file: NiftiFile) -> grid.Affine:
    if not file.placed:
        raise ObjectRefused(Reason.AFFINE_MISMATCH, "the label file does not say where it lies")
    affine = file.affine
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ObjectRefused(Reason.AFFINE_MISMATCH, "the label file's affine is no grid")
    return affine


def _map_values(values: Any, rules: Labels) -> Any:
    """The file's integers as positions in `rules.names` plus one."""
    found = np.unique(values)
    names = rules.names
    unknown = [value for value in found.tolist() if value != 0 and value not in rules.values]
    if unknown:
        raise ObjectRefused(
            Reason.UNKNOWN_LABEL_VALUE, f"{len(unknown)} values of the label have no concept in site.toml"
        )
    mapped = np.zeros(values.shape, dtype=np.uint8)
    for value in found.tolist():
        if value != 0:
            mapped[values == value] = names.index(rules.values[int(value)]) + 1
    return mapped
