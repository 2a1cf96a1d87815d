"""What a model says, as files: masks as NIfTI or PNG beside one table, each whole or not at all."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from messages.ground.durable import replace_file, writing_beside
from messages.ground.errors import RequestError
from site_agent.datasets.filenames import is_picture
from site_agent.datasets.opening import show_name

if TYPE_CHECKING:
    from site_agent.datasets.cases import Case, LoadedCase
    from site_agent.training.tasks.prediction import Prediction

TABLE = "predictions.csv"
_ELSEWHERE = "Name another folder with --out"
Row = dict[str, str | int | float]


def open_folder(folder: Path, results: Sequence[Path]) -> None:
    """Make the folder of results.

    Args:
        results: every file that may be written there, beside the table.

    Raises:
        RequestError: one of them is there already, two have one name, or the folder cannot be made.
    """
    if os.path.lexists(folder / TABLE):
        raise RequestError("holds predictions already", where=str(folder), advice=_ELSEWHERE)
    seen: set[Path] = set()
    for path in results:
        if os.path.lexists(path):
            raise RequestError(f"holds {show_name(path.name)} already", where=str(folder), advice=_ELSEWHERE)
        if path in seen:
            advice = "Predict these images one after the other, into folders of their own"
            raise RequestError(f"two results would be {show_name(path.name)}", where=str(folder), advice=advice)
        seen.add(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror})", where=str(folder)) from None


def list_maps(folder: Path, cases: Sequence[Case], regions: Sequence[str], *, merged: bool) -> list[Path]:
    """Where the masks of all cases will lie; merged: the label maps too."""
    masks = [_place_mask(folder, case, region) for case in cases for region in regions]
    return masks + ([_place_map(folder, case) for case in cases] if merged else [])


def write_masks(folder: Path, case: Case, loaded: LoadedCase, masks: Mapping[str, NDArray[np.bool_]]) -> list[Path]:
    """One file a region, CASE_REGION, on the image's own grid: 1 inside, 0 outside. PNG (255 inside) for pictures.

    Raises:
        OSError: there is no space, no permission.
    """
    written = []
    for region, mask in masks.items():
        path = _place_mask(folder, case, region)
        written.append(_write_map(path, mask.astype(np.uint8), case, loaded, scale=255))
    return written


def write_label_map(
    folder: Path, case: Case, loaded: LoadedCase, masks: Mapping[str, NDArray[np.bool_]], *, scale: int = 1
) -> Path:
    """All regions in one file, CASE: region i has the value i, from 1; of two that overlap the later one."""
    return _write_map(_place_map(folder, case), merge_masks(masks, loaded.label.shape), case, loaded, scale=scale)


def merge_masks(masks: Mapping[str, NDArray[np.bool_]], shape: Sequence[int]) -> NDArray[np.uint8]:
    """Region i as value i, from 1; the later of two that overlap."""
    merged = np.zeros(tuple(shape), np.uint8)
    for number, mask in enumerate(masks.values(), start=1):
        merged[mask] = number
    return merged


def _place_mask(folder: Path, case: Case, region: str) -> Path:
    return folder / f"{case.key}_{region}{_ending_of(case)}"


def _place_map(folder: Path, case: Case) -> Path:
    return folder / f"{case.key}{_ending_of(case)}"


def _ending_of(case: Case) -> str:
    return ".png" if is_picture(case.images[0].name) else ".nii.gz"


def _write_map(place: Path, values: NDArray[np.uint8], case: Case, loaded: LoadedCase, *, scale: int) -> Path:
    if is_picture(case.images[0].name):
        data = io.BytesIO()
        Image.fromarray(values[..., 0].T * np.uint8(scale)).save(data, format="PNG")
        replace_file(place, data.getvalue())
        return place
    image = nib.Nifti1Image(values, loaded.affine)
    image.header.set_xyzt_units("mm")
    with writing_beside(place) as beside:
        beside.write_bytes(nib_bytes(image))
    return place


def nib_bytes(image: Any) -> bytes:
    """A NIfTI image as the bytes of a .nii.gz file; the same image makes the same bytes."""
    import gzip

    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def list_rows(case: Case, loaded: LoadedCase, said: Prediction, about: Mapping[str, Any]) -> list[Row]:
    """The lines of the table for one image."""
    if said.masks:
        voxel_ml = float(abs(np.linalg.det(loaded.affine[:3, :3]))) / 1000
        sizes = {region: int(mask.sum()) for region, mask in said.masks.items()}
        picture = is_picture(case.images[0].name)
        return [
            {"case": case.key, "region": region, "voxels": size, "ml": "" if picture else round(size * voxel_ml, 4)}
            for region, size in sizes.items()
        ]
    if said.value is not None:
        return [{"case": case.key, str(about["quantity"]): round(said.value, 6), "unit": str(about.get("unit") or "")}]
    likely = [name for name, chance in said.chances.items() if chance >= 0.5]
    if about["labels"] != "multi":
        likely = [max(said.chances, key=lambda name: said.chances[name])]
    return [{"case": case.key, "predicted": ";".join(likely)} | {n: round(p, 6) for n, p in said.chances.items()}]


def write_table(folder: Path, rows: Sequence[Row]) -> Path:
    """All lines as CSV (RFC 4180), UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["case"])
    writer.writeheader()
    writer.writerows(rows)
    replace_file(folder / TABLE, text.getvalue().encode("utf-8", errors="surrogateescape"))
    return folder / TABLE
