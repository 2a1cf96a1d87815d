"""A study before any image of it came: what is told of it, which of its series are wanted, and what it lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from messages.reasons import Reason
from site_agent.dicom.base import SeriesFound, StudyFound
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.labels.label_map import LABEL_MODALITY
from site_agent.dicom.labels.nifti import list_label_files
from site_agent.dicom.prepared import pins
from site_agent.dicom.prepared.looks import Terms

USUAL_OBJECTS = 100
"""Of a series of which the source says no number."""


@dataclass
class ToldStudy:
    """What is known of a study before any image of it came; names are pseudonyms, but for `found`."""

    found: StudyFound
    study: str
    patient: str
    print: str
    nifti: Path | None = None
    unclear: str = ""
    """Why nobody can say which label is this study's."""
    compared: bool = False
    """Its patient has withdrawn: images are looked at for copies of them, and nothing is kept."""

    @property
    def case(self) -> str:
        """Name of the case that is made of it."""
        return f"{self.patient}-{self.study}"


class StudyReader:
    """Reads what a source says of a study, by the data set's settings."""

    def __init__(self, config: DicomDataset, names: Pseudonyms, terms: Terms) -> None:
        self._config, self._names, self._terms = config, names, terms
        self._studies: Counter[str] = Counter()

    def see_found(self, found: Iterable[StudyFound]) -> None:
        """Take note of all studies that the source has: a label that is named after a patient is one of one study."""
        self._studies = Counter(_number_of(one) for one in found if self.image_series(one))

    def tell_study(self, found: StudyFound) -> ToldStudy:
        """What is known of a study."""
        study = self._names.pseudonym_of_case(found.uid)
        # One Patient ID of two issuers counts as one patient: it must not land in training and test.
        number = _number_of(found)
        patient = self._names.pseudonym_of_patient(number or f"study {found.uid}")
        nifti, unclear = self._find_nifti(found, number)
        series = sorted((one.uid, one.modality, str(one.instances), one.mark) for one in found.series)
        looks = None if nifti is None else [pins.look_at_file(path) for path in list_label_files(nifti)]
        print_ = self._terms.keyed_digest([self._terms.rules, series, looks, *([unclear] if unclear else [])])
        return ToldStudy(found, study, patient, print_, nifti, unclear)

    def _find_nifti(self, found: StudyFound, number: str) -> tuple[Path | None, str]:
        """A study's label, and why nobody can say that it is."""
        folder = self._config.labels.folder
        if self._config.labels.source != "nifti" or folder is None:
            return None, ""
        stems = [stem for stem in (found.uid, number) if stem and "/" not in stem and stem not in (".", "..")]
        labels = [path for stem in stems for path in list_label_files(folder / f"{stem}.nii")[:1]]
        if len(labels) > 1:
            return labels[0], "there is a label named after the study, and one named after its patient"
        if labels and self._studies[number] > 1 and labels[0] not in list_label_files(folder / f"{found.uid}.nii"):
            return labels[0], "a label is named after the patient, who has several studies: name it after its study"
        return (labels[0] if labels else None), ""

    def find_lack(self, told: ToldStudy) -> Reason | None:
        """Why no case can come of it, as far as its source tells; None where one can."""
        modalities = {one.modality for one in told.found.series}
        if not modalities & set(self._config.query.modalities):
            return Reason.NO_IMAGE
        if told.unclear:
            return Reason.SEVERAL_LABELS
        source = self._config.labels.source
        labelled = told.nifti is not None if source == "nifti" else LABEL_MODALITY[source] in modalities
        return None if labelled else Reason.NO_LABEL

    def image_series(self, found: StudyFound) -> Sequence[SeriesFound]:
        """Its series of images that the data set asks for."""
        return [one for one in found.series if one.modality in self._config.query.modalities]

    def wanted_series(self, told: ToldStudy) -> Sequence[SeriesFound]:
        """Its series that are fetched: images, and labels unless it is only compared."""
        labels = None if told.compared else LABEL_MODALITY.get(self._config.labels.source)
        wanted = self._config.query.modalities
        return [one for one in told.found.series if one.modality in wanted or one.modality == labels]

    def count_objects(self, told: ToldStudy) -> int:
        """About how many objects are to be fetched of it."""
        return sum(USUAL_OBJECTS if one.instances is None else one.instances for one in self.wanted_series(told))


def _number_of(found: StudyFound) -> str:
    return found.patient.partition("^^^")[0]
