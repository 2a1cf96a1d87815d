"""What comes of a series: taken once, only what was asked for, only whole; then counted against the announcement."""

from __future__ import annotations

import threading
from collections.abc import Collection

from messages.reasons import Reason
from site_agent.dicom.base import Fetched, Has, Object, SeriesFound, Take
from site_agent.dicom.extent import lacks_pixels
from site_agent.dicom.sources.pace import Pace

PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

MOST_NAMED = 100
"""Objects of a series that are named as missing, at the most."""


class Arrivals:
    """Objects of one series on their way in; `offer_object` is safe among threads and calls `take` from one at a time.

    Attributes:
        received: objects handed to `take`.
        strangers: objects of another study or series, or without a UID: not taken.
        broken: objects that came incomplete: not taken.
        failure: what `take` raised; nothing is taken any more.
    """

    def __init__(self, series: SeriesFound, has: Has, take: Take, pace: Pace) -> None:
        self.series = series
        self.received = self.strangers = self.broken = 0
        self.failure: Exception | None = None
        self._has = has
        self._take = take
        self._pace = pace
        self._there: set[str] = set()
        self._lock = threading.Lock()

    @property
    def present(self) -> int:
        """Objects of the series that are known to be there now."""
        return len(self._there)

    def is_known(self, sop: str) -> bool:
        """Whether an object need not come: it is there, or came before."""
        with self._lock:
            if sop not in self._there and self._has(sop):
                self._there.add(sop)
            return sop in self._there

    def list_missing(self, listed: Collection[str]) -> list[str]:
        """Those of `listed` that are not there, in its order."""
        return [sop for sop in listed if not self.is_known(sop)]

    def offer_object(self, obj: Object, size: int) -> bool:
        """Take an object that came over the line with `size` bytes.

        Returns:
            Whether it is there now: False for what was not asked for or is incomplete, and after `take` raised.
        """
        try:
            return self._take_offered(obj)
        finally:
            self._pace.take_bytes(size)

    def _take_offered(self, obj: Object) -> bool:
        with self._lock:
            try:
                sop, *asked = (
                    str(obj.get(key) or "") for key in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
                )
            except Exception:  # noqa: BLE001 - whatever a malformed object makes pydicom raise
                self.broken += 1
                return False
            if self.failure is not None:
                return False
            if not sop or asked != [self.series.study, self.series.uid]:
                self.strangers += 1
                return False
            if sop in self._there:
                return True
            if self._has(sop):
                self._there.add(sop)
                return True
            if lacks_pixels(obj):
                self.broken += 1
                return False
            try:
                self._take(obj)
            except Exception as error:  # noqa: BLE001 - a library's thread is no place for it: `count_fetched` raises it
                self.failure = error
                return False
            self._there.add(sop)
            self.received += 1
            return True

    def count_fetched(self, *, listed: Collection[str] = (), failed: bool = False) -> Fetched:
        """The account of the series.

        Args:
            listed: SOP Instance UIDs that the source lists now, beside the number that it announced.
            failed: whether the source said that it could not deliver some.

        Raises:
            Exception: what `take` raised.
        """
        if self.failure is not None:
            raise self.failure
        missing = self.list_missing(listed)
        if not missing and self.present >= (self.series.instances or 0):
            return Fetched(self.received, self.present)
        reason = Reason.RETRIEVE_FAILED if failed or self.broken else Reason.INCOMPLETE_SERIES
        return Fetched(self.received, self.present, reason, tuple(missing[:MOST_NAMED]))


def weigh_object(obj: Object) -> int:
    """About the bytes of an object: those of its pixels, and 4 KiB for the rest."""
    try:
        return 4096 + sum(len(obj.get_item(name).value or b"") for name in PIXELS if name in obj)
    except Exception:  # noqa: BLE001 - whatever a malformed object makes pydicom raise
        return 4096
