"""C-STORE requests that come to us, as sub-operations of C-GET or to our own storage SCP (PS3.4, annex B)."""

from __future__ import annotations

from typing import Any

from site_agent.dicom import reading
from site_agent.dicom.base import Object
from site_agent.dicom.sources.arrivals import Arrivals

STORED = 0x0000
NOT_ASKED_FOR = 0x0124
"""Refused: not authorised."""
CANNOT_UNDERSTAND = 0xC000
CANNOT_KEEP = 0xA700
"""Refused: out of resources."""


def read_request(event: Any) -> tuple[Object, int] | None:
    """The object of a C-STORE request with its file meta information, and its bytes; None where it is damaged."""
    try:
        content = event.request.DataSet.getvalue()
        return reading.read_object(content, str(event.context.transfer_syntax)), len(content)
    except Exception:  # noqa: BLE001 - `Unreadable`, or a request without an object; it is counted as broken
        return None


def store_received(came: tuple[Object, int] | None, arrivals: Arrivals) -> int:
    """The status that answers a C-STORE request (PS3.4, B.2.3), after its object was taken.

    Args:
        came: `read_request`'s answer.
    """
    if came is None:
        arrivals.broken += 1
        return CANNOT_UNDERSTAND
    strangers = arrivals.strangers
    if arrivals.offer_object(*came):
        return STORED
    if arrivals.failure is not None:
        return CANNOT_KEEP
    return NOT_ASKED_FOR if arrivals.strangers > strangers else CANNOT_UNDERSTAND
