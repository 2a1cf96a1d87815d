"""Compressed frames behind the door: the same values, and neither comments nor application data nor a tail."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import gdcm
import numpy as np
import pytest
from dicom_files import image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000, UID, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless

from messages.reasons import Reason
from site_agent.dicom.base import ObjectRefused
from site_agent.dicom.config import Labels
from site_agent.dicom.door import codestream
from site_agent.dicom.door.door import Door
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import encode_object

DOOR = Door(
    Pseudonyms(b"a secret of the site's own, 32 b"), Labels.model_validate({"concepts": {"ET": {"codes": ("SCT:1",)}}})
)
NAME = b"Qzname^Jones 19481122"
KINDS = {
    JPEGLosslessSV1: gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    JPEGLSLossless: gdcm.TransferSyntax.JPEGLSLossless,
    JPEG2000Lossless: gdcm.TransferSyntax.JPEG2000Lossless,
}
PIXELS = np.random.default_rng(7).integers(0, 4096, (3, 24, 17)).astype("<u2")
"""Noise, which has every byte in its entropy-coded data."""


def packed(syntax: UID, folder: Path) -> Dataset:
    """Three frames of `PIXELS`, compressed by GDCM."""
    obj = image(NumberOfFrames=3, BitsStored=12, HighBit=11)
    obj.Rows, obj.Columns = PIXELS.shape[1:]
    obj.PixelData = PIXELS.tobytes()
    obj.save_as(folder / "plain.dcm", enforce_file_format=True)
    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(folder / "plain.dcm"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(KINDS[syntax]))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(folder / "packed.dcm"))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return dcmread(folder / "packed.dcm")


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def with_frames(obj: Dataset, frames: list[bytes]) -> Dataset:
    obj.PixelData = encapsulate(frames)
    obj["PixelData"].is_undefined_length = True
    return obj


def planted(frame: bytes, syntax: UID) -> bytes:
    """A frame with comments, application data and a tail."""
    if syntax in (JPEG2000, JPEG2000Lossless):
        size = 4 + int.from_bytes(frame[4:6], "big")
        plain = frame[:size] + segment(0x64, b"\0\1" + NAME) + frame[size:]  # SIZ must come first
        return in_tile_part(plain) + NAME
    return frame[:2] + segment(0xFE, NAME) + segment(0xE1, b"Exif\0\0" + NAME) + b"\xff\xff" + frame[2:] + NAME


def in_tile_part(stream: bytes) -> bytes:
    """A comment and packet lengths in the first tile-part's header, and its length with them."""
    at = stream.index(b"\xff\x90")
    length = int.from_bytes(stream[at + 6 : at + 10], "big")
    more = segment(0x64, b"\0\1" + NAME) + segment(0x58, b"\0\1")
    head = stream[at : at + 6] + (length + len(more) if length else 0).to_bytes(4, "big") + stream[at + 10 : at + 12]
    return stream[:at] + head + more + stream[at + 12 :]


def behind(obj: Dataset) -> Dataset:
    content = encode_object(DOOR.admit_object(obj).object)
    assert NAME not in content
    return dcmread(BytesIO(content))


@pytest.mark.parametrize("syntax", KINDS)
def test_frames_keep_their_values_and_lose_what_lies_beside_them(syntax: UID, tmp_path: Path) -> None:
    obj = packed(syntax, tmp_path)
    assert obj.file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(behind(obj).pixel_array, PIXELS)
    frames = [planted(frame, syntax) for frame in generate_frames(obj.PixelData, number_of_frames=3)]
    assert all(frame.count(NAME) == 3 for frame in frames)
    clean = behind(with_frames(obj, frames))
    np.testing.assert_array_equal(clean.pixel_array, PIXELS)
    assert clean.file_meta.TransferSyntaxUID == syntax


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_of_several_scans_keeps_its_values_too(progressive: bool) -> None:
    grey = (PIXELS[0] >> 4).astype(np.uint8)
    buffer = BytesIO()
    exif = Image.Exif()
    exif[0x010E] = NAME.decode()
    Image.fromarray(grey).save(
        buffer, "JPEG", quality=90, progressive=progressive, comment=NAME, exif=exif, restart_marker_rows=1
    )
    frame = buffer.getvalue()
    assert frame.count(NAME) == 2
    kept = codestream.strip_jpeg(frame)
    assert NAME not in kept
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(kept))), np.asarray(Image.open(BytesIO(frame))))


def test_a_code_stream_that_says_who_made_it_no_longer_does() -> None:
    buffer = BytesIO()
    Image.fromarray(PIXELS[0]).save(buffer, "JPEG2000", no_jp2=True, irreversible=False)
    frame = buffer.getvalue()
    kept = codestream.jpeg_2000(frame)
    assert b"OpenJPEG" in frame
    assert b"OpenJPEG" not in kept
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(kept))), PIXELS[0])


def test_a_code_stream_in_boxes_is_refused() -> None:
    buffer = BytesIO()
    Image.fromarray(PIXELS[0]).save(buffer, "JPEG2000", irreversible=False)
    with pytest.raises(codestream.Malformed):
        codestream.jpeg_2000(buffer.getvalue())


@pytest.mark.parametrize("change", ["cut", "one frame fewer", "no frame", "not a frame"])
@pytest.mark.parametrize("syntax", KINDS)
def test_broken_frames_are_refused(syntax: UID, change: str, tmp_path: Path) -> None:
    obj = packed(syntax, tmp_path)
    frames = list(generate_frames(obj.PixelData, number_of_frames=3))
    if change == "one frame fewer":
        with_frames(obj, frames[:2])
    elif change == "no frame":
        obj.PixelData = b""
    else:
        with_frames(obj, [*frames[:2], frames[2][: len(frames[2]) // 2] if change == "cut" else NAME + b"."])
    with pytest.raises(ObjectRefused) as told:
        DOOR.admit_object(obj)
    assert told.value.reason is Reason.UNDECODABLE_PIXELS


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.92", "1.2.840.10008.1.2.8.1"])
def test_other_ways_to_compress_are_refused(syntax: str, tmp_path: Path) -> None:
    obj = packed(JPEGLSLossless, tmp_path)
    obj.file_meta.TransferSyntaxUID = UID(syntax)
    with pytest.raises(ObjectRefused) as told:
        DOOR.admit_object(obj)
    assert told.value.reason is Reason.UNDECODABLE_PIXELS


def test_an_overlay_in_compressed_pixels_is_refused(tmp_path: Path) -> None:
    obj = packed(JPEGLosslessSV1, tmp_path)
    obj.add_new(0x60000102, "US", 15)
    with pytest.raises(ObjectRefused) as told:
        DOOR.admit_object(obj)
    assert told.value.reason is Reason.UNSUPPORTED_IMAGE


@given(st.binary(max_size=300), st.integers(0, 300), st.integers(0, 300))
def test_no_bytes_make_the_walk_do_more_than_refuse(noise: bytes, at: int, cut: int) -> None:
    buffer = BytesIO()
    Image.fromarray((PIXELS[0] >> 4).astype(np.uint8)).save(buffer, "JPEG")
    streams = [
        noise,
        b"\xff\xd8" + noise,
        b"\xff\x4f" + noise,
        buffer.getvalue()[:at] + noise + buffer.getvalue()[cut:],
    ]
    for stream in streams:
        for walk in (codestream.strip_jpeg, codestream.jpeg_2000):
            try:
                kept = walk(stream)
            except codestream.Malformed:
                continue
            assert len(kept) <= len(stream) + 2
            assert walk(kept) == kept


@pytest.mark.parametrize("syntax", KINDS)
def test_frames_say_their_size_and_another_one_is_refused(syntax: UID, tmp_path: Path) -> None:
    obj = packed(syntax, tmp_path)
    assert DOOR.admit_object(obj)
    obj.Rows, obj.Columns = 17, 24
    with pytest.raises(ObjectRefused, match="another size") as told:
        DOOR.admit_object(obj)
    assert told.value.reason is Reason.UNDECODABLE_PIXELS


@pytest.mark.parametrize("syntax", KINDS)
def test_a_second_image_behind_the_first_is_more_than_the_object_says(syntax: UID, tmp_path: Path) -> None:
    obj = packed(syntax, tmp_path)
    frames = [*generate_frames(obj.PixelData, number_of_frames=3)]
    obj.NumberOfFrames = 1
    obj.PixelData = encapsulate([b"".join(frames[:2])])
    with pytest.raises(ObjectRefused) as told:
        DOOR.admit_object(obj)
    assert told.value.reason is Reason.UNDECODABLE_PIXELS
