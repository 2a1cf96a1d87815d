"""Images of patients who have withdrawn, met again under another name: known by keyed digests of their voxels.

A research archive stores a study again under its own Patient ID, and no list names that one. So the images of those who
are listed are compared with all that is used. What is known of a study is kept as digests under the site's secret:
nobody without it can test whether a patient was there. An archive may forget the original; its digests stay while the
list names the patient.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from messages.ground.errors import DataError
from site_agent.datasets.nifti import read_nifti
from site_agent.datasets.twins import digest_image, find_everybodys, find_other_names
from site_agent.datasets.vault import CASES, Vault
from site_agent.dicom.base import SeriesFound, Volume
from site_agent.dicom.prepared.index import Index
from site_agent.dicom.prepared.store import Store, patient_of, study_of
from site_agent.dicom.prepared.withdrawals import Withdrawals


def digest_volumes(volumes: Iterable[Volume], secret: bytes) -> tuple[str, ...]:
    """The digest of each volume, as it was made of its slices: what two studies have in common is a copy."""
    key = _key_of(secret)
    return tuple(
        digest_image(volume.voxels, volume.affine, key)
        for volume in volumes
        if volume.voxels.min() < volume.voxels.max()  # an empty one is like everybody's
    )


def may_hold_copy(ones: Collection[SeriesFound], others: Collection[SeriesFound]) -> bool:
    """Whether a series among the ones may be one of the others: by its number of objects, as far as it is known."""
    return any(
        one.modality == other.modality and (not one.instances or other.instances in (one.instances, None))
        for one in ones
        for other in others
    )


class Copies:
    """What is known of the images of a data set's studies.

    Args:
        index: of the data set; keeps the digests where `keeps`.
        listed: who has withdrawn.
    """

    def __init__(self, index: Index, lying: Store, listed: Withdrawals, secret: bytes, *, keeps: bool) -> None:
        self._index, self._store, self._listed, self._keeps = index, lying, listed, keeps
        self._secret = secret

    def find_lost(self) -> frozenset[str]:
        """Digests of all images of the withdrawn that are known, those of their prepared cases among them."""
        if not self._listed.has_entries:
            return frozenset()
        known = self._index.all_contents()
        covered = [one for study, one in known.items() if self._listed.covers_pseudonyms(one.patient, study)]
        lost = {image for one in covered for image in one.images}
        for place in self._store.list_cases():
            patient, study = patient_of(place.name), study_of(place.name)
            if study not in known and self._listed.covers_pseudonyms(patient, study):
                verdict = self._index.get_verdict(study)
                lost |= self._read_images(place, patient, study, "" if verdict is None else verdict.print)
        return frozenset(lost)

    def find_other_names(self, lost: Collection[str], members: Mapping[str, str] | None = None) -> set[str]:
        """Patients (pseudonyms) whom no list names, and who hold one of the lost images.

        Args:
            members: case → digest of its content, of cases that are looked into where their images are not known.
        """
        return find_other_names(lost, self._list_held(members)) if lost else set()

    def find_everybodys(self, lost: Collection[str], members: Mapping[str, str]) -> set[str]:
        """All patients whom no list names, where each of them holds one of the lost images; arguments as above."""
        return find_everybodys(lost, self._list_held(members)) if lost else set()

    def _list_held(self, members: Mapping[str, str] | None) -> Mapping[str, set[str]]:
        """Digests of the images of each patient whom no list names."""
        known = self._index.all_contents()
        held: defaultdict[str, set[str]] = defaultdict(set)
        for study, one in known.items():
            if not self._listed.covers_pseudonyms(one.patient, study):
                held[one.patient].update(one.images)
        for case, digest in (members or {}).items():
            verdict = self._index.get_verdict(study_of(case))
            print_ = "" if verdict is None else verdict.print
            if study_of(case) not in known or known[study_of(case)].print != print_:
                place = self._store.place_of(case, digest)
                held[patient_of(case)] |= self._read_images(place, patient_of(case), study_of(case), print_)
        return held

    def forget_contents(self, kept: Collection[str]) -> None:
        """Forget the images of studies that are not among the kept ones, but for those of the withdrawn."""
        known = self._index.all_contents()
        others = self.find_other_names(self.find_lost())
        self._index.forget_contents(
            study
            for study in known.keys() - kept
            if known[study].patient not in others and not self._listed.covers_pseudonyms(known[study].patient, study)
        )
        # By its objects' names alone the list may cover a study whose images stay known.
        self._index.forget_names(self._index.all_names().keys() - kept - self._index.all_contents().keys())

    def _read_images(self, place: Path, patient: str, study: str, print_: str) -> set[str]:
        """Of a case that was prepared without a list, or by an earlier release."""
        vault = Vault(self._secret, CASES)
        try:
            files = [read_nifti(path, vault) for path in sorted(place.iterdir()) if "-seg.nii" not in path.name]
            images = tuple(digest_image(file.read_voxels(), file.affine, _key_of(self._secret)) for file in files)
        except (DataError, OSError):  # damaged or gone: so nobody trains on it either
            return set()
        if self._keeps:
            self._index.put_content(study, patient, print_, images)
        return set(images)


def _key_of(secret: bytes) -> bytes:
    return Vault(secret, CASES).make_key("copies")
