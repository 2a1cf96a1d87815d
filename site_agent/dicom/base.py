"""What the parts of the way from a PACS to a case hand to each other. No I/O and no pydicom.

The way: a source finds studies and fetches their series (`sources`); each object passes the door, where what
identifies a patient is removed (`door`) after what it says of its series has been taken down as `Facts` (`roles`); the
spool keeps it (`spool`); its series become volumes (`volumes`), its segmentations labels (`segmentations`,
`structures`), and a study a case on one grid (`cases`), which lies in the prepared data set (`store`, `build`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from messages.ground.errors import KonsilError
from messages.reasons import Reason

Object = Any
"""A pydicom Dataset with its file meta information (`file_meta.TransferSyntaxUID`)."""
Take = Callable[[Object], None]
"""Takes over one object that a source fetched."""
Has = Callable[[str], bool]
"""Whether an object is there already, by its SOP Instance UID."""


@dataclass(frozen=True, slots=True)
class SeriesFound:
    """A series as the source's index describes it. Identifies a patient: never logged, never written to disk.

    Attributes:
        instances: Number of Series Related Instances (0020,1209) where the source says it, else None.
        mark: changes when the source sees other instances than before, where it can tell more than their number.
    """

    study: str
    uid: str
    modality: str
    instances: int | None = None
    mark: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class StudyFound:
    """A study of one patient; `patient` is the source's own identifier (Patient ID with its issuer).

    `accession`: its Accession Number; "" where the source does not say.
    """

    uid: str
    patient: str
    series: tuple[SeriesFound, ...]
    accession: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came of fetching one series.

    Attributes:
        received: objects handed to `take`, those that were there before not counted.
        present: objects of the series that are there now.
        reason: None where all that the source announced is there; else why not.
        lacking: objects that are known to be missing, as the source names them: files, or SOP Instance UIDs. May name
            patients: for the operator's eyes.
    """

    received: int
    present: int
    reason: Reason | None = None
    lacking: tuple[str, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class PassedOver:
    """What a source has and nobody uses, told to the operator by its name.

    Attributes:
        name: a file, relative to the folder, or a UID; "" where there is none. For the operator alone.
        text: why, without names.
    """

    name: str
    reason: Reason
    text: str


@dataclass(frozen=True, slots=True)
class Looked:
    """What the last `find` came across besides the studies that it gave.

    Attributes:
        objects: DICOM objects seen (folders only; a PACS tells of studies and series).
        not_dicom: files that are no DICOM. unreadable: files that say they are, and cannot be read.
        duplicates: objects that came again under one SOP Instance UID.
        mixed_patients: studies left out because they name several patients (`Reason.MIXED_PATIENTS`).
        not_asked: studies that the source gave although they do not fit the query.
        unusable: studies or series left out because they have no usable UID.
        passed_over: what of all this has a name, for the operator's eyes: never logged, written to disk sealed alone.
    """

    objects: int = 0
    not_dicom: int = 0
    unreadable: int = 0
    duplicates: int = 0
    mixed_patients: int = 0
    not_asked: int = 0
    unusable: int = 0
    passed_over: tuple[PassedOver, ...] = field(default=(), compare=False, repr=False)


class StudySource(Protocol):
    """Where studies come from. Raises `messages.ground.errors` only: nothing foreign gets out."""

    @property
    def looked(self) -> Looked:
        """What the last `find_studies` came across besides."""

    def find_studies(self) -> Sequence[StudyFound]:
        """Every study that the operator's query fits, each once.

        Raises:
            PacsUnreachable: nothing answers, or not in time.
            PacsRefused: it answered and will not do it; a final status other than success is never "no studies".
            DataError: a folder is missing or may not be read.
        """

    def fetch_series(self, series: SeriesFound, has: Has, take: Take) -> Fetched:
        """Fetch what of a series is not there yet; what was taken stays taken where it breaks.

        Raises:
            PacsUnreachable, PacsRefused: as `find_studies`; a later call goes on where this one broke.
        """

    def close(self) -> None:
        """Release associations and listening ports."""


@dataclass(frozen=True, slots=True)
class Volume:
    """One three-dimensional image.

    Attributes:
        voxels: float32 (I, J, K), rescaled to the units of the modality; C-contiguous. I runs along a row (columns of
            the DICOM image), J down a column, K along the normal.
        affine: voxel index → millimetres in RAS+, float64 (4, 4).
        frame_of_reference: Frame of Reference UID; "" where there is none.
        series: Series Instance UID.
        frames: for each k the SOP Instance UID and the frame number (from 1) that it came from.
        part: what tells it from the series' other volumes, such as "echo 2" or "time 3"; "" where it is the only one.
        extent_verified: whether something besides the slices themselves says that none is missing at the ends.
    """

    voxels: npt.NDArray[np.float32]
    affine: npt.NDArray[np.float64]
    frame_of_reference: str
    series: str
    frames: tuple[tuple[str, int], ...]
    part: str = ""
    extent_verified: bool = False


@dataclass(frozen=True, slots=True)
class LabelMap:
    """A label on a reference volume's grid: position in `concepts` plus one, 0 is background. uint8 (I, J, K).

    Attributes:
        described: the concepts of which the object that it was read from says something, be it that there are none.
    """

    voxels: npt.NDArray[np.uint8]
    concepts: tuple[str, ...]
    described: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A series, a volume or a label that is not used. `text` may say numbers, never what identifies a patient."""

    reason: Reason
    text: str
    instances: int = 0


class ObjectRefused(KonsilError):
    """A series, label or study that cannot be used, with its reason. Raised by pure parts, counted by `build`."""

    def __init__(self, reason: Reason, what: str, *, where: str = "") -> None:
        super().__init__(what, where=where)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Accounting:
    """What a data set holds, as counts: what leaves the site, and no more.

    Attributes:
        found: studies that the query fits. used: cases.
        left_out: studies that gave no case, by reason. series_left_out: series, by reason.
        extent_unverified: series used of which nothing but their slices says that none is missing at the ends.
        fingerprint: keyed digest of the accepted cases' content (hex).
        as_of: when the source was last asked (Unix time), where it was away when this was wanted; None: it was not. For
            the operator's eyes.
    """

    found: int
    used: int
    left_out: Counter[Reason] = field(default_factory=Counter)
    series_left_out: Counter[Reason] = field(default_factory=Counter)
    extent_unverified: int = 0
    fingerprint: str = ""
    as_of: float | None = None


def join_values(value: Any) -> str:
    """An element's value as text; several with the backslash that parted them (PS3.5, 6.4), "" for none."""
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
