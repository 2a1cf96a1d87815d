"""Small whole studies whose objects are damaged: MR of three slices with a label, in several encodings. Invented."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pack_bits
from pydicom.uid import RLELossless

ROWS, COLUMNS, SLICES = 8, 9, 3
EXPLICIT, IMPLICIT, DEFLATED, BIG = (f"1.2.840.10008.1.2{end}" for end in (".1", "", ".1.99", ".2"))
ROOT = "2.25.4711"
CODE = ("SCT", "108369006")
NAME = "GTV"


def item(**values: Any) -> Dataset:
    """A sequence's item."""
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, value)
    return made


def truth() -> np.ndarray:
    """The label, bool (slices, rows, columns)."""
    mask = np.zeros((SLICES, ROWS, COLUMNS), bool)
    mask[1:3, 2:6, 3:7] = True
    return mask


def _base(number: str, study: str, modality: str, kind: str, syntax: str) -> Dataset:
    obj = Dataset()
    obj.file_meta = FileMetaDataset()
    obj.file_meta.TransferSyntaxUID = syntax
    obj.SOPClassUID = obj.file_meta.MediaStorageSOPClassUID = kind
    obj.SOPInstanceUID = obj.file_meta.MediaStorageSOPInstanceUID = f"{study}.{number}"
    obj.StudyInstanceUID, obj.SeriesInstanceUID = study, f"{study}.{1 if modality == 'MR' else 2}"
    obj.FrameOfReferenceUID = f"{study}.9"
    obj.Modality, obj.PatientID, obj.PatientName = modality, f"P{study.rpartition('.')[2]}", "Muster^Erika"
    obj.StudyDate, obj.StudyTime, obj.StudyDescription = "20240305", "101500", "MR brain"
    return obj


def images(study: str, syntax: str = EXPLICIT) -> list[Dataset]:
    """T1, a slice each."""
    made = []
    for k in range(SLICES):
        obj = _base(f"1.{k + 1}", study, "MR", "1.2.840.10008.5.1.4.1.1.4", syntax)
        obj.SeriesDescription, obj.SeriesNumber, obj.InstanceNumber = "t1_mprage", 2, k + 1
        obj.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        obj.ScanningSequence, obj.SequenceVariant, obj.MRAcquisitionType = ["GR", "IR"], ["SP", "MP"], "3D"
        obj.RepetitionTime, obj.EchoTime, obj.InversionTime, obj.FlipAngle = 2300, 2.98, 900, 9
        obj.ImageOrientationPatient, obj.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-10, -12, 3 * k]
        obj.PixelSpacing, obj.SliceThickness = [1.25, 1.5], 3
        obj.SamplesPerPixel, obj.PhotometricInterpretation = 1, "MONOCHROME2"
        obj.Rows, obj.Columns, obj.BitsAllocated, obj.BitsStored, obj.HighBit = ROWS, COLUMNS, 16, 12, 11
        obj.PixelRepresentation = 0
        values = np.random.default_rng(k).integers(0, 400, (ROWS, COLUMNS)) + 1000 * truth()[k]
        obj.add_new("PixelData", "OW", values.astype(">u2" if syntax == BIG else "<u2").tobytes())
        made.append(obj)
    return made


def segmentation(study: str, syntax: str = EXPLICIT) -> Dataset:
    """The label as a binary segmentation."""
    of = images(study)
    obj = _base("2.1", study, "SEG", "1.2.840.10008.5.1.4.1.1.66.4", syntax)
    obj.ImageType, obj.SegmentationType = ["DERIVED", "PRIMARY"], "BINARY"
    obj.Rows, obj.Columns, obj.SamplesPerPixel, obj.PhotometricInterpretation = ROWS, COLUMNS, 1, "MONOCHROME2"
    obj.BitsAllocated, obj.BitsStored, obj.HighBit, obj.PixelRepresentation = 1, 1, 0, 0
    code = item(CodeValue=CODE[1], CodingSchemeDesignator=CODE[0], CodeMeaning="Neoplasm")
    obj.SegmentSequence = [item(SegmentNumber=1, SegmentLabel="x", SegmentedPropertyTypeCodeSequence=[code])]
    named = [item(ReferencedSOPClassUID=o.SOPClassUID, ReferencedSOPInstanceUID=o.SOPInstanceUID) for o in of]
    obj.ReferencedSeriesSequence = [item(SeriesInstanceUID=of[0].SeriesInstanceUID, ReferencedInstanceSequence=named)]
    measures = item(PixelSpacing=[1.25, 1.5], SliceThickness=3, SpacingBetweenSlices=3)
    across = item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    obj.SharedFunctionalGroupsSequence = [item(PlaneOrientationSequence=[across], PixelMeasuresSequence=[measures])]
    drawn = [k for k in range(SLICES) if truth()[k].any()]
    obj.PerFrameFunctionalGroupsSequence = [
        item(
            SegmentIdentificationSequence=[item(ReferencedSegmentNumber=1)],
            PlanePositionSequence=[item(ImagePositionPatient=list(of[k].ImagePositionPatient))],
        )
        for k in drawn
    ]
    obj.NumberOfFrames = len(drawn)
    obj.add_new("PixelData", "OB", pack_bits(np.stack([truth()[k] for k in drawn]).astype(np.uint8)))
    return obj


def structure_set(study: str, syntax: str = EXPLICIT) -> Dataset:
    """The label as contours."""
    of = images(study)
    obj = _base("2.1", study, "RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3", syntax)
    named = [item(ReferencedSOPClassUID=o.SOPClassUID, ReferencedSOPInstanceUID=o.SOPInstanceUID) for o in of]
    series = item(SeriesInstanceUID=of[0].SeriesInstanceUID, ContourImageSequence=named)
    within = item(ReferencedSOPInstanceUID=study, RTReferencedSeriesSequence=[series])
    obj.ReferencedFrameOfReferenceSequence = [
        item(FrameOfReferenceUID=f"{study}.9", RTReferencedStudySequence=[within])
    ]
    obj.StructureSetROISequence = [
        item(ROINumber=1, ReferencedFrameOfReferenceUID=f"{study}.9", ROIName=NAME, ROIGenerationAlgorithm="MANUAL")
    ]
    contours = []
    for k in range(SLICES):
        if truth()[k].any():
            corners = [(3, 2), (6, 2), (6, 5), (3, 5)]
            points = [value for c, r in corners for value in (-10 + 1.5 * c, -12 + 1.25 * r, 3 * k)]
            contours.append(
                item(
                    ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=4, ContourData=points,
                    ContourImageSequence=[named[k]],
                )
            )  # fmt: skip
    obj.ROIContourSequence = [item(ReferencedROINumber=1, ContourSequence=contours)]
    obj.RTROIObservationsSequence = [item(ObservationNumber=1, ReferencedROINumber=1, RTROIInterpretedType="GTV")]
    return obj


def encode(obj: Dataset) -> bytes:
    """A file's content (PS3.10)."""
    out = io.BytesIO()
    syntax = obj.file_meta.TransferSyntaxUID
    obj.save_as(
        out,
        enforce_file_format=True,
        **({"implicit_vr": False, "little_endian": False} if syntax == BIG else {}),
    )
    return out.getvalue()


def _packed(syntax: str) -> Callable[[Dataset], Dataset]:
    def pack(obj: Dataset) -> Dataset:
        if syntax == RLELossless:
            obj.compress(RLELossless, generate_instance_uid=False, encoding_plugin="pydicom")
        else:
            obj.PixelData = encapsulate([_compress(obj, syntax)])
            obj["PixelData"].VR, obj["PixelData"].is_undefined_length = "OB", True
            obj.file_meta.TransferSyntaxUID = syntax
        return obj

    return pack


def _compress(obj: Dataset, syntax: str) -> bytes:
    """A frame compressed by GDCM."""
    import tempfile
    from pathlib import Path

    import gdcm
    from pydicom import dcmread
    from pydicom.encaps import generate_frames

    kinds = {
        "1.2.840.10008.1.2.4.70": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
        "1.2.840.10008.1.2.4.80": gdcm.TransferSyntax.JPEGLSLossless,
        "1.2.840.10008.1.2.4.90": gdcm.TransferSyntax.JPEG2000Lossless,
    }
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = str(Path(folder) / "plain"), str(Path(folder) / "packed")
        Path(plain).write_bytes(encode(obj))
        reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
        reader.SetFileName(plain)
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(kinds[syntax]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(packed)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return next(generate_frames(dcmread(packed).PixelData, number_of_frames=1))


ENCODINGS: tuple[tuple[str, str, Callable[[Dataset], Dataset]], ...] = (
    ("explicit", EXPLICIT, lambda obj: obj),
    ("implicit", IMPLICIT, lambda obj: obj),
    ("deflated", DEFLATED, lambda obj: obj),
    ("big endian", BIG, lambda obj: obj),
    ("rle", EXPLICIT, _packed(RLELossless)),
    ("jpeg", EXPLICIT, _packed("1.2.840.10008.1.2.4.70")),
    ("jpeg-ls", EXPLICIT, _packed("1.2.840.10008.1.2.4.80")),
    ("jpeg 2000", EXPLICIT, _packed("1.2.840.10008.1.2.4.90")),
)
"""Of the slices. Labels are native: as the slices where that is native, else explicit."""


@cache
def study_files(study: str, encoding: int, label: str) -> tuple[bytes, ...]:
    """A study's files: slices, then the label ("seg" or "rtstruct")."""
    _, syntax, pack = ENCODINGS[encoding]
    slices = [encode(pack(obj)) for obj in images(study, syntax)]
    made = segmentation if label == "seg" else structure_set
    return (*slices, encode(made(study, EXPLICIT if syntax == BIG else syntax)))
