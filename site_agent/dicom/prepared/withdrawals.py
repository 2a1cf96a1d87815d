"""Who has withdrawn among the patients of a source: by their own identifiers while the source tells them, else by the
pseudonyms that are kept.

An issuer plays no part, and a study's own UID may stand in the list. Identifiers stay in memory. What is kept are
pseudonyms, keyed digests of marks (`messages.ground.written.likeness`), and the numbers of the list's lines.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from messages.ground.written.entries import ListEntry
from messages.ground.written.identifiers import ISSUER
from messages.ground.written.likeness import list_marks, list_meanings, list_own_meanings, read_pattern
from site_agent.datasets.consent import (
    Consent,
    ListUnclear,
    WithdrawnList,
    compare_list,
    list_forms,
    list_pieces,
    names_of,
)
from site_agent.dicom.base import Object, StudyFound
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.door.pseudonyms import Pseudonyms, list_identities
from site_agent.dicom.prepared import pins, store
from site_agent.dicom.prepared.index import Index

_NOTE, _PATIENTS = "consent", "marks"
_SIZE = 16
"""Hexadecimal digits of a mark's digest that are kept: two that are equal by chance stop a data set."""


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
        self._keyed: dict[str, tuple[frozenset[str], frozenset[str]]] = {}

    @property
    def has_entries(self) -> bool:
        """Whether the list names anybody."""
        return bool(self._list.entries)

    def covers_pseudonyms(self, patient: str, study: str) -> bool:
        """Whether the list names a patient, or one study by its UID or by what its objects name; as pseudonyms."""
        return patient in self.pseudonyms or study in self._studies or study in self._named

    def key_names(self, obj: Object) -> tuple[frozenset[str], frozenset[str]]:
        """Of every Patient ID that an object names: the pseudonyms as `covers_object` compares them, and the keyed
        marks by which an entry may mean it."""
        keyed = [self._key_name(name) for name in list_identities(obj)]
        return frozenset().union(*(names for names, _ in keyed)), frozenset().union(*(marks for _, marks in keyed))

    def _key_name(self, name: str) -> tuple[frozenset[str], frozenset[str]]:
        if name not in self._keyed:
            names = frozenset(self._names.pseudonym_of_patient(form) for form in list_forms(name))
            self._keyed[name] = names, self._key_marks(mark for one in list_pieces(name) for mark in list_marks(one))
        return self._keyed[name]

    def _key_marks(self, marks: Iterable[str]) -> frozenset[str]:
        return frozenset(self._names.digest_of_likeness(mark)[:_SIZE] for mark in marks)

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
        """Compare the list with what the source has and its objects are known to name, and remember what came of it.

        Raises:
            ListUnclear: an entry is in doubt.
        """
        studies = [*found]
        marks: dict[str, set[str]] = {}
        for one in studies:
            number = one.patient.partition(ISSUER)[0]
            patient = self._names.pseudonym_of_patient(number or f"study {one.uid}")
            marks.setdefault(patient, set()).update(*(self._key_name(name)[1] for name in (number, one.uid) if name))
        index.note_value(_PATIENTS, json.dumps({patient: sorted(ones) for patient, ones in marks.items()}))
        return self.judge_objects(studies, index)

    def judge_objects(self, found: Iterable[StudyFound], index: Index, *, notes: bool = True) -> Consent | None:
        """As `judge_found`, once more with what objects that came since name."""
        studies = {self._names.pseudonym_of_case(one.uid): one for one in found}
        subjects = ((one.patient, one.uid) for one in studies.values())
        consent = compare_list(self._list, subjects, shows_names=False)
        if consent is None:
            return None
        named = {study: one for study, one in index.all_names().items() if study in studies}
        known = [
            (
                one.names | {study, self._names.pseudonym_of_patient(studies[study].patient.partition(ISSUER)[0])},
                one.marks,
            )
            for study, one in named.items()
        ]
        wild = any(len(one.names) > 2 for one in named.values())  # more than an identifier, with and without its issuer
        told = self._judge_keyed(known, unknown=False, wild=wild, nobody=consent.nobody)
        if notes:
            self._note_consent(told, index)
        return told

    def judge_known(self, patients: Collection[str], index: Index) -> Consent | None:
        """Compare the list with the patients of a prepared state, where the source cannot be asked.

        Args:
            patients: their pseudonyms.

        Raises:
            ListUnclear: an entry is like one of them, or nothing tells whether it is.
        """
        if self._list.path is None:
            return None
        marks: dict[str, list[str]] = json.loads(index.noted_value(_PATIENTS) or "{}")
        verdicts, named = index.all_verdicts(), index.all_names()
        studies: dict[str, set[str]] = {one: set() for one in patients}
        for study, verdict in verdicts.items():
            studies.setdefault(verdict.patient, set()).add(study)
        known = [({one} | studies[one], frozenset(marks.get(one, ()))) for one in patients]
        for study, verdict in verdicts.items():
            names = {verdict.patient, study}
            if verdict.patient not in patients:
                known.append((names, frozenset()))
            elif study in named:
                known.append((names | named[study].names, named[study].marks))
            else:
                known.append((names, frozenset()))
        return self._judge_keyed(known, unknown=not marks.keys() >= set(patients), wild=True)

    def _judge_keyed(
        self,
        known: Sequence[tuple[Collection[str], Collection[str]]],
        *,
        unknown: bool,
        wild: bool,
        nobody: Collection[int] | None = None,
    ) -> Consent:
        """Compare the list by keyed digests.

        Args:
            known: of each patient or study the pseudonyms, and the marks of its names.
            unknown: whether there is somebody whose marks are not known. wild: whether there are names that no wildcard
                was compared with. nobody: lines that no name of the source fits;
                None where it was not asked.
        """
        there: set[str] = set().union(*(names for names, _ in known))
        marked: dict[str, list[Collection[str]]] = defaultdict(list)
        """Mark → the pseudonyms of each who has it: a list and its patients may both be long."""
        for names, marks in known:
            for mark in marks:
                marked[mark].append(names)
        matched, left, doubts = 0, [], []
        for entry in self._list.entries:
            own = self._own_pseudonyms(entry)
            fits = bool(own & there) or (nobody is not None and entry.line not in nobody)
            matched += fits
            if not fits:
                left.append(entry.line)
            if entry.exact:
                continue
            meant = set().union(*map(list_own_meanings, names_of(entry))) if fits else list_meanings(entry.name)
            digests = self._key_marks(meant)
            unclear = not fits and (unknown or (wild and read_pattern(entry.name) is not None))
            alike = (names for mark in digests if mark in marked for names in marked[mark])
            if unclear or any(own.isdisjoint(names) for names in alike):
                doubts.append(entry.line)
        if doubts:
            raise ListUnclear(
                f"the list of withdrawn patients is in doubt in line {doubts[0]}: it is like the name of somebody here,"
                " and not equal to it, or nothing tells whether it is",
                where=f"{self._list.path}, line {doubts[0]}",
                advice='Write it as the PACS has it; if somebody else is meant, write "exactly: " before it',
            )
        return Consent(len(self._list.entries), matched, tuple(left))

    def _own_pseudonyms(self, entry: ListEntry) -> set[str]:
        own = self._names.pseudonyms_of_withdrawn([entry.name])
        return own | {self._names.pseudonym_of_case(one) for one in (entry.name, entry.number)}

    def note_copies(self, copies: int, uncompared: int, used: int, index: Index) -> Consent | None:
        """Add to what was remembered how many studies hold a withdrawn patient's images under another name.

        Args:
            uncompared: as in `Consent`. used: its `used_copies`.
        """
        plain: dict[str, Any] = json.loads(index.noted_value(_NOTE) or "{}")
        if self._list.path is None or not plain:
            return None
        plain |= {"copies": copies, "uncompared": uncompared, "used": used}
        index.note_value(_NOTE, json.dumps(plain))
        return _read_note(plain)

    def _note_consent(self, consent: Consent, index: Index) -> None:
        look = pins.look_at_list(self._list.path)
        plain = {"entries": consent.entries, "matched": consent.matched, "nobody": consent.nobody, "look": look}
        index.note_value(_NOTE, json.dumps(plain))


def judge_source(
    name: str, config: DicomDataset, found: Sequence[StudyFound], state: Path, secret: bytes | None
) -> Consent | None:
    """Compare a data set's list with what its source has and objects of it are known to name, and note nothing.

    Args:
        secret: the site's, where it has one already.

    Raises:
        ListUnclear: it cannot be read, or an entry is in doubt.
    """
    path = store.folder_of(state, name) / "index.sqlite"
    if secret is None or not path.exists():
        listed = WithdrawnList.read_list(config.withdrawn)
        return compare_list(listed, ((one.patient, one.uid) for one in found), shows_names=False)
    index = Index(path)
    try:
        return Withdrawals(config.withdrawn, Pseudonyms(secret)).judge_objects(found, index, notes=False)
    finally:
        index.close()


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
    return Consent(
        int(plain["entries"]),
        int(plain["matched"]),
        tuple(plain["nobody"]),
        texts,
        copies,
        uncompared,
        int(plain.get("used", 0)),
    )


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
