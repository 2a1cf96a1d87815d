"""Who has withdrawn among the patients of a source: by their own identifiers while the source tells them, else by the
pseudonyms that are kept.

An issuer plays no part, and a study's own UID may stand in the list. Identifiers stay in memory. What is kept are
pseudonyms, keyed digests of likenesses, and the numbers of the list's lines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from messages.ground.written.identifiers import ISSUER, liken_identifier, list_likenesses
from site_agent.datasets.consent import Consent, ListUnclear, WithdrawnList, compare_list, list_forms
from site_agent.dicom.base import Object, StudyFound
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.door.pseudonyms import Pseudonyms, list_identities
from site_agent.dicom.prepared import pins, store
from site_agent.dicom.prepared.index import Index

_NOTE, _PATIENTS = "consent", "likenesses"


class Withdrawals:
    """A data set's list of the withdrawn, as it is now.

    Attributes:
        pseudonyms: of every patient whom the list may mean.

    Raises:
        ListUnclear: it cannot be read, or a line of it cannot be understood.
    """

    def __init__(self, path: Path | None, names: Pseudonyms) -> None:
        self._list, self._names = WithdrawnList.read_list(path), names
        self.pseudonyms = names.pseudonyms_of_withdrawn(self._list.numbers)
        self._studies = {names.pseudonym_of_case(number) for number in self._list.numbers}
        self._named: set[str] = set()

    @property
    def has_entries(self) -> bool:
        """Whether the list names anybody."""
        return bool(self._list.entries)

    def covers_pseudonyms(self, patient: str, study: str) -> bool:
        """Whether the list names a patient, or one study by its UID or by what its objects name; as pseudonyms."""
        return patient in self.pseudonyms or study in self._studies or study in self._named

    def key_names(self, obj: Object) -> set[str]:
        """Pseudonyms of every Patient ID that an object names, as `covers_object` compares them."""
        return {self._names.pseudonym_of_patient(form) for name in list_identities(obj) for form in list_forms(name)}

    def see_names(self, study: str, names: Collection[str]) -> None:
        """Take note of whom a study's objects name, in place of what was known; all as pseudonyms."""
        if self.pseudonyms.isdisjoint(names):
            self._named.discard(study)
        else:
            self._named.add(study)

    def covers_study(self, found: StudyFound) -> bool:
        """Whether a study, as the source describes it, is of somebody who has withdrawn."""
        return self._list.covers(found.patient, found.uid)

    def covers_object(self, obj: Object) -> bool:
        """Whether an object is: by every Patient ID that it names."""
        return self._list.path is not None and self._list.covers(*list_identities(obj))

    def judge_found(self, found: Iterable[StudyFound], index: Index) -> Consent | None:
        """Compare the list with what the source has, and remember what came of it.

        Raises:
            ListUnclear: an entry is in doubt.
        """
        studies = [*found]
        consent = compare_list(self._list, ((one.patient, one.uid) for one in studies), shows_names=False)
        if consent is not None:
            self._note_consent(consent, index)
        numbers = {one.patient.partition(ISSUER)[0] for one in studies}
        likenesses = {self._names.pseudonym_of_patient(one): self._key_likeness(one) for one in numbers if one}
        index.note_value(_PATIENTS, json.dumps(likenesses))
        return consent

    def judge_known(self, patients: Collection[str], index: Index) -> Consent | None:
        """Compare the list with the patients of a prepared state, where the source cannot be asked.

        Args:
            patients: their pseudonyms.

        Raises:
            ListUnclear: an entry is like one of them, or nothing tells whether it is.
        """
        if self._list.path is None:
            return None
        alike: dict[str, str] = json.loads(index.noted_value(_PATIENTS) or "{}")
        known = {pseudonym: alike.get(pseudonym) for pseudonym in patients}
        verdicts = index.all_verdicts()
        there = {one.patient for one in verdicts.values()} | set(patients) | verdicts.keys()
        there.update(*(one.names for one in index.all_names().values()))
        matched, nobody, doubts = 0, [], []
        for entry in self._list.entries:
            own = self._names.pseudonyms_of_withdrawn([entry.name])
            own |= {self._names.pseudonym_of_case(one) for one in (entry.name, entry.number)}
            if own & there:
                matched += 1
            else:
                nobody.append(entry)
            meant = {liken_identifier(entry.number)} | (set() if own & there else list_likenesses(entry.name))
            digests = {self._names.digest_of_likeness(one) for one in meant}
            if not entry.exact and any(one not in own and known[one] in digests for one in known):
                doubts.append(entry.line)
        if doubts:
            raise ListUnclear(
                f"the list of withdrawn patients is in doubt in line {doubts[0]}: it is like the name of somebody here,"
                " and not equal to it",
                where=f"{self._list.path}, line {doubts[0]}",
                advice='Write it as the PACS has it; if somebody else is meant, write "exactly: " before it',
            )
        return Consent(len(self._list.entries), matched, tuple(one.line for one in nobody))

    def note_copies(self, copies: int, uncompared: int, index: Index) -> Consent | None:
        """Add to what was remembered how many studies hold a withdrawn patient's images under another name.

        Args:
            uncompared: as in `Consent`.
        """
        plain: dict[str, Any] = json.loads(index.noted_value(_NOTE) or "{}")
        if self._list.path is None or not plain:
            return None
        plain |= {"copies": copies, "uncompared": uncompared}
        index.note_value(_NOTE, json.dumps(plain))
        return _read_note(plain)

    def _note_consent(self, consent: Consent, index: Index) -> None:
        look = pins.look_at_list(self._list.path)
        plain = {"entries": consent.entries, "matched": consent.matched, "nobody": consent.nobody, "look": look}
        index.note_value(_NOTE, json.dumps(plain))

    def _key_likeness(self, number: str) -> str:
        return self._names.digest_of_likeness(liken_identifier(number))


def judge_source(path: Path | None, found: Sequence[StudyFound]) -> Consent | None:
    """Compare a list with what a source has, and keep nothing.

    Raises:
        ListUnclear: it cannot be read, or an entry is in doubt.
    """
    listed = WithdrawnList.read_list(path)
    return compare_list(listed, ((one.patient, one.uid) for one in found), shows_names=False)


def recall_consent(state: Path, name: str, config: DicomDataset) -> Consent | None:
    """What the last look at a data set's source found of its list; None where there is no list, or was no look.

    Raises:
        ListUnclear: the list cannot be read any more, or a line of it cannot be understood.
    """
    listed = WithdrawnList.read_list(config.withdrawn)
    path = store.folder_of(state, name) / "index.sqlite"
    if listed.path is None or not path.exists():
        return None
    index = Index(path)
    try:
        noted = index.noted_value(_NOTE)
    finally:
        index.close()
    plain: dict[str, Any] = json.loads(noted or "{}")
    if not plain or plain["look"] != pins.look_at_list(listed.path):
        return None
    lines = set(plain["nobody"])
    texts = tuple(f"line {one.line}: {one.name} is nobody's here" for one in listed.entries if one.line in lines)
    return _read_note(plain, texts)


def _read_note(plain: dict[str, Any], texts: tuple[str, ...] = ()) -> Consent:
    # Notes of before `copies` do not count any.
    copies, uncompared = int(plain.get("copies", 0)), int(plain.get("uncompared", 0))
    return Consent(int(plain["entries"]), int(plain["matched"]), tuple(plain["nobody"]), texts, copies, uncompared)


def still_stands(pin: pins.Pin, name: str, config: DicomDataset, state: Path, secret: Callable[[], bytes]) -> bool:
    """Whether what an experiment was joined with may still be trained on: the list is as it was, and nobody of the
    state is in it, as it is read today.

    Args:
        secret: gives the site's; asked for only where there is a list.

    Raises:
        ListUnclear: the list cannot be read, or a line of it cannot be understood.
    """
    if pin.dataset != name or not pins.is_same_list(pin, config.withdrawn):
        return False
    if config.withdrawn is None:
        return True
    cases = store.list_cases(store.set_folder(state, name, pin.fingerprint))
    listed = Withdrawals(config.withdrawn, Pseudonyms(secret()))
    return not any(listed.covers_pseudonyms(store.patient_of(case), store.study_of(case)) for case in cases)
