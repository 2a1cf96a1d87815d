"""What a preparation may still write: cases that nothing uses go for it, as far as the data set's disk asks."""

from __future__ import annotations

import time
from pathlib import Path

from site_agent.dicom.config import DicomDataset
from site_agent.dicom.prepared import pins
from site_agent.dicom.prepared.index import Index
from site_agent.dicom.prepared.store import Store
from site_agent.disk.room import Room

GROWTH = 2
"""A case takes at most so many times the bytes of its objects, as a rule: 16 bits become 32."""
NO_ROOM = "no room is left for it under limits.disk, or on the disk"
_LARGEST = "largest"
"""Names the bytes of the largest study that came, in the index."""
_BLOCK = 4096
"""Bytes by which a file takes more than its content, at the most."""


class NoRoom(Exception):
    """Another object would take room that rounds need."""


class CaseSpace:
    """The room for objects and cases of one data set, through one preparation.

    Args:
        members: the cases of the state to come, with their digests; they stay. The caller adds to them.
        limit: `limits.disk`.
    """

    def __init__(
        self,
        name: str,
        config: DicomDataset,
        state: Path,
        lying: Store,
        index: Index,
        members: dict[str, str],
        limit: int | None,
    ) -> None:
        self._name, self._state, self._most = name, state, config.disk
        self._store, self._index, self._members = lying, index, members
        self._room = Room(state, limit)
        self._cases = self._came = 0

    def begin_study(self) -> None:
        """Nothing of the next study has come yet."""
        self._came = 0

    def take_object(self, size: int) -> None:
        """An object of so many bytes is about to be written.

        Raises:
            NoRoom: there is none for it.
        """
        size += _BLOCK
        if not self._makes_room(size):
            raise NoRoom
        self._room.note_written(size)
        self._came += size

    def end_study(self) -> None:
        """Remember the largest study that came: what is to be free before another one is fetched."""
        if self._came > int(self._index.noted_value(_LARGEST) or 0):
            self._index.note_value(_LARGEST, str(self._came))

    def has_room(self) -> bool:
        """Whether there is room for a study as large as the largest that came, and its case."""
        return self._makes_room(int(self._index.noted_value(_LARGEST) or 0) * (1 + GROWTH))

    def keep_case(self, case: str, digest: str) -> str:
        """Count a case that lies in the store; why it went again, in words, "" where it stays."""
        size = self._store.size_of(case, digest)
        self._cases += size
        self._room.note_written(size)
        full = self._tell_full()
        if full:
            self._members[case] = digest  # what nothing uses goes first, and this one is used
            self.make_room()
            del self._members[case]
            full = self._tell_full()
        if full:
            self._store.remove_case(case, digest)
            self._cases = self._store.cases_size()
        return full

    def make_room(self, wanted: int = 0) -> None:
        """Remove cases that nothing uses, as far as `disk`, or room for `wanted` more bytes, asks for it."""
        used = self._store.used_by(pins.pinned_states(self._state, self._name))
        used |= {self._store.place_of(case, digest) for case, digest in self._members.items()}
        most, lacking = self._most, self._room.bytes_lacking(wanted)
        if lacking:
            least = self._store.cases_size() - lacking
            most = least if most is None else min(most, least)
        self._cases = self._store.make_room(used, most, time.time())

    def _makes_room(self, wanted: int) -> bool:
        if self._room.bytes_lacking(wanted):
            self.make_room(wanted)
        return not self._room.bytes_lacking(wanted)

    def _tell_full(self) -> str:
        """What stands against the cases that there are, in words; "" where nothing does."""
        if self._most is not None and self._cases > self._most:
            return "the data set's disk in site.toml holds no more cases"
        return NO_ROOM if self._room.bytes_lacking(0) else ""
