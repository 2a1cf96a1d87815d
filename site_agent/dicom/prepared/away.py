"""What is trained on while the PACS is away: the last prepared state, without those who have withdrawn since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from messages.reasons import Reason
from site_agent.dicom.base import Accounting
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.prepared import fingerprint, pins, store
from site_agent.dicom.prepared.copies import Copies
from site_agent.dicom.prepared.index import Index, StudyVerdict
from site_agent.dicom.prepared.looks import Look, Terms
from site_agent.dicom.prepared.store import Store
from site_agent.dicom.prepared.withdrawals import Withdrawals


def find_standing_in(name: str, config: DicomDataset, state: Path, secret: bytes) -> Accounting | None:
    """The state that would stand in for a PACS that is away now; None where none does. Changes nothing.

    Raises:
        ListUnclear: the list of the withdrawn cannot be read, or is in doubt.
    """
    folder = store.folder_of(state, name)
    if not (folder / "index.sqlite").exists():
        return None
    index = Index(folder / "index.sqlite")
    try:
        found = _find_accounting(name, config, state, secret, Store(folder), index)
    finally:
        index.close()
    return None if found is None else found[0]


def stand_in(
    name: str, config: DicomDataset, state: Path, secret: bytes, lying: Store, index: Index
) -> Accounting | None:
    """Make that state the newest one; under the data set's lock.

    Raises:
        DataError: as `find_standing_in`.
    """
    found = _find_accounting(name, config, state, secret, lying, index)
    if found is None:
        return None
    accounting, members, is_gone = found
    lying.drop_cases(is_gone)
    lying.publish_state(accounting.fingerprint, members, accounting)
    lying.drop_sets(pins.pinned_states(state, name) | {accounting.fingerprint})
    for study, verdict in index.all_verdicts().items():
        if verdict.reason is None and is_gone(verdict.patient, study):
            index.put_verdict(study, StudyVerdict.of_withdrawn(verdict.patient))
    return accounting


def _find_accounting(
    name: str, config: DicomDataset, state: Path, secret: bytes, lying: Store, index: Index
) -> tuple[Accounting, dict[str, str], Callable[[str, str], bool]] | None:
    """The accounting, its cases, and who has withdrawn, by the pseudonyms of patient and study."""
    known, look = store.read_manifest(state, name), Look.read_last(index)
    if known is None or look is None or not look.stands_in(Terms(config, secret), config.stale):
        return None
    before = lying.state_members(known.fingerprint)
    listed = Withdrawals(config.withdrawn, Pseudonyms(secret))
    listed.judge_known({store.patient_of(case) for case in before}, index)
    named = index.all_names()
    if listed.has_entries and any(store.study_of(case) not in named for case in before):
        return None  # prepared by a release that did not note whom objects name
    for study, one in named.items():
        listed.see_names(study, one.names)
    copies = Copies(index, lying, listed, secret, keeps=False)
    others = copies.find_other_names(copies.find_lost(), before)

    def is_gone(patient: str, study: str) -> bool:
        return patient in others or listed.covers_pseudonyms(patient, study)

    members = {
        case: digest for case, digest in before.items() if not is_gone(store.patient_of(case), store.study_of(case))
    }
    if len(before) != known.used or not all(lying.holds_case(case, digest) for case, digest in members.items()):
        return None
    verdicts = index.all_verdicts()
    gone = [one for study, one in verdicts.items() if one.reason is None and is_gone(one.patient, study)]
    series: Counter[Reason] = sum((Counter(one.series) for one in gone), Counter())
    accounting = replace(
        known,
        used=len(members),
        left_out=known.left_out + Counter({Reason.WITHDRAWN: len(before) - len(members)}),
        series_left_out=known.series_left_out - series,
        extent_unverified=max(0, known.extent_unverified - sum(one.unverified for one in gone)),
        fingerprint=fingerprint.of_set(secret, [*members.values()]),
        as_of=look.time,
    )
    return accounting, members, is_gone
