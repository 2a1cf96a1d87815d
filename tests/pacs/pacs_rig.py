"""A data set out of Orthanc, over C-GET, over C-MOVE, or over DICOMweb."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from brokers import PATIENCE
from dicom_files import asking

from deploy.orthanc.node import OrthancNode
from site_agent.dicom import sources
from site_agent.dicom.base import StudySource
from site_agent.dicom.config import DicomDataset, DicomWebSource, DimseSource
from site_agent.dicom.sources.dimse import Dimse

WAYS = ("get", "move", "web")


def dimse(node: OrthancNode, **changes: Any) -> DimseSource:
    values: dict[str, Any] = {
        "source": "dimse",
        "host": "127.0.0.1",
        "port": node.dicom_port,
        "ae": "KONSIL",
        "called": "ORTHANC",
        "patience": PATIENCE,
        **asking(changes.pop("query", {})),
    }
    return DimseSource(**{**values, **changes})


def web(node: OrthancNode, **changes: Any) -> DicomWebSource:
    values = {"source": "dicomweb", "url": node.url, "patience": PATIENCE, **asking(changes.pop("query", {}))}
    return DicomWebSource(**{**values, **changes})


def settings(way: str, node: OrthancNode, **changes: Any) -> DicomDataset:
    return web(node, **changes) if way == "web" else dimse(node, retrieve=way, **changes)


@contextmanager
def opened(way: str, node: OrthancNode, **changes: Any) -> Iterator[StudySource]:
    """A source over the node, which knows where our storage SCP listens."""
    source = sources.open_source(settings(way, node, **changes), Path("unused"))
    try:
        if way == "move":
            assert isinstance(source, Dimse)
            node.register_modality("KONSIL", "127.0.0.1", source.scp.port)
        yield source
    finally:
        source.close()
