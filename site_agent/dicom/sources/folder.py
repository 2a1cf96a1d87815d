"""A folder of DICOM files: any names, any depth, with or without DICOMDIR; other files among them are counted.

`find` reads headers only and keeps of each file its path and eight bytes; `fetch` reads one series' files whole. What
is found is what lies there: only a DICOMDIR (PS3.3, annex F) says how many objects a series should have.
"""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.dicom import reading
from site_agent.dicom.base import Fetched, Has, Looked, Object, PassedOver, SeriesFound, StudyFound, Take, join_values
from site_agent.dicom.config import FolderSource
from site_agent.dicom.hush import silence_libraries
from site_agent.dicom.lying_files import holds_same, is_dicomdir, name_stranger, read_dicomdir, sniff_dicom
from site_agent.dicom.sources.arrivals import Arrivals
from site_agent.dicom.sources.pace import Pace
from site_agent.dicom.sources.wanted import Described, Wanted, identify_patient, is_usable_uid

SMALL = 2**20
"""Bytes up to which a file is read whole at once; of larger ones the header first, since they may be there already."""

COUNTED = ("objects", "not_dicom", "unreadable", "duplicates", "mixed_patients", "not_asked", "unusable")
MOST_NAMED = 1000
"""Files that are named, to the operator of this machine alone."""
_LINKED = "is a link to a folder, and those are not followed: put the folder itself here"
_UNUSABLE = "it names no usable UID of its study, its series or itself"


@dataclass(slots=True)
class _Series:
    """Files of one series: names relative to the folder, NUL between them, and a digest of each SOP Instance UID."""

    modality: str
    names: bytearray = field(default_factory=bytearray)
    digests: array[int] = field(default_factory=lambda: array("Q"))

    def add_file(self, name: str, sop: str) -> None:
        self.names += os.fsencode(name) + b"\0"
        self.digests.append(int.from_bytes(blake2b(sop.encode(), digest_size=8).digest(), "little"))

    def list_files(self) -> Iterator[str]:
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
    """patients: whose it is, as it says → the first file that says so."""

    described: Described
    patients: dict[str, str]
    series: dict[str, _Series] = field(default_factory=dict)

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset(series.modality for series in self.series.values())


class FolderReader:
    """`base.StudySource` over a folder.

    Args:
        config: the data set's settings; `associations` and `rate` bound reading, too.
    """

    def __init__(self, config: FolderSource) -> None:
        silence_libraries()
        self._folder = config.path
        self._wanted = Wanted.read_query(config.query)
        self._pace = Pace(config.associations, config.rate)
        self._looked = Looked()
        self._files: dict[tuple[str, str], _Series] = {}
        self._passed: list[PassedOver] = []

    @property
    def looked(self) -> Looked:
        """What the last `find_studies` came across besides."""
        return self._looked

    def find_studies(self) -> Sequence[StudyFound]:
        """Every study that fits the query, by a look at each file's header; sorted by Study Instance UID.

        Raises:
            DataError: the folder is missing, or it or one within it may not be read.
        """
        counts: Counter[str] = Counter()
        self._passed = []
        studies: dict[str, _Study] = {}
        announced: Counter[str] = Counter()
        for name in list_files(self._folder, self._pass_link):
            header = self._read_header(name, counts)
            if header is None:
                continue
            if is_dicomdir(header):
                announced |= read_dicomdir(self._folder / name)
                continue
            counts["objects"] += 1
            if not _enter_file(studies, header, name):
                counts["unusable"] += 1
                self._pass_over(name, Reason.UNREADABLE, _UNUSABLE)
        self._files = {}
        found = [self._study_found(uid, study, announced, counts) for uid, study in sorted(studies.items())]
        counts["duplicates"] = sum(
            len(series.digests) - series.distinct for study in studies.values() for series in study.series.values()
        )
        self._looked = Looked(passed_over=tuple(self._passed), **{key: counts[key] for key in COUNTED})
        return [study for study in found if study is not None]

    def fetch_series(self, series: SeriesFound, has: Has, take: Take) -> Fetched:
        """Read what of a series is not there yet. A file that vanished or does not read any more counts as failed."""
        there = self._files.get((series.study, series.uid))
        arrivals = Arrivals(series, has, take, self._pace)
        if there is None:
            return Fetched(0, 0, Reason.RETRIEVE_FAILED)
        lacking: list[str] = []
        damaged, twofold = False, self._find_twofold(there)
        if twofold:
            return Fetched(0, 0, Reason.DUPLICATE_SLICES, tuple(twofold[:MOST_NAMED]))
        with self._pace.hold_association():
            for name in there.list_files():
                path = self._folder / name
                size = _file_size(path)
                obj = _read_file(path, header=size > SMALL)
                if obj is not None and arrivals.is_known(_read_text(obj, "SOPInstanceUID")):
                    continue
                if obj is not None and size > SMALL:
                    obj = _read_file(path)
                if obj is not None:
                    obj.filename = name  # by which the operator is told of it
                if obj is None or not arrivals.offer_object(obj, size):
                    lacking.append(name)
                    damaged |= obj is None and path.is_file()
                if arrivals.failure is not None:
                    break
        fetched = arrivals.count_fetched(failed=bool(lacking))
        if fetched.reason is None and fetched.present >= there.distinct:
            return fetched
        reason = Reason.UNREADABLE if damaged else fetched.reason or Reason.RETRIEVE_FAILED
        return replace(fetched, reason=reason, lacking=tuple(lacking[:MOST_NAMED]))

    def _find_twofold(self, there: _Series) -> list[str]:
        """Files that bear one SOP Instance UID and do not hold the same: nobody can say which of them is meant."""
        if there.distinct == len(there.digests):
            return []
        files: dict[int, list[str]] = {}
        for name, digest in zip(there.list_files(), there.digests, strict=True):
            files.setdefault(digest, []).append(name)
        found: list[str] = []
        for names in files.values():
            whole = (obj for name in names if (obj := _read_file(self._folder / name)) is not None)
            first = next(whole, None) if len(names) > 1 else None
            if first is not None and not all(holds_same(first, one) for one in whole):
                found += names
        return found

    def list_series_files(self, series: SeriesFound) -> list[str]:
        """Names of a found series' files, relative to the folder. May name patients: for the operator's eyes."""
        there = self._files.get((series.study, series.uid))
        return [] if there is None else sorted(there.list_files())

    def close(self) -> None:
        """Forget what was found."""
        self._files = {}

    def _pass_over(self, name: str, reason: Reason, text: str) -> None:
        if len(self._passed) < MOST_NAMED:
            self._passed.append(PassedOver(name, reason, text))

    def _pass_link(self, name: str) -> None:
        """A link to a folder; one to a folder that is read anyway costs nothing."""
        try:
            inside = (self._folder / name).resolve().is_relative_to(self._folder.resolve())
        except (OSError, RuntimeError):  # in a circle
            inside = False
        if not inside:
            self._pass_over(name, Reason.UNREADABLE, _LINKED)

    def _read_header(self, name: str, counts: Counter[str]) -> Any | None:
        kind = sniff_dicom(self._folder / name)
        if kind is None:
            counts["not_dicom"] += 1
            if what := name_stranger(self._folder / name):
                self._pass_over(name, Reason.UNREADABLE, what)
            return None
        header = _read_file(self._folder / name, header=True)
        if header is None or ("SOPInstanceUID" not in header and not is_dicomdir(header)):
            # without the magic word the first bytes may have looked like DICOM by chance
            counts["unreadable" if kind else "not_dicom"] += 1
            if kind:
                self._pass_over(name, Reason.UNREADABLE, "it says that it is DICOM, and cannot be read")
            return None
        return header

    def _study_found(self, uid: str, study: _Study, announced: Counter[str], counts: Counter[str]) -> StudyFound | None:
        described = Described(
            study.described.patient,
            study.described.accession,
            study.described.date,
            study.described.description,
            study.modalities,
        )
        if not self._wanted.fits_query(described):
            counts["not_asked"] += 1
            return None
        if len(study.patients) > 1:
            counts["mixed_patients"] += 1
            for name in study.patients.values():
                self._pass_over(name, Reason.MIXED_PATIENTS, "an object of a study that names several patients")
            return None
        found = []
        for key, series in sorted(study.series.items()):
            if self._wanted.takes_modality(series.modality):
                self._files[uid, key] = series
                # a DICOMDIR that lists fewer than there are is out of date and says nothing
                listed = announced[key] if announced[key] >= series.distinct else None
                found.append(SeriesFound(uid, key, series.modality, listed, series.mark))
        return StudyFound(uid, next(iter(study.patients)), tuple(found), described.accession)


def list_files(folder: Path, on_link: Callable[[str], None] = lambda _name: None) -> Iterator[str]:
    """Names of what is no folder below `folder`, relative to it, folder by folder in order.

    Args:
        on_link: told of each link to a folder, which is not followed.

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
        for name in folders:
            if os.path.islink(link := os.path.join(place, name)):
                on_link(os.path.relpath(link, folder))
        for name in sorted(names):
            yield os.path.relpath(os.path.join(place, name), folder)


def _enter_file(studies: dict[str, _Study], header: Any, name: str) -> bool:
    """Enter a file under its study and series; False where it does not say which these are."""
    study_uid, series_uid = (str(header.get(key, "") or "") for key in ("StudyInstanceUID", "SeriesInstanceUID"))
    sop = _read_text(header, "SOPInstanceUID")
    if not (is_usable_uid(study_uid) and is_usable_uid(series_uid) and is_usable_uid(sop)):
        return False
    patient = _read_text(header, "PatientID")
    study = studies.get(study_uid)
    if study is None:
        described = Described(
            patient,
            _read_text(header, "AccessionNumber"),
            _read_text(header, "StudyDate"),
            _read_text(header, "StudyDescription"),
        )
        study = studies[study_uid] = _Study(described, {})
    study.patients.setdefault(identify_patient(patient, _read_text(header, "IssuerOfPatientID")), name)
    series = study.series.get(series_uid)
    if series is None:
        series = study.series[series_uid] = _Series(_read_text(header, "Modality"))
    series.add_file(name, sop)
    return True


def _read_text(header: Any, keyword: str) -> str:
    return join_values(header.get(keyword)).strip()


def _file_size(path: Path) -> int:
    """Bytes of a file; 0 where it is gone."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read_file(path: Path, *, header: bool = False) -> Object | None:
    """One file, or its header alone; None where it cannot be read as DICOM."""
    try:
        obj = reading.read_header(path) if header else reading.read_file(path)
    except reading.Unreadable:
        return None
    return None if obj.get("SOPInstanceUID") is None and not header else obj


def check_folder(config: FolderSource) -> None:
    """Whether the folder is there and may be read.

    Raises:
        DataError: it is not.
    """
    next(list_files(config.path), None)
