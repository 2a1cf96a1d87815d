"""What a site's operator says of a data set that comes from DICOM: `[datasets.NAME]` with `source` "dicom", "dimse" or
"dicomweb" of site.toml."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from messages.ground.settings import Seconds, Settings, SizeBytes
from messages.tasks.base import Concept
from site_agent.core.budget import DataBudget

AeTitle = Annotated[str, Field(pattern=r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?$")]
"""1 to 16 characters without backslash, no space at the ends (DICOM PS3.5, 6.2, VR AE)."""
Role = Literal["T1", "T1c", "T2", "FLAIR"]


def _check_code(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+:[A-Za-z0-9.-]+", value):
        raise ValueError('a code is its scheme and its value, such as "SCT:108369006"')
    return value


Code = Annotated[str, AfterValidator(_check_code)]
"""Coding scheme designator and code value, such as "SCT:108369006" (DICOM PS3.3, table 8.8-1)."""


def _check_expression(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression ({error})") from None
    return value


class Query(Settings):
    """Which studies. Every key that is given must fit.

    Attributes:
        modalities: of the studies' images; labels (SEG, RTSTRUCT) of these studies are always asked for.
        since, until: first and last study date.
        description: Study Description, with DICOM's wildcards * and ?.
        patients: file with a Patient ID a line; "#" starts a comment.
        accessions: file with an Accession Number a line.
    """

    modalities: tuple[Annotated[str, Field(pattern=r"^[A-Z]{2,16}$")], ...] = ("MR",)
    since: date | None = None
    until: date | None = None
    description: str | None = None
    patients: Path | None = None
    accessions: Path | None = None


class Override(Settings):
    """A local rule: a series whose description (and sequence or protocol name) fits is this modality, or "ignore".

    Regular expressions, anywhere in the text, upper and lower case alike; every one that is given must fit.
    """

    role: Role | Literal["ignore"]
    description: str | None = None
    protocol: str | None = None
    sequence: str | None = None

    _expressions = field_validator("description", "protocol", "sequence")(
        lambda value: None if value is None else _check_expression(value)
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.description or self.protocol or self.sequence):
            raise ValueError("an override names a description, a protocol or a sequence")
        return self


class LabelRule(Settings):
    """How a concept is known in segmentations: by code; where a label carries none (RTSTRUCT), by its exact name.

    Attributes:
        codes: of the segmented property's type, or of the structure's identification.
        names: exact ROI names (RTSTRUCT only); a SEG is never matched by its text.
    """

    codes: tuple[Code, ...] = ()
    names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not (self.codes or self.names):
            raise ValueError("give codes, or names for RTSTRUCT")
        return self


class Labels(Settings):
    """Where labels come from and what they mean.

    Attributes:
        source: objects in the same study, or NIfTI files beside (`folder`).
        concepts: concept → how it is known.
        order: where two concepts claim a voxel the later one wins; empty: such a study is left out.
        folder: nifti only: files named after the Study Instance UID (or Patient ID), ".nii" or ".nii.gz".
        values: nifti only: integers → concepts.
    """

    source: Literal["seg", "rtstruct", "nifti"] = "seg"
    concepts: dict[Concept, LabelRule] = {}
    order: tuple[Concept, ...] = ()
    folder: Path | None = None
    values: dict[int, Concept] = {}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.source == "nifti":
            if self.folder is None or not self.values:
                raise ValueError('labels.source = "nifti" needs folder and values')
        elif not self.concepts:
            raise ValueError("labels.concepts: name each concept and its codes")
        if 0 in self.values:
            raise ValueError("labels.values: 0 is the background and stands for no concept")
        if unknown := set(self.order) - set(self.names):
            raise ValueError(f"labels.order: {min(unknown)} is no concept of labels")
        known: dict[str, str] = {}
        for concept, rule in self.concepts.items():
            for word in {*rule.codes, *rule.names}:
                if known.setdefault(word, concept) != concept:
                    raise ValueError(f"labels.concepts: {word} stands for both {known[word]} and {concept}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Every concept that can come, sorted; a label map's values are positions in it, plus one."""
        return tuple(sorted(set(self.values.values()) if self.source == "nifti" else set(self.concepts)))


class _Dicom(Settings):
    """What all three sources share.

    Attributes:
        channels: the modalities that a case needs; the first is the reference whose grid the others are put on.
        withdrawn: file with one Patient ID a line that must not be used.
        refresh: how old the last look at the source may be before it is asked again.
        stale: how old it may be to stand in for a PACS that is away; 0: never.
        encrypt: keep prepared cases and caches encrypted on disk (AES-256-GCM under the site's secret).
        disk: most bytes for this data set's prepared cases.
        rate: most bytes a second taken from the source; associations: most at a time.
        privacy: what may be learned of each patient, over all experiments.
    """

    channels: tuple[Role, ...] = Field(min_length=1)
    query: Query = Query()
    overrides: tuple[Override, ...] = ()
    labels: Labels
    withdrawn: Path | None = None
    refresh: Seconds = 86400.0
    stale: Seconds = 14 * 86400.0
    encrypt: bool = False
    disk: SizeBytes | None = None
    rate: SizeBytes | None = None
    associations: int = Field(2, ge=1, le=16)
    patience: Seconds = 60.0
    """Without an answer for so long, the source counts as unreachable."""
    privacy: DataBudget | None = Field(None, exclude_if=lambda value: value is None)


class FolderSource(_Dicom):
    """A folder of DICOM files, any names, with or without DICOMDIR."""

    source: Literal["dicom"]
    path: Path


class DimseSource(_Dicom):
    """A PACS over DIMSE (PS3.4 annexes A and C; PS3.7).

    Attributes:
        ae: our own Application Entity title. called: the PACS's.
        retrieve: C-GET, or C-MOVE to `listen` (address, port), which the PACS must know under `ae`.
        ca, cert, key: as for the broker; with `ca` the association is TLS.
    """

    source: Literal["dimse"]
    host: str
    port: int = Field(104, ge=1, le=65535)
    ae: AeTitle
    called: AeTitle
    retrieve: Literal["get", "move"] = "get"
    listen: str = "127.0.0.1"
    listen_port: int = Field(0, ge=0, le=65535)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


class DicomWebSource(_Dicom):
    """A PACS over DICOMweb (PS3.18): QIDO-RS and WADO-RS.

    Attributes:
        url: the service's base, such as https://pacs.example/dicom-web.
        user, password, token: as for the broker: literal, "file:PATH" or "credential:NAME"; token is sent as Bearer.
    """

    source: Literal["dicomweb"]
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
    user: str = ""
    password: str = ""
    token: str = ""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


DicomDataset = FolderSource | DimseSource | DicomWebSource
