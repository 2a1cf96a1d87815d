"""Answers of a PACS's index gathered into studies: each once, only what fits; what was left out as counts. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from messages.reasons import Reason
from site_agent.dicom.base import Looked, PassedOver, SeriesFound, StudyFound
from site_agent.dicom.sources.wanted import Described, Wanted, is_usable_uid

ASKED_AGAIN = 2
"""How often a study is asked again whose series are fewer than it counts: one more answer is cheap, a label that is
missing for want of it is a case lost."""


class Findings:
    """Gathers answers of queries that may overlap. An index that gives one study to two patients is not believed."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._patients: dict[str, set[str]] = {}
        self._accessions: dict[str, str] = {}
        self._series: dict[str, dict[str, SeriesFound]] = {}
        self._unsaid: set[str] = set()
        self._said: dict[str, int] = {}
        self._strays: set[str] = set()
        self._unreadable: set[str] = set()
        self._counts: Counter[str] = Counter()

    def add_study(self, uid: str, patient: str, described: Described) -> None:
        """An answer at the study level; one that does not fit the query is counted and forgotten."""
        if not is_usable_uid(uid):
            self._counts["unusable"] += 1
        elif not self._wanted.fits_query(described):
            self._strays.add(uid)
        else:
            self._patients.setdefault(uid, set()).add(patient)
            self._series.setdefault(uid, {})
            self._accessions[uid] = described.accession
            if described.modalities is None:
                self._unsaid.add(uid)
            if described.series is not None:
                self._said[uid] = described.series

    def note_unreadable(self, study: str = "") -> None:
        """An answer that cannot be read; the study that it belongs to is left out, since nobody knows what it lacks."""
        self._counts["unusable"] += 1
        self._unreadable.add(study)

    def list_candidates(self) -> Sequence[str]:
        """Studies whose series are to be asked for, sorted."""
        single = (uid for uid, patients in self._patients.items() if len(patients) == 1)
        return sorted(set(single) - self._unreadable)

    def list_short(self) -> Sequence[str]:
        """Candidates of which fewer series were named than the index counts, sorted."""
        return [uid for uid in self.list_candidates() if len(self._series[uid]) < self._said.get(uid, 0)]

    def add_series(self, study: str, uid: str, modality: str, instances: int | None) -> None:
        """An answer at the series level; a later one of the same series replaces it."""
        if not is_usable_uid(uid):
            self._counts["unusable"] += 1
        else:
            self._series[study][uid] = SeriesFound(study, uid, modality, instances)

    def complete_series(self, ask: Callable[[str], None]) -> int:
        """Have each candidate's series asked for, and again where fewer come than the index counts.

        Args:
            ask: asks for a study's series and gives each answer to `add_series`.

        Returns:
            Studies of which too few series are named to the end; they are used as they are: some archives count what
            they do not show.
        """
        for uid in self.list_candidates():
            ask(uid)
        for _ in range(ASKED_AGAIN):
            for uid in self.list_short():
                ask(uid)
        return len(self.list_short())

    def list_uncounted(self) -> Sequence[SeriesFound]:
        """Series that will be fetched and whose number of instances the index does not say."""
        return [
            series
            for study in self._series.values()
            for series in study.values()
            if series.instances is None and self._wanted.takes_modality(series.modality)
        ]

    def count_instances(self, listed: Callable[[SeriesFound], Sequence[str] | None]) -> None:
        """Have what is uncounted counted by a list of its objects, where one is to be had (else None)."""
        for series in self.list_uncounted():
            objects = listed(series)
            if objects is not None:
                self.add_series(series.study, series.uid, series.modality, len(objects))

    def result(self) -> tuple[Sequence[StudyFound], Looked]:
        """Studies with those of their series that are fetched, sorted; and what was left out.

        A study that did not say its modalities has to have a series of one that was asked for.
        """
        found, passed = [], []
        for uid, patients in sorted(self._patients.items()):
            series = self._series[uid]
            if uid in self._unreadable:
                continue
            if len(patients) > 1:
                passed.append(
                    PassedOver(uid, Reason.MIXED_PATIENTS, "a study that the source gives to several patients")
                )
            elif uid in self._unsaid and not any(one.modality in self._wanted.modalities for one in series.values()):
                self._strays.add(uid)
            else:
                taken = tuple(one for _, one in sorted(series.items()) if self._wanted.takes_modality(one.modality))
                found.append(StudyFound(uid, next(iter(patients)), taken, self._accessions[uid]))
        strays, mixed, unusable = (
            len(self._strays - {study.uid for study in found}),
            len(passed),
            self._counts["unusable"],
        )
        if unusable:
            what = f"{unusable} answers of the source name no usable UID, or cannot be read"
            passed.append(PassedOver("", Reason.UNREADABLE, what))
        looked = Looked(mixed_patients=mixed, not_asked=strays, unusable=unusable, passed_over=tuple(passed))
        return found, looked
