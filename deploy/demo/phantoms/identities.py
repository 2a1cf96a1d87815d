"""Patient IDs and Study Instance UIDs for the demo's patients, so that a run from the PACS can be held against one from
NIfTI.

A site splits its patients by a keyed hash of their names (`site_agent.datasets.splits`), and of data out of a PACS the
names are pseudonyms. Two runs over the same images would thus train and test on different patients, and their Dice
differ by more than DICOM can be blamed for. The demo knows its sites' secrets: it invents identifiers whose pseudonyms
fall where the NIfTI folders' names fall, patient by patient, and come in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from deploy.demo.phantoms import dicom, phantom
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.splits import order_of, split_of
from site_agent.dicom.door.pseudonyms import Pseudonyms


@dataclass(frozen=True, slots=True)
class PatientIdentity:
    """One case to come: which phantom, and what the PACS calls it. `folder` is its name among the NIfTI folders."""

    patient: int
    visit: int
    folder: str
    patient_id: str
    study: str


def invent_identities(
    *, site_index: int, cases: int, secret: bytes, seed: int, fractions: Mapping[str, float]
) -> tuple[PatientIdentity, ...]:
    """The identities of a site's cases.

    Args:
        secret: the site's own.
        seed, fractions: the experiment's seed and `data.split`.
    """
    planned = phantom.plan_cases(site_index, cases)
    nifti = DatasetConfig(source="brats", path=Path(), labels={1: "any"}, patient_id=phantom.patient_id(site_index))
    pseudonyms = Pseudonyms(secret)
    patients: dict[int, str] = {}
    for patient, _visit, folder in planned:
        if patient not in patients:
            wanted = split_of(secret, nifti.patient_of(folder), seed, fractions)
            patients[patient] = next(
                one
                for one in _patient_candidates(site_index, patient)
                if split_of(secret, pseudonyms.pseudonym_of_patient(one), seed, fractions) == wanted
            )
    ranked = sorted((folder for _patient, _visit, folder in planned), key=lambda name: order_of(secret, name, seed))
    place = {folder: rank for rank, folder in enumerate(ranked)}
    return tuple(
        PatientIdentity(
            patient,
            visit,
            folder,
            patients[patient],
            next(
                study
                for study in _study_candidates(seed, site_index, patient, visit)
                if _find_share(order_of(secret, case_name(pseudonyms, patients[patient], study), seed), len(planned))
                == place[folder]
            ),
        )
        for patient, visit, folder in planned
    )


def case_name(pseudonyms: Pseudonyms, patient_id: str, study: str) -> str:
    """What the site's prepared data set calls a case (`site_agent.dicom.preparing.build`)."""
    return f"{pseudonyms.pseudonym_of_patient(patient_id)}-{pseudonyms.pseudonym_of_case(study)}"


def _patient_candidates(site_index: int, patient: int) -> Iterator[str]:
    """Patient IDs as a hospital gives them out, each once and to one patient alone."""
    return (f"KH{site_index + 1}-{patient:04d}{number:02d}" for number in count())


def _study_candidates(seed: int, site_index: int, patient: int, visit: int) -> Iterator[str]:
    return (dicom.make_uid("konsil demo", seed, site_index, patient, visit, number) for number in count())


def _find_share(hashed: bytes, shares: int) -> int:
    """Which of so many equal shares of all hashes this one lies in, from the smallest."""
    return int.from_bytes(hashed[:8], "big") * shares >> 64
