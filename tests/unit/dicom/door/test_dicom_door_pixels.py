"""Pixels behind the door: the same values, native, and not a byte beside them."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
from dicom_files import image
from hypothesis import given
from hypothesis import strategies as st
from pydicom import config, dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused
from site_agent.dicom.config import Labels
from site_agent.dicom.door.door import Door
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import encode_object

DOOR = Door(
    Pseudonyms(b"a secret of the site's own, 32 b"), Labels.model_validate({"concepts": {"ET": {"codes": ("SCT:1",)}}})
)


def with_pixels(pixels: np.ndarray, *, stored: int, **values: object) -> Dataset:
    """An image of these pixels, (rows, columns) or (frames, rows, columns)."""
    bits = pixels.dtype.itemsize * 8
    obj = image(BitsAllocated=bits, BitsStored=stored, HighBit=stored - 1)
    obj.Rows, obj.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        obj.NumberOfFrames = len(pixels)
    obj.PixelRepresentation = int(pixels.dtype.kind == "i")
    obj.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    obj["PixelData"].VR = "OW" if bits > 8 else "OB"
    for keyword, value in values.items():
        setattr(obj, keyword, value)
    return obj


def cleaned(obj: Dataset) -> Dataset:
    """As it is read from the spool."""
    return dcmread(BytesIO(encode_object(DOOR.admit_object(obj).object)))


def refused(obj: Dataset) -> Reason:
    with pytest.raises(ObjectRefused) as told:
        DOOR.admit_object(obj)
    return told.value.reason


@given(
    st.sampled_from([("uint8", 8), ("uint16", 16), ("uint16", 12), ("int16", 16), ("int16", 12), ("uint32", 32)]),
    st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_every_value_comes_through(kind: tuple[str, int], shape: tuple[int, int, int], seed: int, packed: bool) -> None:
    dtype, stored = np.dtype(kind[0]), kind[1]
    low = -(2 ** (stored - 1)) if dtype.kind == "i" else 0
    pixels = np.random.default_rng(seed).integers(low, low + 2**stored, shape).astype(dtype)
    obj = with_pixels(pixels, stored=stored)
    if packed and stored < 32:  # RLE takes 8 and 16 bits (PS3.5, 8.2.2)
        obj.compress(RLELossless, generate_instance_uid=False, encoding_plugin="pydicom")
    clean = cleaned(obj)
    assert clean.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    np.testing.assert_array_equal(clean.pixel_array.reshape(shape), pixels)


def test_big_endian_pixels_come_through() -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    obj = with_pixels(pixels, stored=16)
    obj.PixelData = pixels.astype(">u2").tobytes()
    obj.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = BytesIO()
    dcmwrite(buffer, obj, enforce_file_format=True, little_endian=False, implicit_vr=False)
    np.testing.assert_array_equal(cleaned(dcmread(BytesIO(buffer.getvalue()))).pixel_array, pixels)


@pytest.mark.parametrize(
    ("more", "code"), [(0, None), (1, None), (2, Reason.UNDECODABLE_PIXELS), (12, Reason.UNDECODABLE_PIXELS)]
)
def test_pixels_longer_than_the_image_says_by_more_than_a_byte_of_padding_are_refused(
    more: int, code: Reason | None
) -> None:
    obj = image()
    obj.PixelData += b"Qz was here."[:more]
    if code is not None:
        assert refused(obj) is code
    else:
        assert len(cleaned(obj).PixelData) == 128


def test_bytes_behind_compressed_pixels_do_not_come_through() -> None:
    obj = with_pixels(np.arange(64, dtype=np.uint16).reshape(8, 8), stored=16)
    obj.compress(RLELossless, generate_instance_uid=False, encoding_plugin="pydicom")
    [frame] = generate_frames(obj.PixelData, number_of_frames=1)
    tail = b"\0" * (len(frame) % 2) + b"Qz was here."
    obj.PixelData = encapsulate([frame + tail])
    clean = cleaned(obj)
    assert b"Qz was" not in encode_object(DOOR.admit_object(obj).object)
    np.testing.assert_array_equal(clean.pixel_array.ravel(), np.arange(64))


def test_an_overlay_in_the_pixels_unused_bits_is_cleared() -> None:
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8)
    obj = with_pixels(pixels | 0x8000, stored=12)
    obj.add_new(0x60000010, "US", 8)
    obj.add_new(0x60000011, "US", 8)
    obj.add_new(0x60000100, "US", 16)
    obj.add_new(0x60000102, "US", 15)
    clean = cleaned(obj)
    # What lies there, and not what pydicom reads of it: it leaves unused bits out by itself.
    np.testing.assert_array_equal(np.frombuffer(clean.PixelData, "<u2").reshape(8, 8), pixels)
    assert not [element for element in clean if element.tag.group == 0x6000]


def test_bits_that_nothing_explains_are_not_guessed_at() -> None:
    assert refused(with_pixels(np.full((4, 4), 0x8001, np.uint16), stored=12)) is Reason.UNSUPPORTED_IMAGE
    assert refused(with_pixels(np.zeros((4, 4), np.uint16), stored=12, HighBit=15)) is Reason.UNSUPPORTED_IMAGE


def test_signed_pixels_without_copies_of_their_sign_get_them() -> None:
    obj = with_pixels(np.array([[-1, 5], [-2048, 2047]], np.int16), stored=12)
    obj.PixelData = struct.pack("<4H", 0x0FFF, 5, 0x0800, 0x07FF)
    clean = cleaned(obj)
    np.testing.assert_array_equal(clean.pixel_array, [[-1, 5], [-2048, 2047]])
    assert struct.unpack("<4h", clean.PixelData) == (-1, 5, -2048, 2047)


@pytest.mark.parametrize(
    "change",
    [
        lambda obj: setattr(obj, "PixelData", obj.PixelData[:-2]),
        lambda obj: setattr(obj, "NumberOfFrames", 2),
        lambda obj: obj.add_new("PixelData", "OW", b""),
    ],
)
def test_pixels_that_are_not_all_there_are_refused(change: object) -> None:
    obj = image()
    change(obj)
    assert refused(obj) is Reason.UNDECODABLE_PIXELS


def test_compressed_pixels_that_cannot_be_decoded_are_refused() -> None:
    obj = image()
    obj.file_meta.TransferSyntaxUID = RLELossless
    obj.PixelData = encapsulate([b"not a frame of anything."])
    assert refused(obj) is Reason.UNDECODABLE_PIXELS


def test_an_implicit_padding_value_keeps_its_sign() -> None:
    obj = with_pixels(np.full((2, 2), -2000, np.int16), stored=16)
    obj.add_new("PixelPaddingValue", "SS", -2000)
    obj.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    buffer = BytesIO()
    with config.disable_value_validation():
        dcmwrite(buffer, obj, enforce_file_format=True)
    clean = cleaned(dcmread(BytesIO(buffer.getvalue())))
    assert clean.PixelPaddingValue == -2000


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"BitsStored": 17}, Reason.UNSUPPORTED_IMAGE),
        ({"BitsStored": 16, "HighBit": 11}, Reason.UNSUPPORTED_IMAGE),
        ({"BitsAllocated": 24}, Reason.UNSUPPORTED_IMAGE),
        ({"PixelRepresentation": 2}, Reason.UNSUPPORTED_IMAGE),
        ({"SamplesPerPixel": 3}, Reason.UNSUPPORTED_IMAGE),
        ({"FloatPixelData": b"\0" * 256}, Reason.UNSUPPORTED_IMAGE),
        ({"Rows": 65535, "Columns": 65535, "NumberOfFrames": 10000}, Reason.UNSUPPORTED_IMAGE),
        ({"NumberOfFrames": 0}, Reason.UNREADABLE),
        ({"PixelRepresentation": None}, Reason.UNREADABLE),
        ({"Columns": None}, Reason.UNREADABLE),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, Reason.UNDECODABLE_PIXELS),
        ({"NumberOfFrames": 3}, Reason.UNDECODABLE_PIXELS),
    ],
)
def test_what_an_object_says_of_its_pixels_may_not_contradict_itself(changes: dict[str, object], code: Reason) -> None:
    assert refused(image(**changes)) is code


def test_pixels_compressed_to_next_to_nothing_are_not_allocated() -> None:
    obj = with_pixels(np.zeros((8, 8), np.uint16), stored=16)
    obj.compress(RLELossless, generate_instance_uid=False, encoding_plugin="pydicom")
    obj.Rows = obj.Columns = 30000
    assert refused(obj) is Reason.UNDECODABLE_PIXELS


def mask(frames: int, *, padded: bool) -> Dataset:
    """Frames of 9 pixels of one bit, all set; `padded`: each begins on a byte of its own."""
    bits = np.ones((frames, 9), np.uint8)
    content = np.packbits(bits if padded else bits.ravel(), axis=-1, bitorder="little").tobytes()
    obj = image(BitsAllocated=1, BitsStored=1, HighBit=0, Rows=3, Columns=3, NumberOfFrames=frames)
    obj.add_new("PixelData", "OB", content + b"\0" * (len(content) % 2))
    return obj


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
def test_frames_of_single_bits_follow_each_other_without_a_gap(frames: int) -> None:
    assert cleaned(mask(frames, padded=False)).pixel_array.all()
    if frames > 1:
        assert refused(mask(frames, padded=True)) is Reason.UNDECODABLE_PIXELS


@pytest.mark.parametrize("count", [9, 16])
def test_bytes_in_words_of_big_endian_come_through(count: int) -> None:
    pixels = np.arange(count, dtype=np.uint8).reshape(1, count)
    obj = with_pixels(pixels, stored=8)
    obj.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    even = pixels.tobytes() + b"\0" * (count % 2)
    obj.add_new("PixelData", "OW", np.frombuffer(even, "<u2").astype(">u2").tobytes())
    np.testing.assert_array_equal(cleaned(obj).pixel_array.reshape(1, count), pixels)


def test_a_deflated_object_has_native_pixels() -> None:
    obj = with_pixels(np.arange(64, dtype=np.uint16).reshape(8, 8), stored=16)
    obj.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    np.testing.assert_array_equal(cleaned(obj).pixel_array.ravel(), np.arange(64))
