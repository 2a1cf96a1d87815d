"""A NIfTI label beside DICOM → a label map on the reference's grid.

A NIfTI file names no frame of reference: that it belongs to the study follows from its name, and where it lies from its
affine alone. So the affine is checked: the file must say it, say it once, and the label must lie within the image. A
label in another space (an atlas', say) that happens to lie within the image cannot be noticed.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from messages.reasons import Reason
from site_agent.dicom.base import LabelMap, ObjectRefused, Volume
from site_agent.dicom.config import Labels
from site_agent.dicom.labels import concepts
from site_agent.dicom.volumes import grid

AGREE = 0.1
"""How far (in voxels, at the corners) the file's two affines, sform and qform, may lie apart."""


def read_nifti_label(path: Path, reference: Volume, rules: Labels) -> LabelMap:
    """A label file's label map: as it is where its grid is the reference's, else by the nearest voxel.

    Neither the file's name nor its folder is in any error: they may hold a patient's identifier.

    Raises:
        Refused: UNREADABLE, SHAPE_MISMATCH (not three-dimensional), AFFINE_MISMATCH (it does not say where it lies, or
            twice and differently, or lies outside the image), NOT_FINITE, UNKNOWN_LABEL_VALUE.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error, MemoryError):
        raise ObjectRefused(Reason.UNREADABLE, "the label file cannot be read as NIfTI") from None
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise ObjectRefused(Reason.SHAPE_MISMATCH, f"the label has {values.ndim} dimensions, not 3")
    affine = _affine_of(image, values.shape)
    mapped = LabelMap(_map_values(values, rules), rules.names)
    try:
        return concepts.put_on_grid(mapped, affine, reference)
    except ObjectRefused as error:
        raise ObjectRefused(Reason.AFFINE_MISMATCH, error.what) from None


def _affine_of(image: Any, shape: tuple[int, ...]) -> grid.Affine:
    header = image.header
    sform, qform = (header.get_sform(coded=True)[0], header.get_qform(coded=True)[0])
    if sform is None and qform is None:
        raise ObjectRefused(Reason.AFFINE_MISMATCH, "the label file does not say where it lies")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise ObjectRefused(Reason.AFFINE_MISMATCH, "the label file's affine is no grid")
    if sform is not None and qform is not None:
        ends = np.array([(i, j, k, 1) for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])])
        apart = np.abs((sform - qform) @ ends.T).max()
        if not apart <= AGREE * np.linalg.norm(affine[:3, :3], axis=0).min():
            raise ObjectRefused(Reason.AFFINE_MISMATCH, f"the label file's sform and qform lie {apart:.2f} mm apart")
    return affine


def _map_values(values: Any, rules: Labels) -> Any:
    """The file's integers as positions in `rules.names` plus one."""
    if not np.isfinite(values).all():
        raise ObjectRefused(Reason.NOT_FINITE, "the label holds NaN or infinity")
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
