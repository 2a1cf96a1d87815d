"""Presentation contexts that we propose and accept: which storage classes, in which transfer syntaxes.

One context for each pair of storage class and compressed syntax, so that a PACS can send each object as it lies in its
archive: an acceptor picks one syntax of a context (PS3.8, 9.3.3.2), and what lies there in another it would have to
transcode, or fail. At most 128 fit into an association (PS3.8, 9.3.2.2: odd ids of one byte).
"""

from __future__ import annotations

from typing import Any

LIMIT = 128
NATIVE = (
    "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
    "1.2.840.10008.1.2",  # Implicit VR Little Endian, the default
)
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
JPEG_LOSSLESS_14 = "1.2.840.10008.1.2.4.57"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"

LOSSLESS = (RLE, JPEG_LOSSLESS, JPEG_LOSSLESS_14, JPEG_LS, JPEG_2000_LOSSLESS)
LOSSY = (JPEG_BASELINE, JPEG_EXTENDED, JPEG_LS_NEAR, JPEG_2000)
"""What pydicom decodes by itself (RLE, deflated) or through GDCM."""

IMAGES = (
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
    "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture: sent to be seen and left out, not to fail its series
)
SEGMENTATIONS = (
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
)
STRUCTURES = ("1.2.840.10008.5.1.4.1.1.481.3",)  # RT Structure Set
STORAGE = (*IMAGES, *SEGMENTATIONS, *STRUCTURES)


def transfer_syntaxes(storage: str) -> tuple[tuple[str, ...], ...]:
    """Transfer syntaxes of a storage class as its contexts propose them, the most usual first."""
    more: tuple[str, ...] = (DEFLATED,)
    if storage in IMAGES:
        more = (BIG_ENDIAN, DEFLATED, *LOSSLESS, *LOSSY)
    elif storage in SEGMENTATIONS:
        more = (DEFLATED, *LOSSLESS)
    return (NATIVE, *((syntax,) for syntax in more))


def proposed_contexts() -> list[Any]:
    """Storage contexts for an association that C-GET goes over, as pynetdicom's `build_context` makes them."""
    from pynetdicom import build_context

    return [build_context(storage, list(group)) for storage in STORAGE for group in transfer_syntaxes(storage)]


def accepted_contexts() -> list[Any]:
    """Storage contexts for our own storage SCP."""
    from pynetdicom import build_context

    return [
        build_context(storage, [syntax for group in transfer_syntaxes(storage) for syntax in group])
        for storage in STORAGE
    ]
