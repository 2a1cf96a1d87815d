"""A PACS over DIMSE: C-FIND, then C-GET or C-MOVE (PS3.4, annex C, Study Root).

A series is listed at the IMAGE level first: what is there already is not fetched again, and what came is compared with
the list, UID by UID. Where nothing of a series is there, all of it is asked for at once; else what is missing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from messages.ground.errors import PacsRefused
from site_agent.dicom.base import Fetched, Has, Looked, SeriesFound, StudyFound, Take
from site_agent.dicom.config import DimseSource
from site_agent.dicom.sources import contexts, statuses, storing
from site_agent.dicom.sources.arrivals import Arrivals
from site_agent.dicom.sources.association import Caller
from site_agent.dicom.sources.findings import Findings
from site_agent.dicom.sources.pace import Pace
from site_agent.dicom.sources.silence import Silence
from site_agent.dicom.sources.statuses import Verdict
from site_agent.dicom.sources.storage_scp import StorageScp
from site_agent.dicom.sources.wanted import Described, Wanted, identified, usable

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
"""Study Root Query/Retrieve Information Model (PS3.4, C.6.2)."""
STUDY_KEYS = (
    "StudyInstanceUID",
    "PatientID",
    "IssuerOfPatientID",
    "AccessionNumber",
    "StudyDate",
    "StudyDescription",
    "ModalitiesInStudy",
    "NumberOfStudyRelatedSeries",
)
SERIES_KEYS = ("SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances")
BATCH = 100
"""Most SOP Instance UIDs of one request at the IMAGE level: some archives bound the length of a query."""
NO_IMAGE_LEVEL = (0x0122, 0xA900)
"""Statuses of archives that do not answer queries at the IMAGE level."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a retrieval ended: its final status and failed sub-operations."""

    code: int
    failed: int

    @property
    def clean(self) -> bool:
        return statuses.retrieval(self.code) is Verdict.DONE and not self.failed


class Dimse:
    """`base.Source` over a PACS that speaks DIMSE. `fetch` may be called from several threads.

    Raises:
        ConfigError: a file of the query or a certificate cannot be used.
    """

    def __init__(self, config: DimseSource) -> None:
        self._config = config
        self._caller = Caller(config)
        self._wanted = Wanted.read(config.query)
        self._pace = Pace(config.associations, config.rate)
        self._looked = Looked()
        self._scp: StorageScp | None = None
        self._moved = False
        self._opening = threading.Lock()

    @property
    def looked(self) -> Looked:
        """What the last `find` came across besides."""
        return self._looked

    def find(self) -> Sequence[StudyFound]:
        """C-FIND at the STUDY level, then for each study at the SERIES level; sorted by Study Instance UID.

        The number of a series' instances is counted at the IMAGE level where the PACS leaves it out.

        Raises:
            PacsUnreachable, PacsRefused: see `base.Source`; any final status but success is a refusal.
        """
        from pynetdicom import build_context

        findings = Findings(self._wanted)
        with self._pace.association(), self._caller.association([build_context(FIND)]) as made:
            self._caller.context(made, FIND, "C-FIND")
            for keys in self._wanted.queries():
                for match in self._matches(made, "STUDY", {**dict.fromkeys(STUDY_KEYS, ""), **keys}):
                    findings.study(*_study(match))

            def ask(uid: str) -> None:
                query = {"StudyInstanceUID": uid, **dict.fromkeys(SERIES_KEYS, "")}
                for match in self._matches(made, "SERIES", query):
                    count = _count(match, "NumberOfSeriesRelatedInstances")
                    findings.series(uid, _text(match, "SeriesInstanceUID"), _text(match, "Modality"), count)

            if short := findings.complete(ask):
                _log.warning("studies name fewer series than they count", studies=short)
            findings.count(lambda series: self._listed(made, series))
        found, self._looked = findings.result()
        return found

    def fetch(self, series: SeriesFound, has: Has, take: Take) -> Fetched:
        """C-GET or C-MOVE what of a series is missing, and compare with the PACS's list.

        Raises:
            PacsUnreachable, PacsRefused: see `base.Source`.
        """
        arrivals = Arrivals(series, has, take, self._pace)
        with self._pace.association(), self._retrieving(arrivals) as (made, retrieve):
            listed = self._listed(made, series)
            if listed is None:
                outcomes = [retrieve(())]
            else:
                missing = arrivals.missing(listed)
                batches = [missing[start : start + BATCH] for start in range(0, len(missing), BATCH)]
                if listed and len(missing) == len(listed):
                    batches = [[]]
                outcomes = []
                for batch in batches:
                    outcomes.append(retrieve(batch))
                    if arrivals.failure is not None:
                        break
        failed = any(not outcome.clean for outcome in outcomes)
        fetched = arrivals.fetched(listed=listed or (), failed=failed)
        if fetched.reason is not None:
            _log.warning(
                "series not retrieved in full",
                reason=fetched.reason.value,
                present=fetched.present,
                listed=None if listed is None else len(listed),
                status=", ".join(sorted({statuses.meaning(outcome.code) for outcome in outcomes})),
                failed_suboperations=sum(outcome.failed for outcome in outcomes),
                broken=arrivals.broken,
            )
        return fetched

    def close(self) -> None:
        """Stop listening for C-MOVE."""
        with self._opening:
            if self._scp is not None:
                self._scp.close()
                self._scp = None

    @property
    def scp(self) -> StorageScp:
        """Our storage SCP, listening from the first use on (C-MOVE only)."""
        with self._opening:
            if self._scp is None:
                self._scp = StorageScp(self._config)
            return self._scp

    @contextmanager
    def _retrieving(self, arrivals: Arrivals) -> Iterator[tuple[Any, Callable[[Sequence[str]], _Outcome]]]:
        """An association, and what retrieves over it: all of the series, or the given SOP Instance UIDs."""
        from pynetdicom import build_context, build_role, evt

        if self._config.retrieve == "move":
            with (
                self.scp.expecting(arrivals) as expected,
                self._caller.association([build_context(FIND), build_context(MOVE)]) as made,
            ):
                self._caller.context(made, MOVE, "C-MOVE")
                yield made, lambda sops: self._move(made, arrivals, sops, lambda: expected.last)
            return
        with self._caller.association(
            [build_context(FIND), build_context(GET), *contexts.proposed()],
            roles=[build_role(storage, scp_role=True) for storage in contexts.STORAGE],
            handlers=[(evt.EVT_C_STORE, lambda event: storing.store(storing.received(event), arrivals))],
        ) as made:
            self._caller.context(made, GET, "C-GET")
            if not any(context.as_scp for context in made.accepted_contexts):
                raise PacsRefused(
                    "it offers C-GET and lets us take no storage class (SCP role selection)",
                    where=self._caller.where,
                    advice='Set retrieve = "move" in site.toml, and have our address registered in the PACS',
                )
            yield made, lambda sops: self._get(made, arrivals, sops)

    def _get(self, made: Any, arrivals: Arrivals, sops: Sequence[str]) -> _Outcome:
        answers = made.send_c_get(_asked(arrivals.series, sops), GET)
        return self._ended(answers, arrivals, "C-GET")

    def _move(self, made: Any, arrivals: Arrivals, sops: Sequence[str], last: Callable[[], float]) -> _Outcome:
        with Silence(made, self._config.patience, last) as silence:
            answers = made.send_c_move(_asked(arrivals.series, sops), self._config.ae, MOVE)
            return self._ended(silence.watched(answers), arrivals, "C-MOVE")

    def _ended(self, answers: Iterator[tuple[Any, Any]], arrivals: Arrivals, verb: str) -> _Outcome:
        """Follow a retrieval to its end.

        Raises:
            PacsUnreachable: it broke off. PacsRefused: the PACS does not do it at all.
        """
        code, failed = 0xFF00, 0
        for status, _ in answers:
            if "Status" not in status:
                raise self._caller.broken(f"in {verb}, after {arrivals.received} objects")
            code = int(status.Status)
            failed = int(status.get("NumberOfFailedSuboperations") or 0)
            if arrivals.failure is not None:
                raise arrivals.failure  # ends the association, and with it what the PACS still sends
        if statuses.pending(code):
            raise self._caller.broken(f"in {verb}, after {arrivals.received} objects")
        verdict = statuses.retrieval(code)
        self._moved = self._moved or arrivals.received > 0
        # Some (Orthanc among them) say "unable to process" of a destination that they do not know or cannot reach.
        lost = verb == "C-MOVE" and verdict is Verdict.SERIES and not self._moved
        if verdict is Verdict.REFUSED or lost:
            raise PacsRefused(
                f"{verb} ends with {statuses.meaning(code)}",
                where=self._caller.where,
                advice=self._advice(code, verb),
                passing=statuses.passing(code) and not lost,  # where objects go is for the two operators to mend
            )
        return _Outcome(code, failed)

    def _advice(self, code: int, verb: str) -> str:
        config = self._config
        if verb == "C-MOVE":
            port = self._scp.port if self._scp is not None else config.listen_port
            return f"Have the PACS know AE title {config.ae!r} at this machine's address, port {port}"
        return f"Ask the PACS's operator whether AE title {config.ae!r} may use {verb}"

    def _listed(self, made: Any, series: SeriesFound) -> list[str] | None:
        """SOP Instance UIDs of a series, by C-FIND at the IMAGE level; None where the PACS does not answer that."""
        if not any(context.abstract_syntax == FIND for context in made.accepted_contexts):
            return None
        query = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid, "SOPInstanceUID": ""}
        try:
            matches = self._matches(made, "IMAGE", query)
            return list(dict.fromkeys(sop for match in matches if usable(sop := _text(match, "SOPInstanceUID"))))
        except _NoImageLevel:
            return None

    def _matches(self, made: Any, level: str, keys: Mapping[str, str]) -> list[Any]:
        """Identifiers that match (PS3.4, C.4.1).

        Raises:
            PacsUnreachable: the association broke off. PacsRefused: a final status other than success.
            _NoImageLevel: of such a status, where it says that the IMAGE level is not to be had.
        """
        matches: list[Any] = []
        code = 0xFF00
        for status, match in made.send_c_find(_query(level, keys), FIND):
            if "Status" not in status:
                raise self._caller.broken(f"in C-FIND, after {len(matches)} answers")
            code = int(status.Status)
            if statuses.pending(code):
                if match is None:
                    raise PacsRefused("it answers C-FIND with what cannot be decoded", where=self._caller.where)
                matches.append(match)
        if code == 0x0000:
            return matches
        if statuses.pending(code):
            raise self._caller.broken(f"in C-FIND, after {len(matches)} answers")
        if level == "IMAGE" and code in NO_IMAGE_LEVEL:
            raise _NoImageLevel
        raise PacsRefused(
            f"C-FIND at the {level} level ends with {statuses.meaning(code)}",
            where=self._caller.where,
            advice=f"Ask the PACS's operator whether AE title {self._config.ae!r} may query, or narrow the query",
            passing=statuses.passing(code),
        )


class _NoImageLevel(Exception):
    """The PACS does not answer queries at the IMAGE level."""


def _query(level: str, keys: Mapping[str, str | Sequence[str]]) -> Any:
    from pydicom.dataset import Dataset

    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
        if isinstance(value, str) and not value.isascii():
            query.SpecificCharacterSet = "ISO_IR 192"
    return query


def _asked(series: SeriesFound, sops: Sequence[str]) -> Any:
    keys: dict[str, str | Sequence[str]] = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid}
    if not sops:
        return _query("SERIES", keys)
    return _query("IMAGE", {**keys, "SOPInstanceUID": list(sops)})


def _study(match: Any) -> tuple[str, str, Described]:
    """A STUDY answer: its UID, the patient with issuer, and what it says of itself."""
    patient = _text(match, "PatientID")
    modalities = match.get("ModalitiesInStudy")
    if not modalities:
        said = None
    else:
        said = frozenset([modalities] if isinstance(modalities, str) else (str(one) for one in modalities))
    described = Described(
        patient,
        _text(match, "AccessionNumber"),
        _text(match, "StudyDate"),
        _text(match, "StudyDescription"),
        said,
        _count(match, "NumberOfStudyRelatedSeries"),
    )
    return _text(match, "StudyInstanceUID"), identified(patient, _text(match, "IssuerOfPatientID")), described


def _text(match: Any, keyword: str) -> str:
    value = match.get(keyword)
    return "" if value is None else str(value).strip()


def _count(match: Any, keyword: str) -> int | None:
    """A count; None where the PACS leaves it out or it is no number above 0."""
    try:
        count = int(match.get(keyword) or 0)
    except (TypeError, ValueError):
        return None
    return count if count > 0 else None
