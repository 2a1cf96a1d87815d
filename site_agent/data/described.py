"""A data set as site.toml describes it, whatever its source: a folder of NIfTI files, DICOM files or a PACS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter

from messages.ground.errors import KonsilError
from messages.ground.settings import secret_beside
from site_agent.datasets.config import DatasetConfig
from site_agent.dicom.config import DicomDataset, DicomWebSource, DimseSource, FolderSource, Labels, Query

FOLDERS = ("brats", "decathlon", "table")
SOURCES = (*FOLDERS, "dicom", "dimse", "dicomweb")


def _kind_tag(value: Any) -> str | None:
    """The tag stands in brackets: `messages.ground.settings` leaves such a part out of a mistake's key."""
    source = value.get("source") if isinstance(value, dict) else getattr(value, "source", None)
    if source in FOLDERS:
        return "[nifti]"
    return f"[{source}]" if source in SOURCES else None


AnyDataset = Annotated[
    Annotated[DatasetConfig, Tag("[nifti]")]
    | Annotated[FolderSource, Tag("[dicom]")]
    | Annotated[DimseSource, Tag("[dimse]")]
    | Annotated[DicomWebSource, Tag("[dicomweb]")],
    Discriminator(
        _kind_tag,
        custom_error_type="unknown_source",
        custom_error_message="a data set names its source: " + ", ".join(f'"{name}"' for name in SOURCES),
    ),
]
_ADAPTER: TypeAdapter[DatasetConfig | DicomDataset] = TypeAdapter(AnyDataset)


def dataset_of(plain: Any) -> DatasetConfig | DicomDataset:
    """A data set from plain types, as `model_dump(mode="json")` gives them; raises pydantic's ValidationError."""
    return _ADAPTER.validate_python(plain)


def place_paths(dataset: DatasetConfig | DicomDataset, folder: Path) -> DatasetConfig | DicomDataset:
    """With a data set's relative paths taken from `folder`, as people mean them."""
    changes: dict[str, Any] = _join_paths(dataset, folder)
    if isinstance(dataset, DatasetConfig):
        return dataset.model_copy(update=changes)
    if isinstance(dataset, DicomWebSource):
        changes |= {name: secret_beside(getattr(dataset, name), folder) for name in ("password", "token")}
    changes |= {"query": dataset.query.model_copy(update=_join_paths(dataset.query, folder))}
    changes |= {"labels": dataset.labels.model_copy(update=_join_paths(dataset.labels, folder))}
    return dataset.model_copy(update=changes)


def _join_paths(model: DatasetConfig | DicomDataset | Query | Labels, folder: Path) -> dict[str, Path]:
    values = {name: getattr(model, name) for name in type(model).model_fields}
    return {name: folder / value for name, value in values.items() if isinstance(value, Path)}


def concepts_of(config: DatasetConfig | DicomDataset) -> set[str]:
    """The concepts that a data set's labels name; empty where its folder cannot tell."""
    if not isinstance(config, DatasetConfig):
        return set(config.labels.names)
    if config.labels or config.table is not None:
        return set(config.labels.values())
    from site_agent.datasets.layouts import labels_of  # nibabel only where a folder has to be read

    try:
        return set(labels_of(config).values())
    except KonsilError:
        return set()
