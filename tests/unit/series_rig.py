"""DICOM series written in memory, with the volume that each must become."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SERIES = "2.25.1000"


@dataclass(frozen=True)
class Truth:
    """A volume (I, J, K) of stored values and its affine (voxel index → LPS millimetres, right-handed)."""

    voxels: npt.NDArray[np.int64]
    affine: npt.NDArray[np.float64]

    @property
    def spacing(self) -> npt.NDArray[np.float64]:
        return np.asarray(np.linalg.norm(self.affine[:3, :3], axis=0))


def truth(
    shape: tuple[int, int, int] = (5, 4, 6),
    rotation: npt.NDArray[np.float64] | None = None,
    spacing: Sequence[float] = (0.9, 1.1, 2.5),
    origin: Sequence[float] = (-80.0, -95.0, 12.5),
    *,
    seed: int = 0,
    low: int = 0,
    high: int = 4096,
) -> Truth:
    """Random voxels on a right-angled grid."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) * np.asarray(spacing)
    affine[:3, 3] = origin
    return Truth(np.random.default_rng(seed).integers(low, high, shape), affine)


def image(pixels: npt.NDArray[np.integer], *, bits: int = 16, signed: bool = False) -> Dataset:
    """An object with a greyscale image (rows, columns) or several (frames, rows, columns) and nothing else."""
    obj = Dataset()
    obj.file_meta = FileMetaDataset()
    obj.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if pixels.ndim == 3:
        obj.NumberOfFrames = len(pixels)
    obj.Rows, obj.Columns = pixels.shape[-2:]
    obj.SamplesPerPixel, obj.PhotometricInterpretation = 1, "MONOCHROME2"
    obj.BitsAllocated, obj.BitsStored, obj.HighBit = 16, bits, bits - 1
    obj.PixelRepresentation = int(signed)
    obj.add_new("PixelData", "OW", pixels.astype("<i2" if signed else "<u2").tobytes())
    return obj


def identify(obj: Dataset, number: int, sop_class: UID = MRImageStorage) -> None:
    """UIDs, modality and the numbers that scanners give."""
    obj.file_meta.MediaStorageSOPClassUID = obj.SOPClassUID = sop_class
    obj.file_meta.MediaStorageSOPInstanceUID = obj.SOPInstanceUID = f"{SERIES}.{number}"
    obj.StudyInstanceUID, obj.SeriesInstanceUID, obj.FrameOfReferenceUID = "2.25.1", SERIES, "2.25.2"
    obj.Modality, obj.PatientID, obj.InstanceNumber = "MR", "p", number
    obj.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]


def place(obj: Dataset, affine: npt.NDArray[np.float64], k: int) -> None:
    """Position, orientation and spacing of slice k."""
    position = affine[:3, 3] + k * affine[:3, 2]
    across, down = (affine[:3, axis] / np.linalg.norm(affine[:3, axis]) for axis in (0, 1))
    obj.ImagePositionPatient = [f"{v:.6f}" for v in position]
    obj.ImageOrientationPatient = [f"{v:.9f}" for v in (*across, *down)]
    obj.PixelSpacing = [f"{np.linalg.norm(affine[:3, axis]):.6f}" for axis in (1, 0)]
    obj.SliceThickness = f"{np.linalg.norm(affine[:3, 2]):.6f}"


def slices(
    of: Truth,
    *,
    first: int = 1,
    bits: int = 16,
    signed: bool = False,
    change: Callable[[Dataset, int], None] | None = None,
) -> list[Dataset]:
    """A single-frame object for each k; `change` alters object k."""
    made = []
    for k in range(of.voxels.shape[2]):
        obj = image(of.voxels[:, :, k].T, bits=bits, signed=signed)
        identify(obj, first + k)
        place(obj, of.affine, k)
        if change is not None:
            change(obj, k)
        made.append(obj)
    return made


def enhanced(of: Sequence[Truth], frames: Sequence[tuple[int, int]], *, number: int = 1) -> Dataset:
    """An enhanced MR object: its frames are (which truth, which k), in this order; the truth's number is the time."""
    obj = image(np.stack([of[which].voxels[:, :, k].T for which, k in frames]))
    identify(obj, number, EnhancedMRImageStorage)
    shared = Dataset()
    shared.PixelMeasuresSequence = Items([Dataset()])
    shared.PlaneOrientationSequence = Items([Dataset()])
    obj.DimensionIndexSequence = Items([Dataset(), Dataset()])
    obj.DimensionIndexSequence[0].DimensionIndexPointer = 0x00209128  # Temporal Position Index
    obj.DimensionIndexSequence[1].DimensionIndexPointer = 0x00209057  # In-Stack Position Number
    per_frame = []
    for which, k in frames:
        where = Dataset()
        place(where, of[which].affine, k)
        measures, orientation = shared.PixelMeasuresSequence[0], shared.PlaneOrientationSequence[0]
        measures.PixelSpacing, measures.SliceThickness = where.PixelSpacing, where.SliceThickness
        orientation.ImageOrientationPatient = where.ImageOrientationPatient
        groups = Dataset()
        groups.PlanePositionSequence = Items([Dataset()])
        groups.PlanePositionSequence[0].ImagePositionPatient = where.ImagePositionPatient
        groups.FrameContentSequence = Items([Dataset()])
        content = groups.FrameContentSequence[0]
        content.StackID, content.InStackPositionNumber = "1", k + 1
        content.TemporalPositionIndex = which + 1
        content.DimensionIndexValues = [which + 1, k + 1]
        per_frame.append(groups)
    obj.SharedFunctionalGroupsSequence, obj.PerFrameFunctionalGroupsSequence = Items([shared]), Items(per_frame)
    return obj


def world_agrees(
    voxels: npt.NDArray[np.floating], affine: npt.NDArray[np.float64], expected: Truth, *, within: float = 1e-3
) -> None:
    """Asserts that a volume (RAS) holds the truth's values at the truth's places, whatever the order of its axes."""
    to_truth = np.linalg.inv(LPS_TO_RAS @ expected.affine) @ affine
    index = np.indices(voxels.shape).reshape(3, -1)
    found = to_truth[:3, :3] @ index + to_truth[:3, 3:]
    assert np.abs(found - np.rint(found)).max() * expected.spacing.max() < within
    assert sorted(voxels.shape) == sorted(expected.voxels.shape)
    i, j, k = np.rint(found).astype(int)
    np.testing.assert_array_equal(voxels.reshape(-1), expected.voxels[i, j, k])
