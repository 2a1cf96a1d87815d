"""What a model says, as files: masks as NIfTI or PNG beside one table, each whole or not at all."""

from __future__ import annotations

import csv
import io
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

if TYPE_CHECKING:
    from site_agent.datasets.cases import Case, LoadedCase
    from site_agent.training.tasks.prediction import Prediction

TABLE = "predictions.csv"
Row = dict[str, str | int | float]


def open_folder(folder: Path) -> None:
    """Make the folder of results; RequestError where it holds some already, or cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = (folder / TABLE).exists()
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror})", where=str(folder)) from None
    if taken:
        raise RequestError("holds predictions already", where=str(folder), advice="Name another folder with --out")


def write_masks(folder: Path, case: Case, loaded: LoadedCase, masks: Mapping[str, NDArray[np.bool_]]) -> list[Path]:
    """One file a region, CASE_REGION, on the image's own grid: 1 inside, 0 outside. PNG (255 inside) for pictures.

    Raises:
        OSError: there is no space, no permission.
    """
    written = []
    for region, mask in masks.items():
        path = folder / f"{case.key}_{region}"
        written.append(_write_map(path, mask.astype(np.uint8), case, loaded, scale=255))
    return written


def write_label_map(
    folder: Path, case: Case, loaded: LoadedCase, masks: Mapping[str, NDArray[np.bool_]], *, scale: int = 1
) -> Path:
    """All regions in one file, CASE: region i has the value i, from 1; of two that overlap the later one."""
    return _write_map(folder / case.key, merge_masks(masks, loaded.label.shape), case, loaded, scale=scale)


def merge_masks(masks: Mapping[str, NDArray[np.bool_]], shape: Sequence[int]) -> NDArray[np.uint8]:
    """Region i as value i, from 1; the later of two that overlap."""
    merged = np.zeros(tuple(shape), np.uint8)
    for number, mask in enumerate(masks.values(), start=1):
        merged[mask] = number
    return merged


def _write_map(path: Path, values: NDArray[np.uint8], case: Case, loaded: LoadedCase, *, scale: int) -> Path:
    if is_picture(case.images[0].name):
        data = io.BytesIO()
        Image.fromarray(values[..., 0].T * np.uint8(scale)).save(data, format="PNG")
        place = path.with_name(f"{path.name}.png")
        replace_file(place, data.getvalue())
        return place
    place = path.with_name(f"{path.name}.nii.gz")
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
