"""Where studies come from: a folder, a PACS over DIMSE, a PACS over DICOMweb, behind `base.StudySource`."""

from __future__ import annotations

from pathlib import Path

from site_agent.dicom.base import StudySource
from site_agent.dicom.config import DicomDataset, DimseSource, FolderSource


def open_source(config: DicomDataset, state: Path) -> StudySource:
    """The source that a data set's settings name. Nothing is asked of it yet.

    Args:
        state: the agent's state folder; no source keeps anything there: what it knows identifies patients.

    Raises:
        ConfigError: a file that the settings name (a query's list, a certificate, a credential) cannot be used.
    """
    del state
    if isinstance(config, FolderSource):
        from site_agent.dicom.sources.folder import FolderReader

        return FolderReader(config)
    if isinstance(config, DimseSource):
        from site_agent.dicom.sources.dimse import Dimse

        return Dimse(config)
    from site_agent.dicom.sources.dicomweb import DicomWeb

    return DicomWeb(config)


def echo_source(config: DicomDataset) -> None:
    """Whether the source answers, for a look before work: C-ECHO, a search for one study, or a look at the folder.

    Raises:
        ConfigError, DataError, PacsUnreachable, PacsRefused: it does not; one line says why.
    """
    if isinstance(config, FolderSource):
        from site_agent.dicom.sources import folder

        folder.check_folder(config)
    elif isinstance(config, DimseSource):
        from site_agent.dicom.sources import association

        association.echo_pacs(config)
    else:
        from site_agent.dicom.sources.dicomweb import DicomWeb

        service = DicomWeb(config)
        try:
            service.check_answer()
        finally:
            service.close()
