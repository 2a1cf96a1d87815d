"""What a prepared data set holds, for whoever reads it: its newest state, its folder, verdicts, what is left out."""

from __future__ import annotations

from pathlib import Path

from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.vault import Vault
from site_agent.dicom.base import Accounting
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.prepared import away, store
from site_agent.dicom.prepared.index import NAMES, Index, ObjectLeftOut, StudyVerdict
from site_agent.disk.secret import secret_of


def read_accounting(state: Path, name: str) -> Accounting | None:
    """The newest state of a data set as counts; None where none was prepared."""
    return store.read_manifest(state, name)


def read_standing_in(name: str, config: DicomDataset, state: Path) -> Accounting | None:
    """The state that would stand in for a PACS that is away (`away.find_standing_in`); None where none would."""
    return away.find_standing_in(name, config, state, secret_of(state))


def read_verdicts(state: Path, name: str) -> dict[str, StudyVerdict]:
    """What became of each study, by pseudonym; for the operator's eyes. Takes the lock of no preparation."""
    path = store.folder_of(state, name) / "index.sqlite"
    if not path.exists():
        return {}
    index = Index(path)
    try:
        return index.all_verdicts()
    finally:
        index.close()


def read_left_out(state: Path, name: str) -> list[ObjectLeftOut]:
    """The objects that are left out by themselves, with their names; for the operator's eyes. As `read_verdicts`."""
    path = store.folder_of(state, name) / "index.sqlite"
    if not path.exists():
        return []
    index = Index(path, Vault(secret_of(state), NAMES))
    try:
        return index.all_refused()
    finally:
        index.close()


def dataset_of(name: str, config: DicomDataset, state: Path, accounting: Accounting) -> DatasetConfig:
    """A state of the data set as `site_agent.datasets` reads it."""
    return DatasetConfig(
        source="brats",
        path=store.set_folder(state, name, accounting.fingerprint),
        labels=dict(enumerate(config.labels.names, start=1)),
        patient_id=store.PATIENT_ID,
    )
