"""What a DIMSE status means for us. Pure. PS3.7, annex C; PS3.4, C.4.1.1.4, C.4.2.1.5, C.4.3.1.4."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

MEANINGS: Mapping[int, str] = {
    0x0000: "success",
    0x0105: "no such attribute",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0112: "no such SOP instance",
    0x0117: "invalid object instance",
    0x0118: "no such SOP class",
    0x0119: "class-instance conflict",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xA700: "out of resources",
    0xA701: "out of resources, cannot calculate the number of matches",
    0xA702: "out of resources, cannot perform sub-operations",
    0xA710: "invalid prior record key",
    0xA801: "move destination unknown",
    0xA900: "identifier does not match SOP class",
    0xB000: "sub-operations complete, with failures or warnings",
    0xB001: "matching reached the response limit",
    0xFE00: "cancelled",
}


class RetrievalVerdict(Enum):
    """What follows from a retrieval's final status.

    DONE: all that was asked for was sent. SERIES: this series could not be sent, or not all of it; others may be.
    REFUSED: the PACS does not do what we ask at all.
    """

    DONE = "done"
    SERIES = "series"
    REFUSED = "refused"


def tell_meaning(code: int) -> str:
    """A status in words and figures, such as "status 0xA801, move destination unknown"."""
    return f"status 0x{code:04X}, {MEANINGS.get(code) or _kind_of(code)}"


def is_pending(code: int) -> bool:
    """Whether more answers follow; 0xFF01: and optional keys were not matched, which `wanted` does again."""
    return code in (0xFF00, 0xFF01)


def judge_retrieval(code: int) -> RetrievalVerdict:
    """Judge the final status of a C-GET or C-MOVE."""
    if code == 0x0000:
        return RetrievalVerdict.DONE
    # a warning, resources, frames, or "unable to process": of this series, as far as one can tell
    if code in (0xA700, 0xA701, 0xA702, 0x0110, 0x0112, 0x0213) or code >> 8 == 0xAA or code >> 12 in (0xB, 0xC):
        return RetrievalVerdict.SERIES
    return RetrievalVerdict.REFUSED


def is_passing(code: int) -> bool:
    """Whether a failure may be over by itself: out of resources or unable to process, not forbidden or not known."""
    return code in (0x0110, 0x0213, 0xA700, 0xA701, 0xA702) or code >> 12 == 0xC


def _kind_of(code: int) -> str:
    if code >> 12 == 0xC:
        return "unable to process"
    if code >> 12 == 0xA:
        return "refused"
    if code >> 12 == 0xB or code in (0x0001, 0x0107, 0x0116):
        return "a warning"
    return "a failure" if code >> 8 == 0x01 or code >> 8 == 0x02 else "unknown to DICOM"
