"""One study from the spool to a case in the store: the work of one process, which knows nothing of the others."""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from messages.ground.durable import is_out_of_space
from messages.reasons import Reason
from site_agent.datasets.vault import CASES, Vault
from site_agent.dicom.base import Object, ObjectRefused
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.prepared import fingerprint
from site_agent.dicom.prepared.copies import digest_volumes
from site_agent.dicom.prepared.index import StudyVerdict
from site_agent.dicom.prepared.store import Store

if TYPE_CHECKING:
    from site_agent.dicom.roles.study import Study

SEALED = "-sealed"
"""Ends the digest under which an encrypted case lies."""


@dataclass(frozen=True, slots=True)
class CaseTask:
    """What a process needs to make one case. All UIDs are pseudonyms.

    Attributes:
        folder: the data set's. study: the study's pseudonym; patient: the patient's; print: see `index.StudyVerdict`.
        modalities, announced, broken, nifti: as in `study.Study`.
        series: series that were left out before, by reason.
        compared: its images are only looked at, for copies of them: the patient has withdrawn.
    """

    folder: Path
    config: DicomDataset
    study: str
    patient: str
    print: str
    modalities: Mapping[str, str]
    announced: Mapping[str, int | None]
    broken: Mapping[str, Reason]
    secret: bytes = field(repr=False)
    series: Mapping[Reason, int] = field(default_factory=Counter)
    nifti: Path | None = None
    compared: bool = False

    @property
    def case(self) -> str:
        """The case's name: patient and study."""
        return f"{self.patient}-{self.study}"


def make_case(task: CaseTask) -> StudyVerdict:
    """Make one case and store it, or only look at its images; what became of it.

    Raises:
        OSError: the disk is full.
    """
    series = Counter(task.series)
    try:
        return _make_case_of(task, series)
    except ObjectRefused as error:
        return StudyVerdict(task.patient, task.print, error.reason, error.what, series=series)
    except ImportError:  # nothing that a study can bring about
        raise
    except MemoryError:
        # Without a print it is tried again at the next preparation.
        text = "it needs more memory than this machine has left"
        return StudyVerdict(task.patient, "", Reason.UNDECODABLE_PIXELS, text, series=series)
    except Exception as error:  # one study's nonsense must not end the others' preparation
        if isinstance(error, OSError) and is_out_of_space(error):
            raise
        # Type and place, never the message: it may hold what the file says.
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"cannot be processed ({type(error).__name__} in {Path(place.filename).name}, line {place.lineno})"
        return StudyVerdict(task.patient, task.print, Reason.UNDECODABLE_PIXELS, text, series=series)


def _make_case_of(task: CaseTask, series: Counter[Reason]) -> StudyVerdict:
    from site_agent.dicom.door.pseudonyms import Pseudonyms
    from site_agent.dicom.door.spool import Spool
    from site_agent.dicom.preparing.cases import assemble_case
    from site_agent.dicom.roles.study import Study

    with Spool(task.folder / "spool", Pseudonyms(task.secret)) as spool:
        lying = spool.list_series(task.study)
        facts = spool.read_facts(task.study)
        patients: set[str] = set()

        def objects(uid: str) -> Sequence[Object]:
            try:
                read = [spool.load_object(path) for path in lying.get(uid, ())]
            except ObjectRefused as error:  # damaged since it was put there
                raise ObjectRefused(Reason.RETRIEVE_FAILED, error.what) from None
            patients.update(str(obj.get("PatientID", "")) for obj in read)
            return read

        study = Study(
            facts={
                uid: what for uid, what in facts.items() if task.modalities.get(uid) in task.config.query.modalities
            },
            modalities=task.modalities,
            announced=task.announced,
            broken=task.broken,
            objects=objects,
            nifti=task.nifti,
        )
        if task.compared:
            return replace(StudyVerdict.of_withdrawn(task.patient), images=_digest_images(study, task))
        made = assemble_case(study, task.config, series, task.secret if task.config.withdrawn is not None else b"")
    if len(patients) > 1:
        raise ObjectRefused(Reason.MIXED_PATIENTS, f"{len(patients)} patients in one study")
    names = task.config.labels.names
    digest = fingerprint.content_digest(task.patient, made.channels, made.label, names)
    seal = Vault(task.secret, CASES).seal if task.config.encrypt else None
    digest += SEALED if seal is not None else ""
    Store(task.folder).put_case(task.case, digest, made.channels, made.label, seal)
    return StudyVerdict(task.patient, task.print, None, "", digest, made.unverified, series, made.images)


def _digest_images(study: Study, task: CaseTask) -> tuple[str, ...]:
    """Of every volume that the study's images make."""
    from site_agent.dicom.volumes.assembly import build_volumes

    images: list[str] = []
    for series in study.facts:
        with contextlib.suppress(ObjectRefused):  # no volume here, and none of a copy
            images += digest_volumes(
                build_volumes(study.objects(series), announced=study.announced.get(series)), task.secret
            )
    return tuple(images)
