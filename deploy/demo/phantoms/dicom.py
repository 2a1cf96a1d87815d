"""The demo's patients as a hospital's PACS holds them: DICOM MR series and a DICOM SEG a study, with invented names.

One classic MR series a contrast (PS3.3, A.4), axial, one object a slice, with the acquisition parameters that such a
contrast has; a localizer, as every examination has one; and a binary segmentation (PS3.3, A.51) drawn on T1c whose
segments are known by code (CID 7151: Necrosis, Edema, Enhancing Lesion). Values are rescaled to 12 bits, as scanners
store them: what is read back differs from the phantom by at most half a rescale slope.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.demo.phantoms.anatomy import Spacing

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
MOST_STORED = 4095
REFERENCE = "T1c"
"""The series that the segmentation is drawn on."""
CODES: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "NCR": ("SCT", "6574001", "Necrosis"),
        "ED": ("SCT", "79654002", "Edema"),
        "ET": ("NCIt", "C113842", "Enhancing Lesion"),
    }
)
"""Concept → coding scheme, value, meaning, in the order of the phantoms' label values 1, 2, 3."""
_CATEGORY = ("49755003", "SCT", "Morphologically Abnormal Structure")

_FAMILIES = ("Muster", "Beispiel", "Doe", "Roe", "Dupont", "Rossi", "Kowalska", "Jansen", "Novak", "García")
_GIVEN = ("Erika", "Max", "Jane", "John", "Jeanne", "Mario", "Anna", "Piet", "Eva", "José")


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a contrast is acquired: milliseconds, as (0018,0080), (0018,0081), (0018,0082) have them."""

    sequence: tuple[str, ...]
    repetition: float
    echo: float
    train: int
    inversion: float | None = None


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "T1": Protocol(("SE",), 550.0, 11.0, 1),
        "T2": Protocol(("SE",), 4800.0, 102.0, 17),
        "FLAIR": Protocol(("SE", "IR"), 9000.0, 120.0, 21, 2500.0),
        "T1c": Protocol(("SE",), 550.0, 11.0, 1),
    }
)
"""In the order in which they are acquired: contrast agent last."""

_DESCRIPTIONS = (
    {"T1": "t1_se_tra", "T1c": "t1_se_tra_KM", "T2": "t2_tse_tra", "FLAIR": "t2_tirm_tra_dark-fluid"},
    {"T1": "Ax T1", "T1c": "Ax T1 +C", "T2": "Ax T2 FSE", "FLAIR": "Ax T2 FLAIR"},
    {"T1": "T1W_SE", "T1c": "T1W_SE GD", "T2": "T2W_TSE", "FLAIR": "FLAIR_longTR"},
)
"""What each hospital's people call them."""


@dataclass(frozen=True, slots=True)
class Examination:
    """Who was examined when. Everything in it is invented; `uid` is the Study Instance UID."""

    uid: str
    patient_id: str
    patient_name: str
    born: date
    sex: str
    day: date
    accession: str
    site_index: int


def make_uid(*parts: object) -> str:
    """A UID out of a text, the same for the same text (PS3.5, B.2: "2.25." and a 128-bit number)."""
    return f"2.25.{int.from_bytes(sha256('|'.join(map(str, parts)).encode()).digest()[:16], 'big')}"


def invent_examination(
    seed: int, site_index: int, patient: int, visit: int, patient_id: str, study: str
) -> Examination:
    """An invented examination; `patient_id` and `study` (Study Instance UID) come from `identities`."""
    rng = np.random.default_rng([seed, site_index, patient, 8])
    born = date(1935, 1, 1) + timedelta(days=int(rng.integers(0, 20000)))
    first = date(2023, 1, 2) + timedelta(days=int(rng.integers(0, 600)))
    name = f"{_FAMILIES[int(rng.integers(len(_FAMILIES)))]}^{_GIVEN[int(rng.integers(len(_GIVEN)))]}"
    return Examination(
        uid=study,
        patient_id=patient_id,
        patient_name=name,
        born=born,
        sex="FM"[int(rng.integers(2))],
        day=first + timedelta(days=91 * visit),
        accession=f"A{site_index}{patient:04d}{visit:02d}",
        site_index=site_index,
    )


def make_objects(
    images: Mapping[str, npt.NDArray[np.int16]],
    label: npt.NDArray[np.uint8],
    spacing: Spacing,
    examined: Examination,
) -> Iterator[Any]:
    """A study's objects as pydicom Datasets, the segmentation last.

    Args:
        images: contrast → (X, Y, Z) in RAS, values from 0; the volume's middle is the origin.
        label: the same grid; 0 background, 1 NCR, 2 ED, 3 ET.
        spacing: mm.
    """
    yield from _make_localizer(examined, spacing)
    drawn_on: list[Any] = []
    for number, contrast in enumerate(PROTOCOLS, start=2):
        for slice_ in _make_series(images[contrast], spacing, examined, contrast, number):
            if contrast == REFERENCE:
                drawn_on.append(slice_)
            yield slice_
    yield _make_segmentation(label, drawn_on, examined)


def encode_dataset(dataset: Any) -> bytes:
    """A Dataset as a DICOM file (PS3.10)."""
    import pydicom

    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def scale_to_stored(voxels: npt.NDArray[np.int16]) -> tuple[npt.NDArray[np.uint16], float]:
    """Stored values (0 to 4095) and the rescale slope: value = slope · stored, off by at most half a slope."""
    # rounded up to what a DS of 16 characters holds without loss
    slope = max(1, int(np.ceil(int(voxels.max()) / MOST_STORED * 10_000))) / 10_000
    return np.rint(voxels / slope).astype(np.uint16), slope


def _make_series(
    voxels: npt.NDArray[np.int16], spacing: Spacing, examined: Examination, contrast: str, number: int
) -> Iterator[Any]:
    """Axial slices from the feet up: columns run to the patient's left, rows to the back."""
    values, slope = scale_to_stored(voxels)
    series = make_uid(examined.uid, contrast)
    protocol = PROTOCOLS[contrast]
    nx, ny, nz = voxels.shape
    # the first pixel of an image is the rightmost, foremost voxel; DICOM's x and y are RAS's with the other sign
    corner = (-(nx - 1) / 2 * spacing[0], -(ny - 1) / 2 * spacing[1])
    for k in range(nz):
        one = _mr_object(examined, series, k + 1)
        one.SeriesNumber = number
        one.SeriesDescription = one.ProtocolName = _DESCRIPTIONS[examined.site_index % len(_DESCRIPTIONS)][contrast]
        one.SeriesTime = one.AcquisitionTime = one.ContentTime = f"{9 + number:02d}1500"
        one.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        one.ScanningSequence = list(protocol.sequence)
        one.RepetitionTime, one.EchoTime = protocol.repetition, protocol.echo
        one.EchoTrainLength = protocol.train
        if protocol.inversion is not None:
            one.InversionTime = protocol.inversion
        if contrast == "T1c":
            one.ContrastBolusAgent = "Gadobutrol"
            one.ContrastBolusRoute = "IV"
            one.ContrastBolusVolume = 7.5
        one.ImagesInAcquisition = nz
        z = (k - (nz - 1) / 2) * spacing[2]
        _set_plane(one, (1, 0, 0, 0, 1, 0), (*corner, z), (spacing[1], spacing[0]), spacing[2])
        one.SliceLocation = _decimal_string(z)
        # columns of the DICOM image are x, its rows y: both from the other end
        _set_pixels(one, values[::-1, ::-1, k].T, slope)
        yield one


def _make_localizer(examined: Examination, spacing: Spacing) -> Iterator[Any]:
    """Three planes at right angles, as the technician plans on; nothing to train on."""
    series = make_uid(examined.uid, "localizer")
    for index, orientation in enumerate(((1, 0, 0, 0, 1, 0), (1, 0, 0, 0, 0, -1), (0, 1, 0, 0, 0, -1))):
        one = _mr_object(examined, series, index + 1)
        one.SeriesNumber = 1
        one.SeriesDescription = one.ProtocolName = "localizer"
        one.SeriesTime = one.AcquisitionTime = one.ContentTime = "100000"
        one.ImageType = ["ORIGINAL", "PRIMARY", "M", "LOCALIZER"]
        one.ScanningSequence = ["GR"]
        one.RepetitionTime, one.EchoTime, one.EchoTrainLength = 8.6, 4.0, 1
        _set_plane(one, orientation, (-80.0, -80.0, 80.0), (5.0, 5.0), spacing[2])
        _set_pixels(one, np.full((32, 32), 200, np.uint16), 1.0)
        yield one


def _mr_object(examined: Examination, series: str, instance: int) -> Any:
    """What every MR object of an examination has in common."""
    from pydicom.dataset import Dataset, FileMetaDataset

    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = EXPLICIT_LITTLE_ENDIAN
    one.SpecificCharacterSet = "ISO_IR 192"
    one.SOPClassUID = MR_IMAGE_STORAGE
    one.SOPInstanceUID = make_uid(series, instance)
    one.StudyInstanceUID, one.SeriesInstanceUID = examined.uid, series
    one.FrameOfReferenceUID = make_uid(examined.uid, "frame of reference")
    one.PositionReferenceIndicator = ""
    one.StudyDate = one.SeriesDate = one.AcquisitionDate = one.ContentDate = f"{examined.day:%Y%m%d}"
    one.StudyTime = "095500"
    one.StudyID, one.AccessionNumber = "1", examined.accession
    one.StudyDescription = "MR brain with contrast"
    one.PatientName, one.PatientID = examined.patient_name, examined.patient_id
    one.PatientBirthDate, one.PatientSex = f"{examined.born:%Y%m%d}", examined.sex
    one.ReferringPhysicianName = "Hausarzt^Hanna"
    one.InstitutionName = f"Demo hospital {chr(ord('A') + examined.site_index)}"
    one.Modality, one.BodyPartExamined, one.PatientPosition = "MR", "BRAIN", "HFS"
    one.Manufacturer, one.ManufacturerModelName = "Konsil demo", f"Phantom {examined.site_index + 1}"
    one.DeviceSerialNumber, one.SoftwareVersions = f"{1000 + examined.site_index}", "1"
    one.MagneticFieldStrength = 1.5
    one.SequenceVariant, one.ScanOptions, one.MRAcquisitionType = "NONE", "", "2D"
    one.AcquisitionNumber, one.InstanceNumber = 1, instance
    return one


def _set_plane(
    one: Any,
    orientation: tuple[int, ...],
    position: tuple[float, float, float],
    pixel: tuple[float, float],
    distance: float,
) -> None:
    """Image plane (PS3.3, C.7.6.2); `pixel` is the spacing of rows, then of columns."""
    one.ImageOrientationPatient = list(orientation)
    one.ImagePositionPatient = [_decimal_string(value) for value in position]
    one.PixelSpacing = [_decimal_string(value) for value in pixel]
    one.SliceThickness = one.SpacingBetweenSlices = _decimal_string(distance)


def _set_pixels(one: Any, values: npt.NDArray[np.uint16], slope: float) -> None:
    """Image pixel module (PS3.3, C.7.6.3) with its rescale; `values` (rows, columns) from 0 to 4095."""
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.Rows, one.Columns = values.shape
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
    one.RescaleSlope, one.RescaleIntercept, one.RescaleType = _decimal_string(slope), 0, "US"
    one.WindowCenter, one.WindowWidth = 600, 1200
    one.PixelData = np.ascontiguousarray(values, "<u2").tobytes()


def _make_segmentation(label: npt.NDArray[np.uint8], drawn_on: list[Any], examined: Examination) -> Any:
    """A binary SEG of the whole label; a segment that the label does not have is described and has no frame."""
    import highdicom
    from pydicom.sr.coding import Code

    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=meaning,
            segmented_property_category=Code(*_CATEGORY),
            segmented_property_type=Code(value, scheme, meaning),
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number, (scheme, value, meaning) in enumerate(CODES.values(), start=1)
    ]
    series = make_uid(examined.uid, "segmentation")
    made = highdicom.seg.Segmentation(
        source_images=drawn_on,
        pixel_array=np.ascontiguousarray(label[::-1, ::-1].transpose(2, 1, 0)),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=series,
        series_number=100,
        sop_instance_uid=make_uid(series, 1),
        instance_number=1,
        manufacturer="Konsil demo",
        manufacturer_model_name="Phantom",
        software_versions="1",
        device_serial_number="1",
        content_creator_name="Radiologe^Rita",
        content_label="TUMOUR",
        series_description="tumour, drawn by hand",
    )
    # the library takes the clock and a random UID; the same seed shall write the same objects
    made.ContentDate = made.SeriesDate = made.InstanceCreationDate = f"{examined.day:%Y%m%d}"
    made.ContentTime = made.SeriesTime = made.InstanceCreationTime = "170000"
    del made.ContributingEquipmentSequence
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = make_uid(series, "dimensions")
    return made


def _decimal_string(value: float) -> Any:
    """A Decimal String of at most 16 characters (PS3.5, 6.2)."""
    from pydicom.valuerep import DSfloat

    return DSfloat(float(value), auto_format=True)
