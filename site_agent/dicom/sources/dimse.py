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
from site_agent.dicom.base import Fetched, Has, Looked, SeriesFound, StudyFound, Take, join_values
from site_agent.dicom.config import DimseSource
from site_agent.dicom.sources import contexts, statuses, storing
from site_agent.dicom.sources.arrivals import Arrivals
from site_agent.dicom.sources.association import Caller
from site_agent.dicom.sources.findings import Findings
from site_agent.dicom.sources.pace import Pace
from site_agent.dicom.sources.silence import Silence
from site_agent.dicom.sources.statuses import RetrievalVerdict
from site_agent.dicom.sources.storage_scp import StorageScp
from site_agent.dicom.sources.wanted import Described, Wanted, identify_patient, is_usable_uid

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
        return statuses.judge_retrieval(self.code) is RetrievalVerdict.DONE and not self.failed


class Dimse:
    """`base.StudySource` over a PACS that speaks DIMSE. `fetch_series` may be called from several threads.

    Raises:
        ConfigError: a file of the query or a certificate cannot be used.
    """

    def __init__(self, config: DimseSource) -> None:
        self._config = config
        self._caller = Caller(config)
        self._wanted = Wanted.read_query(config.query)
        self._pace = Pace(config.associations, config.rate)
        self._looked = Looked()
        self._scp: StorageScp | None = None
        self._moved = False
        self._opening = threading.Lock()

    @property
    def looked(self) -> Looked:
        """What the last `find_studies` came across besides."""
        return self._looked

    def find_studies(self) -> Sequence[StudyFound]:
        """C-FIND at the STUDY level, then for each study at the SERIES level; sorted by Study Instance UID.

        The number of a series' instances is counted at the IMAGE level where the PACS leaves it out.

        Raises:
            PacsUnreachable, PacsRefused: see `base.StudySource`; any final status but success is a refusal.
        """
        from pynetdicom import build_context

        findings = Findings(self._wanted)
        with self._pace.hold_association(), self._caller.open_association([build_context(FIND)]) as made:
            self._caller.require_context(made, FIND, "C-FIND")
            for keys in self._wanted.list_queries():
                for match in self._find_matches(made, "STUDY", {**dict.fromkeys(STUDY_KEYS, ""), **keys}):
                    findings.add_study(*_read_study(match))

            def ask(uid: str) -> None:
                query = {"StudyInstanceUID": uid, **dict.fromkeys(SERIES_KEYS, "")}
                for match in self._find_matches(made, "SERIES", query):
                    count = _read_count(match, "NumberOfSeriesRelatedInstances")
                    findings.add_series(
                        uid, _read_text(match, "SeriesInstanceUID"), _read_text(match, "Modality"), count
                    )

            if short := findings.complete_series(ask):
                _log.warning("studies name fewer series than they count", studies=short)
            findings.count_instances(lambda series: self._list_instances(made, series))
        found, self._looked = findings.result()
        return found

    def fetch_series(self, series: SeriesFound, has: Has, take: Take) -> Fetched:
        """C-GET or C-MOVE what of a series is missing, and compare with the PACS's list.

        Raises:
            PacsUnreachable, PacsRefused: see `base.StudySource`.
        """
        arrivals = Arrivals(series, has, take, self._pace)
        with self._pace.hold_association(), self._open_retrieval(arrivals) as (made, retrieve):
            listed = self._list_instances(made, series)
            if listed is None:
                outcomes = [retrieve(())]
            else:
                missing = arrivals.list_missing(listed)
                batches = [missing[start : start + BATCH] for start in range(0, len(missing), BATCH)]
                if listed and len(missing) == len(listed):
                    batches = [[]]
                outcomes = []
                for batch in batches:
                    outcomes.append(retrieve(batch))
                    if arrivals.failure is not None:
                        break
        failed = any(not outcome.clean for outcome in outcomes)
        fetched = arrivals.count_fetched(listed=listed or (), failed=failed)
        if fetched.reason is not None:
            _log.warning(
                "series not retrieved in full",
                reason=fetched.reason.value,
                present=fetched.present,
                listed=None if listed is None else len(listed),
                status=", ".join(sorted({statuses.tell_meaning(outcome.code) for outcome in outcomes})),
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
    def _open_retrieval(self, arrivals: Arrivals) -> Iterator[tuple[Any, Callable[[Sequence[str]], _Outcome]]]:
        """An association, and what retrieves over it: all of the series, or the given SOP Instance UIDs."""
        from pynetdicom import build_context, build_role, evt

        if self._config.retrieve == "move":
            with (
                self.scp.expect_series(arrivals) as expected,
                self._caller.open_association([build_context(FIND), build_context(MOVE)]) as made,
            ):
                self._caller.require_context(made, MOVE, "C-MOVE")
                yield made, lambda sops: self._move_objects(made, arrivals, sops, lambda: expected.last)
            return
        with self._caller.open_association(
            [build_context(FIND), build_context(GET), *contexts.proposed_contexts()],
            roles=[build_role(storage, scp_role=True) for storage in contexts.STORAGE],
            handlers=[(evt.EVT_C_STORE, lambda event: storing.store_received(storing.read_request(event), arrivals))],
        ) as made:
            self._caller.require_context(made, GET, "C-GET")
            if not any(context.as_scp for context in made.accepted_contexts):
                raise PacsRefused(
                    "it offers C-GET and lets us take no storage class (SCP role selection)",
                    where=self._caller.where,
                    advice='Set retrieve = "move" in site.toml, and have our address registered in the PACS',
                )
            yield made, lambda sops: self._get_objects(made, arrivals, sops)

    def _get_objects(self, made: Any, arrivals: Arrivals, sops: Sequence[str]) -> _Outcome:
        answers = made.send_c_get(_make_request(arrivals.series, sops), GET)
        return self._follow_to_end(answers, arrivals, "C-GET")

    def _move_objects(self, made: Any, arrivals: Arrivals, sops: Sequence[str], last: Callable[[], float]) -> _Outcome:
        with Silence(made, self._config.patience, last) as silence:
            answers = made.send_c_move(_make_request(arrivals.series, sops), self._config.ae, MOVE)
            return self._follow_to_end(silence.watch_answers(answers), arrivals, "C-MOVE")

    def _follow_to_end(self, answers: Iterator[tuple[Any, Any]], arrivals: Arrivals, verb: str) -> _Outcome:
        """Follow a retrieval to its end.

        Raises:
            PacsUnreachable: it broke off. PacsRefused: the PACS does not do it at all.
        """
        code, failed = 0xFF00, 0
        for status, _ in answers:
            if "Status" not in status:
                raise self._caller.broken_error(f"in {verb}, after {arrivals.received} objects")
            code = int(status.Status)
            failed = int(status.get("NumberOfFailedSuboperations") or 0)
            if arrivals.failure is not None:
                raise arrivals.failure  # ends the association, and with it what the PACS still sends
        if statuses.is_pending(code):
            raise self._caller.broken_error(f"in {verb}, after {arrivals.received} objects")
        verdict = statuses.judge_retrieval(code)
        self._moved = self._moved or arrivals.received > 0
        # Some (Orthanc among them) say "unable to process" of a destination that they do not know or cannot reach.
        lost = verb == "C-MOVE" and verdict is RetrievalVerdict.SERIES and not self._moved
        if verdict is RetrievalVerdict.REFUSED or lost:
            raise PacsRefused(
                f"{verb} ends with {statuses.tell_meaning(code)}",
                where=self._caller.where,
                advice=self._advise_on(code, verb),
                passing=statuses.is_passing(code) and not lost,  # where objects go is for the two operators to mend
            )
        return _Outcome(code, failed)

    def _advise_on(self, code: int, verb: str) -> str:
        config = self._config
        if verb == "C-MOVE":
            port = self._scp.port if self._scp is not None else config.listen_port
            return f"Have the PACS know AE title {config.ae!r} at this machine's address, port {port}"
        return f"Ask the PACS's operator whether AE title {config.ae!r} may use {verb}"

    def _list_instances(self, made: Any, series: SeriesFound) -> list[str] | None:
        """SOP Instance UIDs of a series, by C-FIND at the IMAGE level; None where the PACS does not answer that."""
        if not any(context.abstract_syntax == FIND for context in made.accepted_contexts):
            return None
        query = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid, "SOPInstanceUID": ""}
        try:
            matches = self._find_matches(made, "IMAGE", query)
            return list(
                dict.fromkeys(sop for match in matches if is_usable_uid(sop := _read_text(match, "SOPInstanceUID")))
            )
        except _NoImageLevel:
            return None

    def _find_matches(self, made: Any, level: str, keys: Mapping[str, str]) -> list[Any]:
        """Identifiers that match (PS3.4, C.4.1).

        Raises:
            PacsUnreachable: the association broke off. PacsRefused: a final status other than success.
            _NoImageLevel: of such a status, where it says that the IMAGE level is not to be had.
        """
        matches: list[Any] = []
        code = 0xFF00
        for status, match in made.send_c_find(_make_query(level, keys), FIND):
            if "Status" not in status:
                raise self._caller.broken_error(f"in C-FIND, after {len(matches)} answers")
            code = int(status.Status)
            if statuses.is_pending(code):
                if match is None:
                    raise PacsRefused("it answers C-FIND with what cannot be decoded", where=self._caller.where)
                matches.append(match)
        if code == 0x0000:
            return matches
        if statuses.is_pending(code):
            raise self._caller.broken_error(f"in C-FIND, after {len(matches)} answers")
        if level == "IMAGE" and code in NO_IMAGE_LEVEL:
            raise _NoImageLevel
        raise PacsRefused(
            f"C-FIND at the {level} level ends with {statuses.tell_meaning(code)}",
            where=self._caller.where,
            advice=f"Ask the PACS's operator whether AE title {self._config.ae!r} may query, or narrow the query",
            passing=statuses.is_passing(code),
        )


class _NoImageLevel(Exception):
    """The PACS does not answer queries at the IMAGE level."""


def _make_query(level: str, keys: Mapping[str, str | Sequence[str]]) -> Any:
    from pydicom.dataset import Dataset

    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
        if isinstance(value, str) and not value.isascii():
            query.SpecificCharacterSet = "ISO_IR 192"
    return query


def _make_request(series: SeriesFound, sops: Sequence[str]) -> Any:
    keys: dict[str, str | Sequence[str]] = {"StudyInstanceUID": series.study, "SeriesInstanceUID": series.uid}
    if not sops:
        return _make_query("SERIES", keys)
    return _make_query("IMAGE", {**keys, "SOPInstanceUID": list(sops)})


def _read_study(match: Any) -> tuple[str, str, Described]:
    """A STUDY answer: its UID, the patient with issuer, and what it says of itself."""
    patient = _read_text(match, "PatientID")
    modalities = match.get("ModalitiesInStudy")
    if not modalities:
        said = None
    else:
        said = frozenset([modalities] if isinstance(modalities, str) else (str(one) for one in modalities))
    described = Described(
        patient,
        _read_text(match, "AccessionNumber"),
        _read_text(match, "StudyDate"),
        _read_text(match, "StudyDescription"),
        said,
        _read_count(match, "NumberOfStudyRelatedSeries"),
    )
    return (
        _read_text(match, "StudyInstanceUID"),
        identify_patient(patient, _read_text(match, "IssuerOfPatientID")),
        described,
    )


def _read_text(match: Any, keyword: str) -> str:
    return join_values(match.get(keyword)).strip()


def _read_count(match: Any, keyword: str) -> int | None:
    """A count; None where the PACS leaves it out or it is no number above 0."""
    try:
        count = int(match.get(keyword) or 0)
    except (TypeError, ValueError):
        return None
    return count if count > 0 else None
