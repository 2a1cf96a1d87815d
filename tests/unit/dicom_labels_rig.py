"""What the tests of labels and grids share: synthetic volumes, segmentations and structure sets, and NRRD files."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import pack_bits

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused, Volume
from site_agent.dicom.config import LabelRule, Labels
from site_agent.dicom.labels import segmentations

EXPLICIT = "1.2.840.10008.1.2.1"
SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"
FRAME, SERIES = "1.2.3.1", "1.2.3.2"
SHAPE = (7, 6, 5)
"""(I, J, K): columns, rows, slices."""
SPACING = (1.5, 2.0, 3.0)
ORIGIN = (-20.0, 10.0, 5.0)
"""LPS."""
CODES = {"tumour": "SCT:108369006", "oedema": "SCT:79654002"}
RULES = Labels(concepts={concept: LabelRule(codes=(code,), names=(concept,)) for concept, code in CODES.items()})
"""Values of its label maps: oedema 1, tumour 2 (sorted)."""
ORDERED = RULES.model_copy(update={"order": ("oedema", "tumour")})


def rotation(degrees: float = 0.0, axis: int = 2) -> npt.NDArray[np.float64]:
    """About one of the patient's axes."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turned = np.eye(3)
    a, b = [n for n in range(3) if n != axis]
    turned[a, a], turned[a, b], turned[b, a], turned[b, b] = c, -s, s, c
    return turned


def volume(
    shape: tuple[int, int, int] = SHAPE,
    *,
    spacing: Sequence[float] = SPACING,
    origin: Sequence[float] = ORIGIN,
    turned: npt.NDArray[np.float64] | None = None,
    series: str = SERIES,
    frame: str = FRAME,
    voxels: npt.NDArray[np.float32] | None = None,
) -> Volume:
    """A volume whose axes run along `turned`'s columns (LPS)."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turned is None else turned) * spacing
    affine[:3, 3] = origin
    return Volume(
        np.zeros(shape, np.float32) if voxels is None else voxels,
        np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine,
        frame,
        series,
        tuple((f"{series}.{k}", 1) for k in range(shape[2])),
    )


def item(**attributes: Any) -> Dataset:
    """A dataset of these attributes."""
    made = Dataset()
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def code(text: str) -> Dataset:
    """A coded concept of "SCHEME:VALUE"."""
    scheme, _, value = text.partition(":")
    return item(CodingSchemeDesignator=scheme, CodeValue=value, CodeMeaning="anything")


def segmentation(
    frames: Sequence[tuple[int, int, npt.NDArray[Any]]],
    codes: Mapping[int, str],
    grid: Volume,
    *,
    kind: str = "BINARY",
    maximum: int = 255,
    between: float | None = None,
    named: Sequence[str] | None = None,
    series: str = SERIES,
    frame: str = FRAME,
    padding: int | None = None,
) -> Dataset:
    """A segmentation on `grid`'s slices.

    Args:
        frames: (segment number, slice k, pixels (rows, columns)); the number is not used for label maps.
        codes: segment number → code of its property type.
        named: SOP Instance UIDs that it says it was drawn on; default: all slices of `grid`. Empty: none, no series.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    row, column = lps[:3, 0] / lengths[0], lps[:3, 1] / lengths[1]
    measures = item(PixelSpacing=[lengths[1], lengths[0]], SliceThickness=lengths[2])
    if between is not None:
        measures.SpacingBetweenSlices = between
    obj = item(
        SOPClassUID=LABEL_MAP if kind == "LABELMAP" else SEGMENTATION,
        SOPInstanceUID="1.2.9.1", StudyInstanceUID="1.2.9.2", SeriesInstanceUID="1.2.9.3", Modality="SEG",
        Rows=grid.voxels.shape[1], Columns=grid.voxels.shape[0], NumberOfFrames=len(frames), SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2", PixelRepresentation=0, SegmentationType=kind,
        ImageType=["DERIVED", "PRIMARY"], InstanceNumber=1, ContentLabel="LABEL", LossyImageCompression="00",
        SharedFunctionalGroupsSequence=[
            item(
                PlaneOrientationSequence=[item(ImageOrientationPatient=[*row, *column])],
                PixelMeasuresSequence=[measures],
            )
        ],
        DimensionIndexSequence=[
            *([] if kind == "LABELMAP" else [_dimension(0x0062000B, 0x0062000A)]),  # Referenced Segment Number
            _dimension(0x00200032, 0x00209113),  # Image Position (Patient)
        ],
        SegmentSequence=[
            item(
                SegmentNumber=number, SegmentLabel="anything", SegmentAlgorithmType="MANUAL",
                SegmentedPropertyCategoryCodeSequence=[code("SCT:49755003")],
                SegmentedPropertyTypeCodeSequence=[code(text)],
            )
            for number, text in codes.items()
        ],
        PerFrameFunctionalGroupsSequence=[
            item(
                PlanePositionSequence=[item(ImagePositionPatient=list((lps @ [0, 0, k, 1])[:3]))],
                FrameContentSequence=[item(DimensionIndexValues=[k + 1] if kind == "LABELMAP" else [number, k + 1])],
                **({} if kind == "LABELMAP" else _identified(number)),
            )
            for number, k, _ in frames
        ],
    )  # fmt: skip
    if frame:
        obj.FrameOfReferenceUID = frame
    instances = [uid for uid, _ in grid.frames] if named is None else named
    if instances:
        images = [
            item(ReferencedSOPClassUID="1.2.840.10008.5.1.4.1.1.4", ReferencedSOPInstanceUID=i) for i in instances
        ]
        obj.ReferencedSeriesSequence = [item(SeriesInstanceUID=series, ReferencedInstanceSequence=images)]
    bits = 1 if kind == "BINARY" else 8
    obj.BitsAllocated = obj.BitsStored = bits
    obj.HighBit = bits - 1
    pixels = np.stack([pixels for *_, pixels in frames]).astype(np.uint8)
    obj.PixelData = pack_bits(pixels.ravel()) if kind == "BINARY" else pixels.tobytes() + b"\0" * (pixels.size % 2)
    if kind == "FRACTIONAL":
        obj.SegmentationFractionalType, obj.MaximumFractionalValue = "PROBABILITY", maximum
    if padding is not None:
        obj.PixelPaddingValue = padding
    obj.file_meta = FileMetaDataset()
    obj.file_meta.TransferSyntaxUID = EXPLICIT
    return obj


def _dimension(pointer: int, group: int) -> Dataset:
    return item(DimensionIndexPointer=pointer, FunctionalGroupPointer=group, DimensionOrganizationUID="1.2.9.4")


def _identified(number: int) -> dict[str, Any]:
    return {"SegmentIdentificationSequence": [item(ReferencedSegmentNumber=number)]}


def structures(
    rois: Sequence[Dataset], contours: Mapping[int, Sequence[Dataset]], *, named: Volume | None = None, **more: Any
) -> Dataset:
    """A structure set of `roi` and `contour` items; `named` is the volume that it says it was drawn on."""
    obj = item(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.481.3",
        Modality="RTSTRUCT",
        StructureSetROISequence=list(rois),
        ROIContourSequence=[
            item(ReferencedROINumber=number, ContourSequence=list(items)) for number, items in contours.items()
        ],
        **more,
    )
    if named is not None:
        images = [item(ReferencedSOPInstanceUID=uid) for uid, _ in named.frames]
        series = item(SeriesInstanceUID=named.series, ContourImageSequence=images)
        study = item(RTReferencedSeriesSequence=[series])
        obj.ReferencedFrameOfReferenceSequence = [
            item(FrameOfReferenceUID=named.frame_of_reference, RTReferencedStudySequence=[study])
        ]
    return obj


def roi(number: int = 1, name: str = "tumour", frame: str = FRAME) -> Dataset:
    """A structure."""
    return item(ROINumber=number, ROIName=name, ReferencedFrameOfReferenceUID=frame)


def contour(
    grid: Volume,
    k: float,
    corners: Sequence[tuple[float, float]],
    *,
    kind: str = "CLOSED_PLANAR",
    image: str | None = None,
) -> Dataset:
    """A contour through corners in `grid`'s voxels (i, j) on slice k."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    points = [(lps @ [i, j, k, 1])[:3] for i, j in corners]
    made = item(
        ContourGeometricType=kind,
        NumberOfContourPoints=len(corners),
        ContourData=[f"{value:.3f}" for point in points for value in point],
    )
    if image is not None:
        made.ContourImageSequence = [item(ReferencedSOPInstanceUID=image)]
    return made


def nrrd(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Voxels (I, J, K) and affine (RAS+) of a gzip-encoded NRRD file in LPS (teem.sourceforge.net/nrrd/format.html)."""
    header, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line and line[0] != "#")
    assert fields["space"] == "left-posterior-superior"
    assert fields["encoding"] == "gzip"
    dtype = {"short": "<i2", "unsigned char": "u1"}[fields["type"]]
    shape = tuple(int(n) for n in fields["sizes"].split())
    affine = np.eye(4)
    affine[:3, :3] = np.array([_vector(text) for text in fields["space directions"].split()]).T
    affine[:3, 3] = _vector(fields["space origin"])
    voxels = np.frombuffer(gzip.decompress(body), dtype=dtype).reshape(shape, order="F")
    return voxels, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _vector(text: str) -> list[float]:
    return [float(value) for value in text.strip("()").split(",")]


def slices(grid: Volume) -> list[Dataset]:
    """The MR objects of `grid`, one a slice."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    lengths = np.linalg.norm(lps[:3, :3], axis=0)
    made = []
    for k, (uid, _) in enumerate(grid.frames):
        obj = item(
            SOPClassUID="1.2.840.10008.5.1.4.1.1.4", SOPInstanceUID=uid, StudyInstanceUID="1.2.9.2",
            SeriesInstanceUID=grid.series, FrameOfReferenceUID=grid.frame_of_reference, Modality="MR",
            Rows=grid.voxels.shape[1], Columns=grid.voxels.shape[0], SamplesPerPixel=1,
            PhotometricInterpretation="MONOCHROME2", PixelRepresentation=0, BitsAllocated=16, BitsStored=12, HighBit=11,
            ImageOrientationPatient=[*(lps[:3, 0] / lengths[0]), *(lps[:3, 1] / lengths[1])],
            ImagePositionPatient=list((lps @ [0, 0, k, 1])[:3]), PixelSpacing=[lengths[1], lengths[0]],
            SliceThickness=lengths[2], PixelData=np.ascontiguousarray(grid.voxels[:, :, k].T, "<u2").tobytes(),
        )  # fmt: skip
        obj.file_meta = FileMetaDataset()
        obj.file_meta.TransferSyntaxUID = EXPLICIT
        made.append(obj)
    return made


def refused(obj: Dataset, reference: Volume, rules: Labels = RULES, drawn_on: Sequence[Volume] = ()) -> Reason:
    """Why a segmentation is no label of this image."""
    with pytest.raises(ObjectRefused) as error:
        segmentations.read_segmentation(obj, reference, rules, drawn_on)
    return error.value.reason
