"""From stored pixels to numbers: scales, signs, MONOCHROME1, compressed transfer syntaxes, broken pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from series_rig import Truth, slices, truth, world_agrees

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused
from site_agent.dicom.volumes import assembly

SIGNED = truth(low=-2000, high=2000)


def refused(objects: list[Dataset]) -> Reason:
    with pytest.raises(ObjectRefused) as told:
        assembly.build_volumes(objects)
    return told.value.reason


def test_each_frame_is_scaled_by_its_own_slope_and_intercept() -> None:
    def change(obj: Dataset, k: int) -> None:
        obj.RescaleSlope, obj.RescaleIntercept = 0.5 + k, -3 * k

    [volume] = assembly.build_volumes(slices(truth(), change=change))
    k = np.arange(6)
    np.testing.assert_array_equal(volume.voxels, (truth().voxels * (0.5 + k) - 3 * k).astype(np.float32))


@pytest.mark.parametrize("bits", [12, 16])
def test_signed_pixels_keep_their_sign(bits: int) -> None:
    [volume] = assembly.build_volumes(slices(SIGNED, bits=bits, signed=True))
    world_agrees(volume.voxels, volume.affine, SIGNED)


def test_bits_above_the_stored_ones_do_not_count() -> None:
    objects = slices(Truth(truth().voxels | 0xA000, truth().affine), bits=12)
    [volume] = assembly.build_volumes(objects)
    world_agrees(volume.voxels, volume.affine, truth())


@pytest.mark.parametrize(("signed", "low", "high"), [(False, 0, 4095), (True, -2048, 2047)])
def test_monochrome1_is_turned_around_within_its_bits(signed: bool, low: int, high: int) -> None:
    stored = truth(low=low, high=high + 1)
    stored.voxels[0, 0, :2] = low, high
    turned = Truth(low + high - stored.voxels, stored.affine)

    def white_is_small(obj: Dataset, _: int) -> None:
        obj.PhotometricInterpretation = "MONOCHROME1"

    [volume] = assembly.build_volumes(slices(stored, bits=12, signed=signed, change=white_is_small))
    world_agrees(volume.voxels, volume.affine, turned)
    assert (volume.voxels.min(), volume.voxels.max()) == (low, high)


def test_ct_numbers_are_not_turned_around() -> None:
    def change(obj: Dataset, _: int) -> None:
        obj.PhotometricInterpretation, obj.Modality, obj.RescaleIntercept = "MONOCHROME1", "CT", -1024

    [volume] = assembly.build_volumes(slices(truth(), change=change))
    np.testing.assert_array_equal(volume.voxels, truth().voxels - 1024)


def with_lut(obj: Dataset, _: int) -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.ModalityLUTType = [4096, 0, 16], "US"
    lut.add_new("LUTData", "OW", (np.arange(4096) // 2 + 7).astype("<u2").tobytes())
    obj.ModalityLUTSequence = Items([lut])


def test_a_modality_lut_is_applied() -> None:
    [volume] = assembly.build_volumes(slices(truth(), change=with_lut))
    np.testing.assert_array_equal(volume.voxels, truth().voxels // 2 + 7)


def test_monochrome1_with_a_modality_lut_is_refused() -> None:
    objects = slices(truth(), change=with_lut)
    objects[0].PhotometricInterpretation = "MONOCHROME1"
    assert refused(objects) is Reason.UNSUPPORTED_IMAGE


def encoded(obj: Dataset, syntax: int, folder: Path) -> Dataset:
    """The object with its pixels compressed by GDCM (lossless)."""
    plain, packed = str(folder / "plain.dcm"), str(folder / f"{obj.InstanceNumber}.dcm")
    obj.save_as(plain, enforce_file_format=True)
    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(plain)
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(packed)
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return pydicom.dcmread(packed)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    ("syntax", "uid"),
    [
        (gdcm.TransferSyntax.RLELossless, RLELossless),
        (gdcm.TransferSyntax.JPEGLosslessProcess14_1, JPEGLosslessSV1),
        (gdcm.TransferSyntax.JPEGLSLossless, JPEGLSLossless),
        (gdcm.TransferSyntax.JPEG2000Lossless, JPEG2000Lossless),
    ],
)
def test_losslessly_compressed_pixels_become_the_same_numbers(
    syntax: int, uid: str, signed: bool, tmp_path: Path
) -> None:
    expected = truth((16, 12, 3), low=-2000 if signed else 0, high=2000)
    objects = [encoded(obj, syntax, tmp_path) for obj in slices(expected, signed=signed)]
    assert {obj.file_meta.TransferSyntaxUID for obj in objects} == {uid}
    [volume] = assembly.build_volumes(objects)
    world_agrees(volume.voxels, volume.affine, expected)


def cut(obj: Dataset) -> None:
    obj.PixelData = obj.PixelData[:-4]


def garbled(obj: Dataset) -> None:
    obj.file_meta.TransferSyntaxUID = JPEG2000Lossless
    obj.PixelData = pydicom.encaps.encapsulate([b"not a codestream"])


def huge(obj: Dataset) -> None:
    obj.Rows = obj.Columns = 20000


@pytest.mark.parametrize(
    "spoil",
    [
        cut,
        garbled,
        lambda obj: delattr(obj, "PixelData"),
        lambda obj: setattr(obj.file_meta, "TransferSyntaxUID", "1.2.3"),
        lambda obj: delattr(obj.file_meta, "TransferSyntaxUID"),
    ],
)
def test_pixels_that_cannot_be_decoded_are_refused(spoil: Callable[[Dataset], None]) -> None:
    objects = slices(truth())
    spoil(objects[4])
    assert refused(objects) is Reason.UNDECODABLE_PIXELS


def test_images_that_claim_to_be_huge_are_refused_before_memory_is_taken_for_them() -> None:
    objects = slices(truth())
    for obj in objects[:2]:
        huge(obj)
    assert refused(objects[:2]) is Reason.UNDECODABLE_PIXELS
    for obj in objects:
        huge(obj)
    assert refused(objects) is Reason.UNSUPPORTED_IMAGE


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PhotometricInterpretation", "RGB"),
        ("PhotometricInterpretation", "PALETTE COLOR"),
        ("SamplesPerPixel", 3),
        ("HighBit", 11),
        ("BitsAllocated", 1),
        ("Rows", 0),
        ("RescaleSlope", 0),
        ("RescaleSlope", float("nan")),
    ],
)
def test_what_is_no_greyscale_image_with_a_scale_is_refused(keyword: str, value: object) -> None:
    objects = slices(truth())
    setattr(objects[1], keyword, value)
    assert refused(objects) is Reason.UNSUPPORTED_IMAGE


def test_float_pixels_with_nan_are_refused() -> None:
    objects = slices(truth())
    for obj in objects:
        pixels = np.ones((obj.Rows, obj.Columns), dtype="<f4")
        pixels[0, 0] = np.nan
        del obj.PixelData, obj.PixelRepresentation, obj.BitsStored, obj.HighBit
        obj.BitsAllocated = 32
        obj.add_new("FloatPixelData", "OF", pixels.tobytes())
    assert refused(objects) is Reason.NOT_FINITE
