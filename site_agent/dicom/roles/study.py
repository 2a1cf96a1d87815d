"""One study as it lies in the spool: what its case is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from messages.reasons import Reason
from site_agent.dicom.base import Object
from site_agent.dicom.roles import assignment


@dataclass(frozen=True, slots=True)
class Study:
    """One study's clean objects, series by series. UIDs are pseudonyms.

    Attributes:
        facts: what was taken down of each image series before it was cleaned.
        modalities: of every series that was fetched.
        announced: how many instances the source says that a series has; None where it does not.
        broken: series that did not come whole, with the reason.
        objects: reads a series.
        nifti: the label file beside, where labels are NIfTI; None where there is none.
    """

    facts: Mapping[str, assignment.Facts]
    modalities: Mapping[str, str]
    announced: Mapping[str, int | None]
    broken: Mapping[str, Reason]
    objects: Callable[[str], Sequence[Object]]
    nifti: Path | None = None
