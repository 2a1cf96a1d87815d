"""DICOM nodes for tests: real ones on loopback, by pynetdicom, that answer as they are told.

(Test modules import this as `dicom_nodes`.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from brokers import PATIENCE
from dicom_files import SERIES, Taken, asking
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from site_agent.dicom.base import Fetched, SeriesFound
from site_agent.dicom.config import DimseSource
from site_agent.dicom.sources import contexts
from site_agent.dicom.sources.dimse import FIND, GET, MOVE, Dimse
from site_agent.dicom.sources.storage_scp import serve_entity

VERIFICATION = "1.2.840.10008.1.1"
Answers = Iterator[tuple[int, Dataset | None]]


def settings(port: int, **changes: Any) -> DimseSource:
    """A data set that comes from the node on this port."""
    values: dict[str, Any] = {
        "source": "dimse",
        "host": "127.0.0.1",
        "port": port,
        "ae": "KONSIL",
        "called": "PACS",
        "patience": PATIENCE,
        **asking(changes.pop("query", {})),
    }
    return DimseSource(**{**values, **changes})


def fetch(pacs: Pacs, taken: Taken, series: SeriesFound = SERIES, **changes: Any) -> Fetched:
    """What a source over this PACS says of fetching one series."""
    source = Dimse(settings(pacs.port, **changes))
    try:
        return source.fetch_series(series, taken.has, taken.take)
    finally:
        source.close()


class Pacs:
    """A PACS that holds `objects`. It answers by `find`, `get` and `move` where they are given, else as it should.

    Args:
        find: the event of a C-FIND → what is answered; `self.matches(event)` is what should be.
        get: the event of a C-GET → statuses and objects, as pynetdicom's handlers yield them after the number of
            sub-operations (its first value).
        counts: whether it says Number of Series Related Instances. More, or less, of them with `miscount`.
        offers: query/retrieve models that it accepts. roles: whether it lets callers take storage classes.
    """

    def __init__(
        self,
        objects: Sequence[Dataset] = (),
        *,
        find: Callable[[Any], Answers] | None = None,
        get: Callable[[Any], Iterator[Any]] | None = None,
        destinations: dict[str, tuple[str, int]] | None = None,
        counts: bool = True,
        miscount: int = 0,
        offers: Sequence[str] = (VERIFICATION, FIND, GET, MOVE),
        roles: bool = True,
        callers: Sequence[str] = ("KONSIL",),
        maximum: int = 10,
        ssl_context: Any = None,
    ) -> None:
        self.objects = list(objects)
        self.destinations = destinations if destinations is not None else {}
        self.asked: list[Dataset] = []
        self.associations = 0
        self.counts = counts
        self.miscount = miscount
        self._find = find
        self._get = get
        self._ssl = ssl_context
        self.entity = entity = AE(ae_title="PACS")
        entity.require_called_aet = True
        entity.require_calling_aet = list(callers)
        entity.maximum_associations = maximum
        for offer in offers:
            entity.add_supported_context(offer)
        for storage in contexts.STORAGE:
            if roles:
                entity.add_supported_context(storage, list(contexts.NATIVE), scu_role=False, scp_role=True)
            else:
                entity.add_supported_context(storage, list(contexts.NATIVE))
            entity.add_requested_context(storage, list(contexts.NATIVE))

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def __enter__(self) -> Self:
        self.server = serve_entity(
            self.entity,
            ("127.0.0.1", 0),
            contexts=self.entity.supported_contexts,
            ssl_context=self._ssl,
            evt_handlers=[
                (evt.EVT_ACCEPTED, self._accepted),
                (evt.EVT_C_ECHO, lambda event: 0x0000),
                (evt.EVT_C_FIND, self._on_find),
                (evt.EVT_C_GET, self._on_get),
                (evt.EVT_C_MOVE, self._on_move),
            ],
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.stop()

    def fitting(self, query: Dataset) -> list[Dataset]:
        """Objects below what a query names."""
        keys = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        named = {key: query[key].value for key in keys if query.get(key)}
        return [
            obj
            for obj in self.objects
            if all(obj[key].value == value or obj[key].value in list(value) for key, value in named.items())
        ]

    def matches(self, event: Any) -> Answers:
        """What a C-FIND should be answered; other keys than UIDs are not matched, as PS3.4 allows."""
        query = event.identifier
        level = query.QueryRetrieveLevel
        key = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}[level]
        found: dict[str, list[Dataset]] = {}
        for obj in self.fitting(query):
            found.setdefault(obj[key].value, []).append(obj)
        for group in found.values():
            answer = Dataset()
            answer.QueryRetrieveLevel = level
            for element in query:
                if element.keyword in group[0] and element.keyword != "QueryRetrieveLevel":
                    answer[element.tag] = group[0][element.tag]
            if level == "STUDY":
                answer.ModalitiesInStudy = sorted({obj.Modality for obj in group})
            if level == "SERIES" and self.counts:
                answer.NumberOfSeriesRelatedInstances = len(group) + self.miscount
            yield 0xFF00, answer

    def _accepted(self, event: Any) -> None:
        self.associations += 1

    def _on_find(self, event: Any) -> Answers:
        self.asked.append(event.identifier)
        return (self._find or self.matches)(event)

    def _on_get(self, event: Any) -> Iterator[Any]:
        self.asked.append(event.identifier)
        if self._get is not None:
            yield from self._get(event)
            return
        objects = self.fitting(event.identifier)
        yield len(objects)
        for obj in objects:
            yield 0xFF00, obj

    def _on_move(self, event: Any) -> Iterator[Any]:
        self.asked.append(event.identifier)
        destination = self.destinations.get(event.move_destination)
        yield destination if destination is not None else (None, None)
        objects = self.fitting(event.identifier)
        yield len(objects)
        for obj in objects:
            yield 0xFF00, obj
