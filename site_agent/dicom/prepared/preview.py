"""Contact sheets of a prepared data set, so that a person can look at what will be trained on.

A row a case: for each modality the slice through the middle of the label (of the volume, where the label is empty) with
the label's outline. Heads show faces, so the sheets stay in the state directory, readable by the operator alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from messages.ground.durable import replace_file
from messages.ground.errors import DataError
from site_agent.datasets import layouts, source
from site_agent.datasets.cases import Case, LoadedCase
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.opening import show_name
from site_agent.datasets.vault import CASES, Vault
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.prepared import store
from site_agent.dicom.prepared.accounts import dataset_of
from site_agent.disk.secret import secret_of

WARNING = "Heads show faces: these pictures identify patients. They are readable by you alone; keep them at the site."
TILE = 256
"""Pixels of a slice's longer edge: a voxel of a head at 1 mm has one."""
_HEAD, _EDGE, _ROWS = 48, 18, 12
_COLOURS = ((255, 80, 80), (80, 220, 80), (90, 150, 255), (255, 210, 60), (240, 110, 240), (80, 230, 230))

Image = npt.NDArray[np.uint8]
_Value = TypeVar("_Value", bound=np.generic)


def draw_sheets(name: str, config: DicomDataset, state: Path, progress: Callable[[int, int], None]) -> list[Path]:
    """Write the sheets of a prepared data set's newest state; their paths.

    Raises:
        DataError: it was not prepared yet, or holds no case.
    """
    prepared = store.read_manifest(state, name)
    if prepared is None or not prepared.used:
        what = "was not prepared yet" if prepared is None else f"has no case out of {prepared.found} studies"
        raise DataError(what, where=f"datasets.{name}", advice="Run `konsil site datasets`")
    dataset = dataset_of(name, config, state, prepared)
    vault = Vault(secret_of(state), CASES)
    cases = _list_cases(dataset, config.channels)

    def load(case: Case) -> LoadedCase:
        return source.load_case(case, dataset, vault)

    folder = store.folder_of(state, name)
    remove_sheets(folder)
    return write_sheets(folder, cases, load, config.channels, config.labels.names, progress)


def remove_sheets(folder: Path) -> None:
    """Remove the sheets of an earlier time, of which there may be more."""
    for old in folder.glob("preview-*.png"):
        old.unlink()


def name_sheets(folder: Path, cases: int) -> list[Path]:
    """Where the sheets of so many cases lie."""
    return [folder / f"preview-{number:03d}.png" for number in range(1, -(-cases // _ROWS) + 1)]


def write_sheets(
    folder: Path,
    cases: Sequence[Case],
    load: Callable[[Case], LoadedCase],
    channels: Sequence[str],
    concepts: Sequence[str],
    progress: Callable[[int, int], None],
) -> list[Path]:
    """Write the sheets of some cases; their paths (`name_sheets`).

    Args:
        folder: made if missing, for its owner only. concepts: behind the label's values, from 1.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    sheets = name_sheets(folder, len(cases))
    for first, path in zip(range(0, len(cases), _ROWS), sheets, strict=True):
        rows = []
        for number, case in enumerate(cases[first : first + _ROWS], start=first + 1):
            progress(number - 1, len(cases))
            said, tiles = _draw_row(load(case))
            rows.append((f"{show_name(case.key)}   {said}", tiles))
        _write_private(path, _draw_sheet(rows, channels, concepts))
    return sheets


def _list_cases(dataset: DatasetConfig, channels: Sequence[str]) -> list[Case]:
    """The cases by name; preparation has checked them already."""
    return [
        Case(one.key, dataset.patient_of(one.key), tuple(one.images[name] for name in channels), one.label)
        for one in layouts.find_cases(dataset).candidates
        if one.label is not None and all(name in one.images for name in channels)
    ]


def _draw_row(case: LoadedCase) -> tuple[str, list[Image]]:
    """Which slice is shown, and a tile a modality: axial, the patient's right on the left, as radiologists see it."""
    import nibabel as nib

    flips = nib.orientations.io_orientation(case.affine)
    label = nib.orientations.apply_orientation(case.label, flips)
    slices = np.flatnonzero(label.any(axis=(0, 1)))
    middle = int(slices[len(slices) // 2]) if slices.size else label.shape[2] // 2
    zooms = np.sqrt((case.affine[:3, :3] ** 2).sum(axis=0))[np.argsort(flips[:, 0])]
    tiles = []
    for volume in case.image:
        plane = nib.orientations.apply_orientation(volume, flips)[:, :, middle]
        tiles.append(_draw_tile(plane, label[:, :, middle], (float(zooms[0]), float(zooms[1]))))
    labelled = f"{slices.size} with label" if slices.size else "no label"
    return f"slice {middle + 1} of {label.shape[2]}, {labelled}{_volume_words(case)}", tiles


def _volume_words(case: LoadedCase) -> str:
    """ ", ED 46.1 ml, ET 3.2 ml": of the concepts that the case has."""
    voxel = abs(float(np.linalg.det(case.affine[:3, :3]))) / 1000.0
    counts = np.bincount(case.label.ravel(), minlength=len(case.concepts) + 1)[1:]
    return "".join(
        f", {concept} {count * voxel:.3g} ml" for concept, count in zip(case.concepts, counts, strict=True) if count
    )


def _draw_tile(plane: npt.NDArray[np.float32], label: npt.NDArray[np.uint8], zooms: tuple[float, float]) -> Image:
    """(x, y) in RAS+ → (TILE, TILE, 3): up is front, left the patient's right; grey from 1st to 99th percentile.

    Each pixel shows the voxel at its centre. A label's outline are its own pixels beside others; where voxels are finer
    than pixels, those pixels that hold a voxel of the outline: a structure of one voxel is seen, and a hole of one.
    """
    size = (plane.shape[0] * zooms[0], plane.shape[1] * zooms[1])
    scale = TILE / max(size)
    width, height = (max(1, round(edge * scale)) for edge in size)
    front_right = plane[::-1, ::-1].T
    grey = _sample_plane(front_right, (height, width))
    low, high = np.percentile(grey, [1, 99])
    shown = np.clip((grey - low) / max(float(high - low), 1e-6), 0, 1) * 255
    tile = np.repeat(shown.astype(np.uint8)[..., None], 3, axis=2)
    turned = label[::-1, ::-1].T
    for value in np.unique(turned[turned > 0]):
        tile[_draw_outline(turned == value, (height, width))] = _COLOURS[(int(value) - 1) % len(_COLOURS)]
    whole = np.zeros((TILE, TILE, 3), dtype=np.uint8)
    top, left = (TILE - height) // 2, (TILE - width) // 2
    whole[top : top + height, left : left + width] = tile
    return whole


def _sample_plane(plane: npt.NDArray[_Value], shape: tuple[int, int]) -> npt.NDArray[_Value]:
    """A plane's values at the centres of `shape` pixels."""
    rows, columns = (
        ((np.arange(pixels) + 0.5) * voxels / pixels).astype(int)
        for pixels, voxels in zip(shape, plane.shape, strict=True)
    )
    return plane[np.ix_(rows, columns)]


def _draw_outline(mask: npt.NDArray[np.bool_], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The pixels that show a mask's outline."""
    wide = _sample_plane(mask, (max(mask.shape[0], shape[0]), max(mask.shape[1], shape[1])))
    drawn = np.zeros(shape, dtype=np.bool_)
    drawn[tuple((np.argwhere(_outline_of(wide)) * shape // wide.shape).T)] = True
    return drawn


def _outline_of(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of a mask that have a neighbour outside it (4-neighbourhood)."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _draw_sheet(rows: Sequence[tuple[str, list[Image]]], channels: Sequence[str], concepts: Sequence[str]) -> bytes:
    """PNG."""
    from PIL import Image as Pictures
    from PIL import ImageDraw

    width = max(len(channels) * TILE, 560)
    picture = Pictures.new("RGB", (width, _HEAD + len(rows) * (TILE + _EDGE)), (20, 20, 20))
    pen = ImageDraw.Draw(picture)
    pen.text((4, 2), "Heads show faces: keep this at the site.", fill=(230, 230, 230))
    for column, channel in enumerate(channels):
        pen.text((column * TILE + 4, 32), channel, fill=(230, 230, 230))
    left = 4.0
    for number, concept in enumerate(concepts):
        pen.text((left, 17), concept, fill=_COLOURS[number % len(_COLOURS)])
        left += pen.textlength(concept) + 12
    for number, (case, tiles) in enumerate(rows):
        top = _HEAD + number * (TILE + _EDGE)
        pen.text((4, top + 2), case, fill=(170, 170, 170))
        for column, tile in enumerate(tiles):
            picture.paste(Pictures.fromarray(tile), (column * TILE, top + _EDGE))
    content = BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def _write_private(path: Path, content: bytes) -> None:
    """Readable by its owner alone from the first byte on."""
    replace_file(path, content, mode=0o600)
