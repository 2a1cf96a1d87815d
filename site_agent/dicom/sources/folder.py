"""A folder of DICOM files: any names, any depth, with or without DICOMDIR; other files among them are counted.

`find` reads headers only and keeps of each file its path and eight bytes; `fetch` reads one series' files whole. What
is found is what lies there: only a DICOMDIR (PS3.3, annex F) says how many objects a series should have.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.dicom.base import Fetched, Has, Looked, Object, SeriesFound, StudyFound, Take
from site_agent.dicom.config import FolderSource
from site_agent.dicom.hush import hush
from site_agent.dicom.sources.arrivals import Arrivals
from site_agent.dicom.sources.pace import Pace
from site_agent.dicom.sources.wanted import Described, Wanted, identified, usable

DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
PREAMBLE, MAGIC = 128, b"DICM"
"""PS3.10, 7.1. Files of the time before it begin with the data set."""
SMALL = 2**20
"""Bytes up to which a file is read whole at once; of larger ones the header first, since they may be there already."""
HEADER = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "PatientID",
    "IssuerOfPatientID",
    "AccessionNumber",
    "StudyDate",
    "StudyDescription",
)


@dataclass(slots=True)
class _Series:
    """Files of one series: names relative to the folder, NUL between them, and a digest of each SOP Instance UID."""

    modality: str
    names: bytearray = field(default_factory=bytearray)
    digests: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, name: str, sop: str) -> None:
        self.names += os.fsencode(name) + b"\0"
        self.digests.append(int.from_bytes(blake2b(sop.encode(), digest_size=8).digest(), "little"))

    def files(self) -> Iterator[str]:
        return (os.fsdecode(name) for name in bytes(self.names).split(b"\0")[:-1])

    @property
    def distinct(self) -> int:
        return len(set(self.digests))

    @property
    def mark(self) -> str:
        """Changes when other objects lie there than before, whatever their files are called."""
        return blake2b(array("Q", sorted(set(self.digests))).tobytes(), digest_size=16).hexdigest()


@dataclass(slots=True)
class _Study:
    described: Described
    patients: set[str]
    series: dict[str, _Series] = field(default_factory=dict)

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset(series.modality for series in self.series.values())


class FolderReader:
    """`base.Source` over a folder.

    Args:
        config: the data set's settings; `associations` and `rate` bound reading, too.
    """

    def __init__(self, config: FolderSource) -> None:
        hush()
        self._folder = config.path
        self._wanted = Wanted.read(config.query)
        self._pace = Pace(config.associations, config.rate)
        self._looked = Looked()
        self._files: dict[tuple[str, str], _Series] = {}

    @property
    def looked(self) -> Looked:
        """What the last `find` came across besides."""
        return self._looked

    def find(self) -> Sequence[StudyFound]:
        """Every study that fits the query, by a look at each file's header; sorted by Study Instance UID.

        Raises:
            DataError: the folder is missing, or it or one within it may not be read.
        """
        counts: Counter[str] = Counter()
        studies: dict[str, _Study] = {}
        announced: Counter[str] = Counter()
        for name in files(self._folder):
            header = self._header(name, counts)
            if header is None:
                continue
            if _is_index(header):
                announced |= _listed(self._folder / name)
                continue
            counts["objects"] += 1
            _enter(studies, header, name, counts)
        self._files = {}
        found = [self._found(uid, study, announced, counts) for uid, study in sorted(studies.items())]
        counts["duplicates"] = sum(
            len(series.digests) - series.distinct for study in studies.values() for series in study.series.values()
        )
        self._looked = Looked(**counts)
        return [study for study in found if study is not None]

    def fetch(self, series: SeriesFound, has: Has, take: Take) -> Fetched:
        """Read what of a series is not there yet. A file that vanished or does not read any more counts as failed."""
        there = self._files.get((series.study, series.uid))
        arrivals = Arrivals(series, has, take, self._pace)
        if there is None:
            return Fetched(0, 0, Reason.RETRIEVE_FAILED)
        unread = 0
        with self._pace.association():
            for name in there.files():
                path = self._folder / name
                size = _size(path)
                obj = _read(path, header=size > SMALL)
                if obj is None:
                    unread += 1
                elif not arrivals.known(_text(obj, "SOPInstanceUID")):
                    obj = _read(path) if size > SMALL else obj
                    unread += obj is None or not arrivals.offer(obj, size)
                if arrivals.failure is not None:
                    break
        fetched = arrivals.fetched(failed=unread > 0)
        if fetched.reason is None and fetched.present < there.distinct:
            return Fetched(fetched.received, fetched.present, Reason.RETRIEVE_FAILED)
        return fetched

    def close(self) -> None:
        """Forget what was found."""
        self._files = {}

    def _header(self, name: str, counts: Counter[str]) -> Any | None:
        kind = sniff(self._folder / name)
        if kind is None:
            counts["not_dicom"] += 1
            return None
        header = _read(self._folder / name, header=True)
        if header is None or ("SOPInstanceUID" not in header and not _is_index(header)):
            # without the magic word the first bytes may have looked like DICOM by chance
            counts["unreadable" if kind else "not_dicom"] += 1
            return None
        return header

    def _found(self, uid: str, study: _Study, announced: Counter[str], counts: Counter[str]) -> StudyFound | None:
        described = Described(
            study.described.patient,
            study.described.accession,
            study.described.date,
            study.described.description,
            study.modalities,
        )
        if not self._wanted.fits(described):
            counts["not_asked"] += 1
            return None
        if len(study.patients) > 1:
            counts["mixed_patients"] += 1
            return None
        found = []
        for key, series in sorted(study.series.items()):
            if self._wanted.takes(series.modality):
                self._files[uid, key] = series
                # a DICOMDIR that lists fewer than there are is out of date and says nothing
                listed = announced[key] if announced[key] >= series.distinct else None
                found.append(SeriesFound(uid, key, series.modality, listed, series.mark))
        return StudyFound(uid, next(iter(study.patients)), tuple(found))


def files(folder: Path) -> Iterator[str]:
    """Names of all regular files below `folder`, relative to it, folder by folder in order; links to folders unseen.

    Raises:
        DataError: the folder is missing, or it or one within it may not be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"the folder cannot be read ({error.strerror})",
            where=str(error.filename or folder),
            advice="Check path, mount and permissions: a part of it would pass for all of it",
        )

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(place, name)
            if os.path.isfile(path):  # no pipe, no socket, no broken link
                yield os.path.relpath(path, folder)


def sniff(path: Path) -> bool | None:
    """Whether a file is DICOM: True by the magic word (PS3.10, 7.1), False where it may be without, None: it is not."""
    try:
        with path.open("rb") as file:
            start = file.read(PREAMBLE + len(MAGIC))
    except OSError:
        return True  # it cannot be told: reading it will fail, and count
    if start[PREAMBLE:] == MAGIC:
        return True
    # a data set begins with group 0002 or 0008, little endian, its VR in letters or its length below 64 KiB
    group, element, rest = start[0:2], start[2:4], start[4:8]
    plausible = len(rest) == 4 and ((rest[:2].isalpha() and rest[:2].isupper()) or rest[2:] == b"\0\0")
    return False if group in (b"\x02\0", b"\x08\0") and element[1:] == b"\0" and plausible else None


def _enter(studies: dict[str, _Study], header: Any, name: str, counts: Counter[str]) -> None:
    """Enter a file under its study and series."""
    study_uid, series_uid = (str(header.get(key, "") or "") for key in ("StudyInstanceUID", "SeriesInstanceUID"))
    sop = _text(header, "SOPInstanceUID")
    if not (usable(study_uid) and usable(series_uid) and usable(sop)):
        counts["unusable"] += 1
        return
    patient = _text(header, "PatientID")
    study = studies.get(study_uid)
    if study is None:
        described = Described(
            patient, _text(header, "AccessionNumber"), _text(header, "StudyDate"), _text(header, "StudyDescription")
        )
        study = studies[study_uid] = _Study(described, set())
    study.patients.add(identified(patient, _text(header, "IssuerOfPatientID")))
    series = study.series.get(series_uid)
    if series is None:
        series = study.series[series_uid] = _Series(_text(header, "Modality"))
    series.add(name, sop)


def _is_index(header: Any) -> bool:
    return bool(header.file_meta.get("MediaStorageSOPClassUID") == DICOMDIR_CLASS)


def _text(header: Any, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip()


@cache
def _tags() -> tuple[Any, ...]:
    """`HEADER` as tags: keywords are looked up anew each time."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.tag import Tag

    return tuple(Tag(tag_for_keyword(keyword) or 0) for keyword in HEADER)


def _size(path: Path) -> int:
    """Bytes of a file; 0 where it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path, *, header: bool = False) -> Object | None:
    """One file, or its header alone; None where it cannot be read as DICOM."""
    import pydicom
    from pydicom.errors import InvalidDicomError
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    try:
        obj = pydicom.dcmread(path, force=True, stop_before_pixels=header, specific_tags=[*_tags()] if header else None)
        for tag in _tags():
            obj.get(tag)  # decoded here, where a damaged value is an unreadable file
    except (OSError, EOFError, InvalidDicomError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
        return None
    if obj.get("SOPInstanceUID") is None and not header:
        return None
    if "TransferSyntaxUID" not in obj.file_meta:
        implicit, _ = obj.original_encoding  # as pydicom found it: nothing in the file says it
        obj.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if implicit is False else ImplicitVRLittleEndian
    return obj


def _listed(path: Path) -> Counter[str]:
    """How many objects a DICOMDIR lists, by Series Instance UID (PS3.3, F.3); nothing where it is damaged."""
    import pydicom

    listed: Counter[str] = Counter()
    try:
        index = pydicom.dcmread(path)
        records = {record.seq_item_tell: record for record in index.DirectoryRecordSequence}
        todo = [(int(index.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity), "")]
        while todo:
            place, series = todo.pop()
            record = records.pop(place, None)  # each once: a damaged one may go round in circles
            if record is None:
                continue
            todo.append((int(record.OffsetOfTheNextDirectoryRecord), series))
            within = str(record.SeriesInstanceUID) if record.DirectoryRecordType == "SERIES" else series
            todo.append((int(record.OffsetOfReferencedLowerLevelDirectoryEntity), within))
            listed[series] += "ReferencedSOPInstanceUIDInFile" in record
    except (OSError, EOFError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
        return Counter()
    return listed


def check(config: FolderSource) -> None:
    """Whether the folder is there and may be read.

    Raises:
        DataError: it is not.
    """
    next(files(config.path), None)
