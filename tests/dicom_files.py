"""Small synthetic DICOM objects for tests of sources, and the data set that they make.

(Test modules import this as `dicom_files`.)
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from site_agent.dicom.base import SeriesFound
from site_agent.dicom.config import LabelRule, Labels, Query

ROOT = "1.2.826.0.1.3680043.8.498.4711"
"""A root for tests alone (below pydicom's own, PS3.5, 9.2)."""
STORAGE = {
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "SEG": "1.2.840.10008.5.1.4.1.1.66.4",
    "RTSTRUCT": "1.2.840.10008.5.1.4.1.1.481.3",
    "PR": "1.2.840.10008.5.1.4.1.1.11.1",
}


def uid(study: int, series: int | None = None, number: int | None = None) -> str:
    """UID of a study, of a series of it, or of an object of that."""
    parts = [study] if series is None else [study, series] if number is None else [study, series, number]
    return ".".join([ROOT, *map(str, parts)])


SERIES = SeriesFound(uid(1), uid(1, 1), "MR", 3)
"""What an index says of `three`."""


def asking(query: dict[str, Any]) -> dict[str, Any]:
    """What a source's settings say of these objects, wherever they come from; as `query` asks for them."""
    labels = Labels(concepts={"tumour": LabelRule(codes=("SCT:108369006",))})
    return {"channels": ("T1",), "query": Query(**query), "labels": labels}


def image(
    study: int = 1, series: int = 1, number: int = 1, *, modality: str = "MR", side: int = 8, **values: Any
) -> Dataset:
    """An image object of `side` × `side` 16-bit pixels; of RTSTRUCT without pixels. `values` over the usual ones."""
    obj = Dataset()
    obj.file_meta = FileMetaDataset()
    obj.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    obj.SOPClassUID = obj.file_meta.MediaStorageSOPClassUID = STORAGE[modality]
    obj.SOPInstanceUID = obj.file_meta.MediaStorageSOPInstanceUID = uid(study, series, number)
    obj.StudyInstanceUID = uid(study)
    obj.SeriesInstanceUID = uid(study, series)
    obj.Modality = modality
    obj.PatientID = f"P{study}"
    obj.PatientName = f"Test^Patient {study}"
    obj.StudyDate = "20240115"
    obj.StudyTime = "101500"
    obj.StudyID = str(study)
    obj.AccessionNumber = f"A{study}"
    obj.StudyDescription = "BRAIN TUMOUR"
    obj.SeriesNumber = series
    obj.InstanceNumber = number
    if modality != "RTSTRUCT":
        obj.Rows = obj.Columns = side
        obj.SamplesPerPixel = 1
        obj.PhotometricInterpretation = "MONOCHROME2"
        obj.BitsAllocated = obj.BitsStored = 16
        obj.HighBit = 15
        obj.PixelRepresentation = 0
        obj.PixelData = number.to_bytes(2, "little") * (side * side)
    for keyword, value in values.items():
        setattr(obj, keyword, value)
    return obj


def three() -> list[Dataset]:
    """One series."""
    return [image(1, 1, number) for number in (1, 2, 3)]


def encoded(obj: Dataset) -> bytes:
    """The object as a file's content (PS3.10)."""
    out = io.BytesIO()
    obj.save_as(out, enforce_file_format=True)
    return out.getvalue()


def write(obj: Dataset, path: Path) -> Path:
    """The object as a file, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(obj))
    return path


class Taken:
    """Takes objects over, and knows which are there. `before` were there already."""

    def __init__(self, *before: str) -> None:
        self.objects: list[Any] = []
        self.before = set(before)

    def has(self, sop: str) -> bool:
        return sop in self.before or any(obj.SOPInstanceUID == sop for obj in self.objects)

    def take(self, obj: Any) -> None:
        self.objects.append(obj)

    @property
    def uids(self) -> list[str]:
        return sorted(str(obj.SOPInstanceUID) for obj in self.objects)
