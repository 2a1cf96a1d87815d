"""The operator's query: what is asked of a source, and whether what it gives fits. Pure but for `Wanted.read_query`.

A source may match less than it was asked to (PS3.4, C.2.2.1.2: optional keys may be ignored), so every study is judged
here again. Matching is by PS3.4, C.2.2.2; wild cards take upper and lower case alike, as most archives do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from messages.ground.errors import ConfigError
from messages.ground.written.entries import read_entries
from messages.ground.written.identifiers import normalise_identifier
from site_agent.dicom.config import Query

LABELS = frozenset({"SEG", "RTSTRUCT"})
"""Modalities of labels: always asked for in the studies that fit."""
UID = re.compile(r"^[0-9A-Za-z.]{1,64}$")
"""Digits and dots by PS3.5, 9.1; letters are let through, since they come and do no harm in a path."""


@dataclass(frozen=True, slots=True)
class Described:
    """A study as its source describes it; "" or None where it does not say. Identifies a patient: never logged."""

    patient: str = ""
    accession: str = ""
    date: str = ""
    description: str = ""
    modalities: frozenset[str] | None = None
    series: int | None = None
    """Number of Study Related Series (0020,1206)."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """`config.Query` with its files read."""

    modalities: frozenset[str]
    since: date | None = None
    until: date | None = None
    description: str | None = None
    patients: frozenset[str] | None = None
    accessions: frozenset[str] | None = None

    @classmethod
    def read_query(cls, query: Query) -> Wanted:
        """Raises ConfigError where nothing can fit the query, or a file of it cannot be read or names nothing."""
        if not query.modalities:
            raise ConfigError(
                "names no modality", where="query.modalities", advice="Name one, or leave the key out: MR"
            )
        if query.since is not None and query.until is not None and query.since > query.until:
            raise ConfigError("since is later than until", where="query.since", advice="No study fits such a query")
        return cls(
            frozenset(query.modalities),
            query.since,
            query.until,
            query.description,
            None if query.patients is None else _read_lines(query.patients, "query.patients"),
            None if query.accessions is None else _read_lines(query.accessions, "query.accessions"),
        )

    @property
    def dates(self) -> str:
        """Range matching of Study Date (PS3.4, C.2.2.2.5), "" for every date."""
        if self.since is None and self.until is None:
            return ""
        return "-".join("" if day is None else day.strftime("%Y%m%d") for day in (self.since, self.until))

    def list_queries(self) -> Iterator[Mapping[str, str]]:
        """Matching keys of the queries that together find every study that fits, by their DICOM keywords.

        One query a modality, and one a patient or accession where a file lists them: matching by a list is for UIDs
        alone (PS3.4, C.2.2.2.2).
        """
        common = {}
        if self.dates:
            common["StudyDate"] = self.dates
        if self.description:
            common["StudyDescription"] = self.description
        ones: list[Mapping[str, str]] = [{}]
        if self.patients is not None:
            ones = [{"PatientID": patient} for patient in sorted(self.patients)]
        elif self.accessions is not None:
            ones = [{"AccessionNumber": accession} for accession in sorted(self.accessions)]
        for one in ones:
            for modality in sorted(self.modalities):
                yield {"ModalitiesInStudy": modality, **common, **one}

    def fits_query(self, study: Described) -> bool:
        """Whether every key that the operator gave fits; what a study does not say fits no key but modalities."""
        return (
            (study.modalities is None or bool(study.modalities & self.modalities))
            and self._in_time(study.date)
            and (self.description is None or _is_like(self.description, study.description))
            and (self.patients is None or normalise_identifier(study.patient) in self.patients)
            and (self.accessions is None or normalise_identifier(study.accession) in self.accessions)
        )

    def takes_modality(self, modality: str) -> bool:
        """Whether series of this modality are fetched: the query's and labels."""
        return modality in self.modalities or modality in LABELS

    def _in_time(self, day: str) -> bool:
        if self.since is None and self.until is None:
            return True
        digits = day.replace(".", "")  # ACR-NEMA wrote yyyy.mm.dd (PS3.5, 6.2, VR DA)
        try:
            when = date(int(digits[:4]), int(digits[4:6]), int(digits[6:8]))
        except ValueError:
            return False
        return (self.since is None or self.since <= when) and (self.until is None or when <= self.until)


def is_usable_uid(uid: str) -> bool:
    """Whether a UID from outside can be used as a name: in a query, a path, an index."""
    return UID.fullmatch(uid) is not None and uid.strip(".") != ""


def identify_patient(patient: str, issuer: str) -> str:
    """`StudyFound.patient` from Patient ID and Issuer of Patient ID: "ID" or "ID^^^ISSUER" (as HL7's CX writes it)."""
    return f"{patient}^^^{issuer}" if issuer and patient else patient


def patient_id(identifier: str) -> str:
    """Patient ID alone, out of `StudyFound.patient`."""
    return identifier.split("^^^", 1)[0]


def _read_lines(path: Path, where: str) -> frozenset[str]:
    try:
        named = frozenset(entry.name for entry in read_entries(path))
    except ConfigError as error:
        raise ConfigError(f"{error.where} {error.what}", where=where, advice=error.advice) from None
    if not named:
        raise ConfigError(f"{path} names nothing", where=where, advice="One identifier a line, or leave the key out")
    return named


def _is_like(pattern: str, text: str) -> bool:
    """Wild card matching (PS3.4, C.2.2.2.4): * any run of characters, ? exactly one."""
    expression = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)
    return re.fullmatch(expression, text, re.IGNORECASE | re.DOTALL) is not None
