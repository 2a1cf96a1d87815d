"""A PACS over DICOMweb (PS3.18): QIDO-RS to find, WADO-RS to fetch, through dicomweb-client.

Its `iter_series` streams: one object of a series is in memory at a time, however many there are. Each comes as bytes
(`web`), and is read here: one that cannot be read costs none of the others. A search is asked for
page by page until a page brings nothing new: a service may give fewer than were asked for, or ignore the offset
(PS3.18, 8.3.4.4). Objects are asked for in whatever transfer syntax they lie in: else the service would decompress.

Some services do not decode what is percent-encoded in a search (Orthanc's plugin as Debian 12 has it: `BRAIN%2A` finds
nothing, and says so with success). So a search names nothing that needs it: other characters become wild cards, and
which of the matches fit is judged here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import structlog

from messages.ground.errors import PacsRefused
from site_agent.dicom import reading
from site_agent.dicom.base import Fetched, Has, Looked, Object, SeriesFound, StudyFound, Take
from site_agent.dicom.config import DicomWebSource
from site_agent.dicom.sources.arrivals import Arrivals, weigh_object
from site_agent.dicom.sources.findings import Findings
from site_agent.dicom.sources.pace import Pace
from site_agent.dicom.sources.wanted import Described, Wanted, identify_patient, is_usable_uid
from site_agent.dicom.sources.web import RequestFailed, Web

PAGE = 200
"""Most matches of one answer."""
AS_STORED = (("application/dicom", "*"),)
STUDY = "0020000D"
SERIES = "0020000E"
OBJECT = "00080018"
PATIENT = "00100020"
ISSUER = "00100021"
ACCESSION = "00080050"
DATE = "00080020"
DESCRIPTION = "00081030"
MODALITIES = "00080061"
MODALITY = "00080060"
INSTANCES = "00201209"
RELATED_SERIES = "00201206"

_log = structlog.get_logger()


class DicomWeb:
    """`base.StudySource` over a DICOMweb service. `fetch_series` may be called from several threads.

    Raises:
        ConfigError: a file of the query, a credential or a certificate cannot be used.
    """

    def __init__(self, config: DicomWebSource) -> None:
        self._web = Web(config)
        self._wanted = Wanted.read_query(config.query)
        self._pace = Pace(config.associations, config.rate)
        self._looked = Looked()

    @property
    def looked(self) -> Looked:
        """What the last `find_studies` came across besides."""
        return self._looked

    def find_studies(self) -> Sequence[StudyFound]:
        """Search for studies, then for each study's series; sorted by Study Instance UID.

        Raises:
            PacsUnreachable, PacsRefused: see `base.StudySource`. An address that the service does not know (404) is a
                refusal, and so is its own failure (5xx): never "no studies".
        """
        findings = Findings(self._wanted)
        with self._pace.hold_association():
            for keys in self._wanted.list_queries():
                filters = {keyword: make_sendable(value) for keyword, value in keys.items()}
                for match in self._search_matches(
                    "studies", STUDY, filters, [PATIENT, ISSUER, ACCESSION, DESCRIPTION, MODALITIES, RELATED_SERIES]
                ):
                    findings.add_study(*_read_study(match))

            def ask(uid: str) -> None:
                for match in self._search_matches("series", SERIES, {}, [MODALITY, INSTANCES], uid):
                    findings.add_series(
                        uid, _read_text(match, SERIES), _read_text(match, MODALITY), _read_count(match, INSTANCES)
                    )

            if short := findings.complete_series(ask):
                _log.warning("studies name fewer series than they count", studies=short)
            findings.count_instances(self._list_instances)
        found, self._looked = findings.result()
        return found

    def fetch_series(self, series: SeriesFound, has: Has, take: Take) -> Fetched:
        """Retrieve what of a series is missing, and compare with the service's list.

        Raises:
            PacsUnreachable, PacsRefused: see `base.StudySource`.
        """
        arrivals = Arrivals(series, has, take, self._pace)
        failures: list[int] = []
        with self._pace.hold_association():
            listed = self._list_instances(series)
            missing = arrivals.list_missing(listed or ())
            if listed is None or (listed and len(missing) == len(listed)):
                self._retrieve_objects(arrivals, failures)
            else:
                for sop in missing:
                    self._retrieve_objects(arrivals, failures, sop)
        fetched = arrivals.count_fetched(listed=listed or (), failed=bool(failures))
        if fetched.reason is not None:
            if not any(failures):
                self.check_answer()  # an answer without a length ends early without an error where its sender died
            _log.warning(
                "series not retrieved in full",
                reason=fetched.reason.value,
                present=fetched.present,
                listed=None if listed is None else len(listed),
                http_status=sorted(set(failures)),
                broken=arrivals.broken,
            )
        return fetched

    def close(self) -> None:
        """Close all connections."""
        self._web.close()

    def check_answer(self) -> None:
        """Whether the service answers a search as we ask it.

        Raises:
            PacsUnreachable, PacsRefused: it does not; one line says why.
        """
        self._ask_page("the search for studies", lambda client: client.search_for_studies(limit=1))

    def _retrieve_objects(self, arrivals: Arrivals, failures: list[int], sop: str | None = None) -> None:
        """Take all objects of the series as they come, or one of them; what the service cannot deliver is noted."""
        series = arrivals.series
        try:
            with self._web.open_client("the retrieval of a series") as client:
                try:
                    if sop is None:
                        objects = client.iter_series(series.study, series.uid, media_types=AS_STORED)
                    else:
                        one = (series.study, series.uid, sop)
                        objects = (client.retrieve_instance(*uids, media_types=AS_STORED) for uids in [one])
                    for obj in _read_objects(objects):
                        if obj is None:
                            arrivals.broken += 1
                            continue
                        arrivals.offer_object(obj, weigh_object(obj))
                        if arrivals.failure is not None:
                            return
                except _Damaged:
                    failures.append(0)
        except RequestFailed as failed:
            failures.append(failed.status)

    def _list_instances(self, series: SeriesFound) -> list[str] | None:
        """SOP Instance UIDs of a series; None where the service does not say."""
        try:
            matches = self._search_matches("instances", OBJECT, {}, [], series.study, series.uid, whole=False)
        except RequestFailed:
            return None
        return [sop for match in matches if is_usable_uid(sop := _read_text(match, OBJECT))]

    def _search_matches(
        self,
        what: str,
        key: str,
        filters: Mapping[str, str],
        fields: Sequence[str],
        *within: str,
        whole: bool = True,
    ) -> list[Mapping[str, Any]]:
        """Every match of a search, each once by the UID at `key`.

        Raises:
            PacsUnreachable, PacsRefused: it cannot be answered. Failed: as well, where not `whole`.
        """
        doing = f"the search for {what}"
        found: dict[str, Mapping[str, Any]] = {}
        offset = 0
        while True:
            options = {"limit": PAGE, "offset": offset, "fields": list(fields) or None, "search_filters": dict(filters)}

            def ask(client: Any, options: Mapping[str, Any] = options) -> Any:
                return getattr(client, f"search_for_{what}")(*within, **options)

            page = self._ask_page(doing, ask, whole=whole)
            before = len(found)
            for match in page:
                found.setdefault(_read_text(match, key), match)
            offset += len(page)
            if len(found) == before:
                return list(found.values())

    def _ask_page(self, doing: str, ask: Callable[[Any], Any], *, whole: bool = True) -> Sequence[Mapping[str, Any]]:
        try:
            with self._web.open_client(doing) as client:
                page = ask(client)
        except RequestFailed as failed:
            if not whole:
                raise
            raise PacsRefused(
                f"it fails in {doing} (HTTP {failed.status})",
                where=self._web.where,
                advice="Check url: the base of the DICOMweb service; if it is right, look into the PACS's own log",
                passing=failed.passing,
            ) from None
        if not isinstance(page, list) or not all(isinstance(match, dict) for match in page):
            raise PacsRefused(
                f"it answers {doing} with something that is no DICOM JSON", where=self._web.where, advice="Check url"
            )
        return page


def make_sendable(value: str) -> str:
    """A value to match, with wild cards in place of what would be percent-encoded (RFC 3986, 2.3 and 3.4)."""
    return re.sub(r"[^A-Za-z0-9._~*?-]", lambda match: "?" if match[0].isascii() else "*", value)


class _Damaged(Exception):
    """An answer that breaks off, or is no multipart message."""


def _read_objects(parts: Iterator[bytes]) -> Iterator[Object | None]:
    """Objects of an answer as they come, each read by itself; None for one that cannot be read.

    Raises:
        _Damaged: no more can be had of the answer.
    """
    import requests

    while True:
        try:
            part = next(parts, None)
        except requests.RequestException:
            raise
        except Exception:  # noqa: BLE001 - whatever the library makes of an answer that is none
            raise _Damaged from None
        if part is None:
            return
        try:
            yield reading.read_object(bytes(part))
        except reading.Unreadable:
            yield None


def _read_study(match: Mapping[str, Any]) -> tuple[str, str, Described]:
    """A study of an answer: its UID, the patient with issuer, and what it says of itself."""
    patient = _read_text(match, PATIENT)
    modalities = frozenset(str(one) for one in _read_values(match, MODALITIES)) or None
    accession, day, said = (_read_text(match, tag) for tag in (ACCESSION, DATE, DESCRIPTION))
    described = Described(patient, accession, day, said, modalities, _read_count(match, RELATED_SERIES))
    return _read_text(match, STUDY), identify_patient(patient, _read_text(match, ISSUER)), described


def _read_values(match: Mapping[str, Any], tag: str) -> list[Any]:
    """Values of an attribute in the DICOM JSON model (PS3.18, F.2)."""
    element = match.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [value for value in values if value is not None] if isinstance(values, list) else []


def _read_text(match: Mapping[str, Any], tag: str) -> str:
    values = _read_values(match, tag)
    return str(values[0]).strip() if values else ""


def _read_count(match: Mapping[str, Any], tag: str) -> int | None:
    try:
        count = int(_read_text(match, tag) or 0)
    except ValueError:
        return None
    return count if count > 0 else None
