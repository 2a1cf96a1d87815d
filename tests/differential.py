"""Volumes against two independent readers: every public DICOM series under shared/data, and series made here.

    python -m tests.differential            a row for each series and reader: equal, explained, or different

dcm2niix is Debian's package (DCM2NIIX names another one); SimpleITK is a Python package. A reader that is not there is
said to be missing, and its rows are skipped. What differs for a known reason is in `EXPLAINED` and in docs/data.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset

from site_agent.dicom.base import ObjectRefused
from site_agent.dicom.volumes import assembly, mosaic
from tests.fuzz import dicom_studies

DATA = Path(os.environ.get("KONSIL_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "dicom"
MILLIMETRES = 1e-3
"""By which affines may differ: positions are written with three decimals or more."""
IMAGES = {"MR", "CT", "PT"}

Image = tuple[np.ndarray, np.ndarray]
"""Voxels and affine, the axes nearest to RAS."""
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Missing(Exception):
    """A reader is not installed."""


@dataclass(frozen=True)
class Series:
    """One series' files in a folder of their own."""

    name: str
    folder: Path

    @property
    def objects(self) -> list[Dataset]:
        return [pydicom.dcmread(path) for path in sorted(self.folder.iterdir())]


@dataclass(frozen=True)
class Row:
    """What came of one comparison. `verdict`: "equal", "explained", "differs" or "missing"; `why` says more."""

    series: str
    reader: str
    verdict: str
    why: str


def read_ours(series: Series) -> list[Image]:
    """As a preparation would."""
    return [_canonical(one.voxels, one.affine) for one in assembly.build_volumes(series.objects)]


def read_dcm2niix(series: Series) -> list[Image]:
    """Raises Missing."""
    program = os.environ.get("DCM2NIIX") or shutil.which("dcm2niix")
    if program is None:
        raise Missing("dcm2niix is not installed (apt-get install dcm2niix, or DCM2NIIX=PATH)")
    with tempfile.TemporaryDirectory() as out:
        asked = [program, "-b", "n", "-z", "n", "-f", "%s_%e", "-o", out, str(series.folder)]
        subprocess.run(asked, check=True, capture_output=True, timeout=300)
        found = []
        for path in sorted(Path(out).glob("*.nii")):
            image: Any = nib.load(path)
            voxels = np.asarray(image.dataobj, np.float64)
            times = [voxels] if voxels.ndim == 3 else [voxels[..., t] for t in range(voxels.shape[3])]
            found += [_canonical(one, image.affine) for one in times]
        return found


def read_simpleitk(series: Series) -> list[Image]:
    """Raises Missing."""
    try:
        import SimpleITK as sitk
    except ImportError:
        raise Missing("SimpleITK is not installed") from None
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    found = []
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(series.folder)):
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series.folder), uid))
        image = reader.Execute()
        if image.GetDimension() == 4 and image.GetSize()[3] == 1:  # a multi-frame object
            image = image[:, :, :, 0]
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
        affine[:3, 3] = image.GetOrigin()
        found.append(_canonical(sitk.GetArrayFromImage(image).T.astype(np.float64), LPS @ affine))
    return found


READERS: dict[str, Callable[[Series], list[Image]]] = {"dcm2niix": read_dcm2niix, "SimpleITK": read_simpleitk}


def _holds_several(series: Series) -> bool:
    return len(read_ours(series)) > 1


def _is_mosaic(series: Series) -> bool:
    return mosaic.read_layout(series.objects[0]) is not None


def _is_refused(series: Series) -> bool:
    try:
        read_ours(series)
    except ObjectRefused:
        return True
    return False


def _is_inverted(series: Series) -> bool:
    return series.objects[0].PhotometricInterpretation == "MONOCHROME1"


def _is_encoded(syntax: str) -> Callable[[Series], bool]:
    return lambda series: bool(series.objects[0].file_meta.TransferSyntaxUID == syntax)


EXPLAINED: tuple[tuple[str, Callable[[Series], bool], str], ...] = (
    ("", _is_refused, "left out by us under a reason code: no volume to compare"),
    ("SimpleITK", _is_mosaic, "SimpleITK does not cut a mosaic's tiles out"),
    ("SimpleITK", _holds_several, "SimpleITK takes a series for one stack; it does not part times"),
    ("dcm2niix", _is_encoded("1.2.840.10008.1.2.1.99"), "dcm2niix does not read deflated objects"),
    ("dcm2niix", _is_encoded("1.2.840.10008.1.2.4.80"), "Debian's dcm2niix is built without JPEG-LS"),
    (
        "SimpleITK",
        _is_encoded("1.2.840.10008.1.2.5"),
        "GDCM refuses RLE as pydicom writes it; dcm2niix reads it as we do",
    ),
    ("", _is_inverted, "MONOCHROME1 is turned around by us alone"),
)
"""Reader ("": each), whether it applies, and why volumes differ; the first that does. docs/data.md says the same."""


def compare_series(series: Series, reader: str) -> Row:
    """One series, read by us and by one other reader."""
    applies = next((why for name, test, why in EXPLAINED if name in ("", reader) and test(series)), None)
    try:
        theirs = READERS[reader](series)
    except Missing as error:
        return Row(series.name, reader, "missing", str(error))
    except (RuntimeError, subprocess.SubprocessError, OSError) as error:
        what = f"it fails ({type(error).__name__})"
        return Row(series.name, reader, "explained" if applies else "differs", applies or what)
    if applies == EXPLAINED[0][2]:
        return Row(series.name, reader, "explained", applies)
    ours = read_ours(series)
    why = _find_difference(ours, theirs)
    if why is None:
        return Row(series.name, reader, "equal", f"{len(ours)} volumes of {' × '.join(map(str, ours[0][0].shape))}")
    return Row(series.name, reader, "explained" if applies else "differs", applies or why)


def find_public(into: Path) -> Iterator[Series]:
    """Every image series under `DATA`, as links in a folder of its own below `into`."""
    found: dict[str, list[Path]] = {}
    for path in sorted(DATA.rglob("*")):
        if not path.is_file():
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except Exception:  # noqa: BLE001 - no DICOM, or none that can be read
            continue
        if str(header.get("Modality")) in IMAGES and "SeriesInstanceUID" in header:
            found.setdefault(f"{path.parent.relative_to(DATA)} {header.SeriesInstanceUID}", []).append(path)
    for number, (name, paths) in enumerate(sorted(found.items())):
        folder = into / f"public-{number:03d}"
        folder.mkdir()
        for place, path in enumerate(paths):
            (folder / f"{place:05d}.dcm").symlink_to(path)
        yield Series(name.split(" ", maxsplit=1)[0], folder)


def make_generated(into: Path) -> Iterator[Series]:
    """Series made here: each encoding, oblique, reversed, signed, each slice with a scale of its own."""
    for number, (name, syntax, pack) in enumerate(dicom_studies.ENCODINGS):
        yield _write_series(into, name, [pack(obj) for obj in dicom_studies.images(f"2.25.4711.{number}", syntax)])
    for name, change in (("oblique", _turn), ("against the normal", _reverse), ("signed", _sign), ("scaled", _scale)):
        yield _write_series(into, name, [change(obj, k) for k, obj in enumerate(dicom_studies.images("2.25.4711.99"))])


def _write_series(into: Path, name: str, objects: Sequence[Dataset]) -> Series:
    folder = into / f"generated-{name.replace(' ', '-')}"
    folder.mkdir()
    for k, obj in enumerate(objects):
        (folder / f"{k}.dcm").write_bytes(dicom_studies.encode(obj))
    return Series(f"generated: {name}", folder)


def _turn(obj: Dataset, k: int) -> Dataset:
    row, column = np.array([0.8, 0.6, 0.0]), np.array([-0.36, 0.48, 0.8])
    obj.ImageOrientationPatient = [*row, *column]
    obj.ImagePositionPatient = [round(float(v), 6) for v in np.array([-10, -12, 5]) + 3 * k * np.cross(row, column)]
    return obj


def _reverse(obj: Dataset, k: int) -> Dataset:
    obj.ImagePositionPatient = [-10, -12, -3 * k]
    return obj


def _sign(obj: Dataset, _k: int) -> Dataset:
    obj.PixelRepresentation, obj.BitsStored, obj.HighBit = 1, 16, 15
    obj.PixelData = (np.frombuffer(obj.PixelData, "<u2").astype(np.int32) - 500).astype("<i2").tobytes()
    return obj


def _scale(obj: Dataset, k: int) -> Dataset:
    obj.RescaleSlope, obj.RescaleIntercept = 2 + k, -100
    return obj


def _canonical(voxels: np.ndarray, affine: np.ndarray) -> Image:
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(voxels, np.float64), affine))
    return np.asarray(image.dataobj), np.asarray(image.affine)


def _find_difference(ours: Sequence[Image], theirs: Sequence[Image]) -> str | None:
    if len(ours) != len(theirs):
        return f"{len(ours)} volumes here, {len(theirs)} there"
    left = list(theirs)
    for number, one in enumerate(ours, 1):
        fits = next((k for k, other in enumerate(left) if _tell_apart(one, other) is None), None)
        if fits is None:
            return f"volume {number}: {_tell_apart(one, left[0])}"
        left.pop(fits)
    return None


def _tell_apart(one: Image, other: Image) -> str | None:
    if one[0].shape != other[0].shape:
        return f"shape {one[0].shape} here, {other[0].shape} there"
    if (most := float(np.abs(one[1] - other[1]).max())) > MILLIMETRES:
        return f"affines differ by {most:.4f} mm"
    unlike = ~np.isclose(one[0], other[0], rtol=1e-6, atol=1e-3)
    return f"{int(unlike.sum())} voxels differ" if unlike.any() else None


def compare_all() -> Iterator[Row]:
    """Every series with every reader."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for series in (*find_public(Path(folder)), *make_generated(Path(folder))):
            for reader in READERS:
                yield compare_series(series, reader)


def main() -> int:
    """Exit status 1 where something differs without an explanation."""
    rows = []
    for row in compare_all():
        rows.append(row)
        sys.stdout.write(f"{row.series:<40} {row.reader:<10} {row.verdict:<9} {row.why}\n")
        sys.stdout.flush()
    return int(any(row.verdict == "differs" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
