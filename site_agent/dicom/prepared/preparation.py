"""One preparation of a data set: find, fetch, clean, make cases, publish; what was done before is not done again.

    find ─► withdrawn patients left out ─► fetch ─► door ─► spool ─► cases (processes) ─► store ─► published state

Killed at any point it goes on where it was: objects in the spool are not fetched again, studies with a verdict in the
index neither, and a state of the data set appears whole. Studies stream: one is fetched while others are made into
cases, and none is held longer.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from logging import INFO, WARNING
from pathlib import Path

import structlog

from messages.ground import crash
from messages.ground.errors import KonsilError, PacsRefused, PacsUnreachable
from messages.reasons import Reason
from site_agent.datasets.consent import COPY
from site_agent.datasets.vault import Vault
from site_agent.dicom.base import Accounting, Fetched, Object, SeriesFound, StudyFound, StudySource
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import Spool
from site_agent.dicom.labels.label_map import LABEL_MODALITY
from site_agent.dicom.labels.nifti import list_label_files
from site_agent.dicom.prepared import away, fingerprint, index, pins, store
from site_agent.dicom.prepared.cleaning import Cleaned, Cleaners, RefusedObject, Rules
from site_agent.dicom.prepared.copies import Copies, may_hold_copy
from site_agent.dicom.prepared.index import Index, ObjectLeftOut, StudyNames, StudyVerdict
from site_agent.dicom.prepared.looks import Look, Terms
from site_agent.dicom.prepared.making import SEALED, CaseTask
from site_agent.dicom.prepared.pool import Makers
from site_agent.dicom.prepared.store import Store, study_of
from site_agent.dicom.prepared.unused import Effects
from site_agent.dicom.prepared.withdrawals import Withdrawals
from site_agent.dicom.sources import open_source
from site_agent.disk.room import Room

log = structlog.get_logger()

Progress = Callable[[int, int], None]
REFUSALS = 3
"""Studies in a row of which the source will not give a series, until it counts as refusing altogether."""
_PASSING = (Reason.RETRIEVE_FAILED, Reason.INCOMPLETE_SERIES, Reason.UNREADABLE)
"""A series that came short or damaged may come whole the next time, without the source saying otherwise."""
WORTH_PROCESSES = 1000
"""Objects from which on it is worth to start processes for the door's work: the start of one costs as much as some two
hundred objects (1.5 CPU seconds)."""
USUAL_OBJECTS = 100
"""Of a series of which the source says no number."""
GROWTH = 2
"""A case takes at most so many times the bytes of its objects, as a rule: 16 bits become 32."""
MOST_NAMED = 100
"""Objects left out of one study that are named, each by itself."""
_LARGEST = "largest"
"""Names the bytes of the largest study that came, in the index."""


_BLOCK = 4096
"""Bytes by which a file takes more than its content, at the most."""


class _NoRoom(Exception):
    """Another object would take room that rounds need."""


@dataclass
class _Told:
    """What is known of a study before any image of it came."""

    found: StudyFound
    study: str
    patient: str
    print: str
    nifti: Path | None = None
    compared: bool = False
    """Its patient has withdrawn: images are looked at for copies of them, and nothing is kept."""

    @property
    def case(self) -> str:
        return f"{self.patient}-{self.study}"


@dataclass(frozen=True)
class _Asked:
    """Which series is fetched; pseudonyms."""

    study: str
    series: str
    compared: bool = False


@dataclass
class _Come:
    """What came of fetching one study."""

    broken: dict[str, Reason] = field(default_factory=dict)
    series: Counter[Reason] = field(default_factory=Counter)
    objects: list[ObjectLeftOut] = field(default_factory=list)
    withdrawn: bool = False
    refused: bool = False
    names: set[str] = field(default_factory=set)


class Preparation:
    """One run, under the data set's lock (`store.Store.lock`); see `build.prepare_dataset` for its arguments."""

    def __init__(
        self,
        name: str,
        config: DicomDataset,
        state: Path,
        secret: bytes,
        progress: Progress,
        lying: Store,
        processes: int | None,
        limit: int | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self._name, self._config, self._state, self._secret = name, config, state, secret
        self._progress, self._store = progress, lying
        cores = len(os.sched_getaffinity(0))
        self._processes = min(processes or cores, cores)
        self._here = processes == 1 and not apart  # said, not counted: a foreign decoder has a process even on one core
        self._untold: Counter[Reason] = Counter()
        self._terms = Terms(config, secret)
        self._names = Pseudonyms(secret)
        self._withdrawn = Withdrawals(config.withdrawn, self._names)
        self._cleaners = Cleaners(Rules(secret, config.labels, tuple(config.overrides)))
        self._index = Index(lying.folder / "index.sqlite", Vault(secret, index.NAMES))
        self._named = self._index.all_names()
        for study, one in self._named.items():
            self._withdrawn.see_names(study, one.names)
        self._effects = Effects(config, self._index)
        self._spool = Spool(lying.folder / "spool", self._names, secret=secret if config.encrypt else None)
        self._room = Room(state, limit)
        self._members: dict[str, str] = {}
        self._kept: dict[str, StudyVerdict] = {}
        self._copies = Copies(self._index, lying, self._withdrawn, secret, keeps=True)
        self._others: set[str] = set()
        self._uncompared = 0
        self._done = self._total = self._refusals = self._bytes = self._came = 0

    def close(self) -> None:
        """Close index and spool, and end the door's processes."""
        self._cleaners.close()
        self._index.close()
        self._spool.close()

    def run(self, *, again: bool) -> Accounting:
        """Bring the data set up to date; its newest state, or where the PACS is away, the one that stands in for it."""
        self._spool.sweep_leftovers()
        self._others = self._copies.find_other_names(self._copies.find_lost())  # before their cases go
        self._store.drop_cases(self._withdrawn.covers_pseudonyms)
        known = store.read_manifest(self._state, self._name)
        if known is not None and not again and self._is_fresh(known):
            return known
        try:
            return self._look_at_source()
        except (PacsUnreachable, PacsRefused) as error:
            if again or not error.passing:  # asked for by a person, or for one to mend
                raise
            last = away.stand_in(self._name, self._config, self._state, self._secret, self._store, self._index)
            if last is None or last.as_of is None:
                raise
            since = datetime.fromtimestamp(last.as_of, UTC).isoformat(timespec="minutes")
            log.warning(
                "the PACS is away: going on with what was prepared", dataset=self._name, error=error.what, as_of=since
            )
            return last

    def _look_at_source(self) -> Accounting:
        """Ask the source, and do what is to be done."""
        source = open_source(self._config, self._store.folder)
        try:
            found = [*source.find_studies()]
            mixed = source.looked.mixed_patients
            self._withdrawn.judge_found(found, self._index)
            self._effects.see_found(found)
            self._total = len(found)
            text = "it says that it is DICOM, and cannot be read"
            unreadable = [ObjectLeftOut("", one, Reason.UNREADABLE, text) for one in source.looked.unreadable_files]
            self._index.put_refused("", unreadable)
            told = [one for study in found if (one := self._tell_readable(study)) is not None]
            waiting = [one for one in told if not self._is_settled(one)]
            waiting = [*self._list_compared(told), *waiting]
            objects = sum(self._count_objects(one) for one in waiting)
            processes = self._processes if objects >= WORTH_PROCESSES else 1
            self._cleaners.open(processes)
            self._make_room()
            with Makers(0 if self._here else min(processes, len(waiting)), self._show_progress) as makers:
                for one in waiting:
                    if not self._has_room():
                        self._leave_out_unfit(one)
                        continue
                    task = self._fetch_study(source, one)
                    for made, verdict in makers.give_task(task) if task is not None else ():
                        self._note_made(made, verdict)
                for made, verdict in makers.await_rest():
                    self._note_made(made, verdict)
        finally:
            source.close()
        self._leave_out_copies()
        return self._publish_state(mixed)

    def _count_objects(self, told: _Told) -> int:
        return sum(USUAL_OBJECTS if one.instances is None else one.instances for one in self._wanted_series(told.found))

    # before anything is fetched

    def _is_fresh(self, known: Accounting) -> bool:
        look = Look.read_last(self._index)
        whole = store.count_whole_cases(store.set_folder(self._state, self._name, known.fingerprint)) is not None
        return look is not None and whole and look.is_fresh(self._terms, self._config.refresh)

    def _tell_readable(self, found: StudyFound) -> _Told | None:
        """`_tell_study`; None for one of which the source says what cannot be understood."""
        try:
            return self._tell_study(found)
        except (KonsilError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - one study's nonsense must not end the others' preparation
            log.warning("a study is left out: what the source says of it cannot be read", error=type(error).__name__)
            self._untold[Reason.UNREADABLE] += 1
            return None

    def _tell_study(self, found: StudyFound) -> _Told:
        study = self._names.pseudonym_of_case(found.uid)
        # One Patient ID of two issuers counts as one patient: it must not land in training and test.
        number = found.patient.partition("^^^")[0]
        patient = self._names.pseudonym_of_patient(number or f"study {found.uid}")
        nifti = self._find_nifti(found, number)
        series = sorted((one.uid, one.modality, str(one.instances), one.mark) for one in found.series)
        looks = None if nifti is None else [pins.look_at_file(path) for path in list_label_files(nifti)]
        print_ = self._terms.keyed_digest([self._terms.rules, series, looks])
        return _Told(found, study, patient, print_, nifti)

    def _find_nifti(self, found: StudyFound, number: str) -> Path | None:
        folder = self._config.labels.folder
        if self._config.labels.source != "nifti" or folder is None:
            return None
        stems = [stem for stem in (found.uid, number) if stem and "/" not in stem and stem not in (".", "..")]
        return next((path for stem in stems for path in list_label_files(folder / f"{stem}.nii")), None)

    def _is_settled(self, told: _Told) -> bool:
        """Whether nothing has to be fetched: the verdict stands, or can be told without an image."""
        if self._is_withdrawn(told):
            self._withdraw_study(told)
            return True
        if told.patient in self._others:
            self._withdraw_study(told, StudyVerdict(told.patient, told.print, Reason.WITHDRAWN, COPY))
            return True
        known = self._index.get_verdict(told.study)
        stands = known is not None and known.print == told.print and known.reason is not Reason.WITHDRAWN
        if self._withdrawn.has_entries and told.study not in self._named:  # so says an earlier release
            stands = False
        if (
            known is not None
            and stands
            and (known.reason is not None or self._store.holds_case(told.case, known.digest))
        ):
            self._settle_study(told.study, told.case, known)
            return True
        lacks = self._find_lack(told)
        if lacks is not None:
            verdict = StudyVerdict(told.patient, told.print, lacks, "the source names no series of this kind")
            self._index.put_verdict(told.study, verdict)
            self._settle_study(told.study, told.case, verdict)
        return lacks is not None

    def _is_withdrawn(self, told: _Told) -> bool:
        """Whether its patient has withdrawn, as far as that is known before it is fetched as it is now."""
        named = self._named.get(told.study)
        return self._withdrawn.covers_study(told.found) or (
            named is not None
            and named.print == told.print
            and self._withdrawn.covers_pseudonyms(told.patient, told.study)
        )

    def _find_lack(self, told: _Told) -> Reason | None:
        modalities = {one.modality for one in told.found.series}
        if not modalities & set(self._config.query.modalities):
            return Reason.NO_IMAGE
        source = self._config.labels.source
        labelled = told.nifti is not None if source == "nifti" else LABEL_MODALITY[source] in modalities
        return None if labelled else Reason.NO_LABEL

    def _list_compared(self, told: Sequence[_Told]) -> list[_Told]:
        """Studies of the withdrawn whose images have to be looked at: another patient's study may be a copy of them."""
        gone = {one.study for one in told if self._is_withdrawn(one)}
        if not gone:
            return []
        known = self._index.all_contents()
        others = [series for one in told if one.study not in gone for series in self._image_series(one.found)]
        return [
            replace(one, compared=True)
            for one in told
            if one.study in gone
            and (one.study not in known or known[one.study].print != one.print)
            and may_hold_copy(self._image_series(one.found), others)
        ]

    def _withdraw_study(self, told: _Told, verdict: StudyVerdict | None = None) -> None:
        self._store.drop_case(told.case)
        self._spool.drop_study(told.study)
        verdict = verdict or StudyVerdict.of_withdrawn(told.patient)
        self._index.put_verdict(told.study, verdict)
        self._settle_study(told.study, told.case, verdict)

    # fetching

    def _has_room(self) -> bool:
        """Whether there is room for a study as large as the largest that came, and its case."""
        return self._makes_room(int(self._index.noted_value(_LARGEST) or 0) * (1 + GROWTH))

    def _leave_out_unfit(self, told: _Told) -> None:
        """There is no room for a study: it is left out, and what came of it goes."""
        self._spool.drop_study(told.study)
        if told.compared:
            self._uncompared += 1
            return
        verdict = StudyVerdict(
            told.patient, "", Reason.DISK_FULL, "no room is left for it under limits.disk, or on the disk"
        )
        self._index.put_verdict(told.study, verdict)
        self._settle_study(told.study, told.case, verdict)

    def _fetch_study(self, source: StudySource, told: _Told) -> CaseTask | None:
        """Fetch one study into the spool; None where it was settled by that."""
        come, self._came = _Come(), 0
        if told.study not in self._named:  # an earlier release, which did not note whom objects name, began with it
            self._spool.drop_study(told.study)
        before = self._named.get(told.study, StudyNames("", frozenset())).names
        resumed = bool(self._spool.list_series(told.study))
        wanted = self._image_series(told.found) if told.compared else self._wanted_series(told.found)
        for series in wanted:
            uid = self._names.pseudonym_of_uid(series.uid)
            try:
                fetched = self._of_series(source, series, _Asked(told.study, uid, told.compared), come)
            except PacsRefused as error:
                log.warning("the PACS does not give a series", dataset=self._name, error=error.what)
                come.refused = True
                come.broken[uid] = Reason.RETRIEVE_FAILED
                if self._refusals + 1 >= REFUSALS:
                    raise
                continue
            except _NoRoom:
                self._note_size()
                self._leave_out_unfit(told)
                return None
            if fetched.reason is not None:
                come.broken[uid] = fetched.reason
                come.series[fetched.reason] += 1
                text = "it cannot be read, or did not come"
                come.objects += [ObjectLeftOut(told.study, name, fetched.reason, text) for name in fetched.lacking]
        if not told.compared:
            self._index.put_refused(told.study, come.objects)
            whole = not (resumed or come.broken or come.withdrawn)
            self._note_names(told.study, StudyNames(told.print, frozenset(come.names | (set() if whole else before))))
            come.withdrawn |= self._withdrawn.covers_pseudonyms(told.patient, told.study)
        self._note_size()
        self._refusals = self._refusals + 1 if come.refused else 0
        if come.withdrawn:
            self._withdraw_study(told)
            return self._fetch_study(source, replace(told, compared=True))
        return CaseTask(
            folder=self._store.folder,
            config=self._config,
            study=told.study,
            patient=told.patient,
            print=told.print,
            modalities={self._names.pseudonym_of_uid(one.uid): one.modality for one in wanted},
            announced={self._names.pseudonym_of_uid(one.uid): one.instances for one in wanted},
            broken=come.broken,
            secret=self._secret,
            series=come.series,
            nifti=told.nifti,
            compared=told.compared,
        )

    def _of_series(self, source: StudySource, series: SeriesFound, asked: _Asked, come: _Come) -> Fetched:
        """Fetch one series into the spool; what came of it is there when this ends, however it does."""
        try:
            try:
                return source.fetch_series(
                    series, self._spool.has_object, partial(self._take_object, asked=asked, come=come)
                )
            finally:
                for one in self._cleaners.await_rest():
                    self._keep_cleaned(one, asked, come)
        except _NoRoom:
            self._cleaners.forget_given()  # all of the study goes
            raise
        except (KonsilError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - one series' nonsense must not end the others' preparation
            self._cleaners.forget_given()
            log.warning("a series is left out: it cannot be fetched", dataset=self._name, error=type(error).__name__)
            return Fetched(0, 0, Reason.RETRIEVE_FAILED)

    def _wanted_series(self, found: StudyFound) -> Sequence[SeriesFound]:
        labels = LABEL_MODALITY.get(self._config.labels.source)
        return [one for one in found.series if one.modality == labels or one.modality in self._config.query.modalities]

    def _image_series(self, found: StudyFound) -> Sequence[SeriesFound]:
        return [one for one in found.series if one.modality in self._config.query.modalities]

    def _take_object(self, obj: Object, asked: _Asked, come: _Come) -> None:
        self._show_progress()
        try:
            withdrawn = not asked.compared and self._withdrawn.covers_object(obj)
            names: set[str] = set() if asked.compared else self._withdrawn.key_names(obj)
        except Exception:  # noqa: BLE001 - whose it is cannot be read: so neither whether it may be used
            refused = RefusedObject(Reason.UNREADABLE, "an object that does not say whose it is")
            self._keep_cleaned(refused, asked, come)
            return
        if not names <= come.names:  # before it lies in the spool, and is not looked at again
            come.names |= names
            known = self._named.get(asked.study, StudyNames("", frozenset())).names
            self._note_names(asked.study, StudyNames("", known | come.names))
        if withdrawn:
            come.withdrawn = True  # the source's index said otherwise
            return
        if not asked.compared:
            self._effects.see_object(obj, asked.series)
        for one in self._cleaners.give_object(obj):
            self._keep_cleaned(one, asked, come)

    def _note_names(self, study: str, names: StudyNames) -> None:
        self._named[study] = names
        self._index.put_names(study, names)
        self._withdrawn.see_names(study, names.names)

    def _keep_cleaned(self, clean: Cleaned, asked: _Asked, come: _Come) -> None:
        """What the door made of an object of the series that was asked for."""
        if isinstance(clean, RefusedObject):
            if asked.series not in come.broken:
                come.series[clean.reason] += 1
            come.broken[asked.series] = clean.reason
            if len(come.objects) < MOST_NAMED:
                come.objects.append(ObjectLeftOut(asked.study, clean.name, clean.reason, clean.text))
            return
        if (clean.study, clean.series) != (asked.study, asked.series):
            come.broken[asked.series] = Reason.RETRIEVE_FAILED  # not what was asked for
            return
        size = len(clean.content) + _BLOCK
        if not self._makes_room(size):
            raise _NoRoom
        self._room.note_written(size)
        self._came += size
        self._spool.keep_written(clean)
        crash.pass_step("dicom:spooled")

    def _note_size(self) -> None:
        """Remember the largest study that came: what is to be free before another one is fetched."""
        if self._came > int(self._index.noted_value(_LARGEST) or 0):
            self._index.note_value(_LARGEST, str(self._came))

    # what came of it

    def _note_compared(self, task: CaseTask, verdict: StudyVerdict) -> None:
        """Keep what the images of a withdrawn patient look like, and no image."""
        whole = verdict.reason is Reason.WITHDRAWN and not task.broken
        self._uncompared += not whole
        self._index.put_content(task.study, task.patient, task.print if whole else "", verdict.images)
        self._spool.drop_study(task.study)

    def _leave_out_copies(self) -> None:
        """Cases of those who have images of somebody withdrawn are withdrawn, too."""
        others = self._copies.find_other_names(self._copies.find_lost(), self._members)
        for case in [case for case in self._members if store.patient_of(case) in others]:
            del self._members[case]
            verdict = self._kept[study_of(case)]
            self._kept[study_of(case)] = left_out = StudyVerdict(
                verdict.patient, verdict.print, Reason.WITHDRAWN, COPY, series=verdict.series
            )
            self._index.put_verdict(study_of(case), left_out)
        self._store.drop_cases(lambda patient, _: patient in others)
        copies = sum(one.reason is Reason.WITHDRAWN and bool(one.print) for one in self._kept.values())
        consent = self._withdrawn.note_copies(copies, self._uncompared, self._index)
        if consent is not None:
            log.log(WARNING if copies or self._uncompared else INFO, consent.say_counts(), dataset=self._name)

    def _note_made(self, task: CaseTask, verdict: StudyVerdict) -> None:
        if task.compared:
            self._note_compared(task, verdict)
            return
        if verdict.images:
            self._index.put_content(task.study, task.patient, verdict.print, verdict.images)
        if verdict.reason is None:
            size = self._store.size_of(task.case, verdict.digest)
            self._bytes += size
            self._room.note_written(size)
            full = self._tell_full()
            if full:
                self._members[task.case] = verdict.digest
                self._make_room()
                del self._members[task.case]
                full = self._tell_full()
            if full:
                self._store.remove_case(task.case, verdict.digest)
                self._bytes = self._store.cases_size()
                verdict = StudyVerdict(task.patient, "", Reason.DISK_FULL, full, series=verdict.series)
        unfinished = verdict.reason in _PASSING and verdict.reason in task.broken.values()
        if unfinished or verdict.reason is Reason.RETRIEVE_FAILED:
            verdict = replace(verdict, print="")  # it does not stand, and what came of it is kept for the next time
        self._index.put_verdict(task.study, verdict)
        crash.pass_step("dicom:judged")
        if verdict.print or verdict.reason is Reason.DISK_FULL:
            self._spool.drop_study(task.study)
        self._settle_study(task.study, task.case, verdict)

    def _settle_study(self, study: str, case: str, verdict: StudyVerdict) -> None:
        self._kept[study] = verdict
        if verdict.reason is None:
            self._members[case] = verdict.digest
        self._done += 1
        self._show_progress()

    def _show_progress(self) -> None:
        self._progress(min(self._done, self._total), self._total)

    def _tell_full(self) -> str:
        """What stands against the cases that there are, in words; "" where nothing does."""
        if self._config.disk is not None and self._bytes > self._config.disk:
            return "the data set's disk in site.toml holds no more cases"
        return "no room is left for it under limits.disk, or on the disk" if self._room.bytes_lacking(0) else ""

    def _makes_room(self, wanted: int) -> bool:
        """Whether there is room for `wanted` bytes; what nothing uses goes for it."""
        if self._room.bytes_lacking(wanted):
            self._make_room(wanted)
        return not self._room.bytes_lacking(wanted)

    def _make_room(self, wanted: int = 0) -> None:
        """Remove cases that nothing uses, as far as `disk`, or room for `wanted` more bytes, asks for it."""
        used = self._store.used_by(pins.pinned_states(self._state, self._name))
        used |= {self._store.place_of(case, digest) for case, digest in self._members.items()}
        most, lacking = self._config.disk, self._room.bytes_lacking(wanted)
        if lacking:
            least = self._store.cases_size() - lacking
            most = least if most is None else min(most, least)
        self._bytes = self._store.make_room(used, most, time.time())

    def _publish_state(self, mixed: int) -> Accounting:
        left_out = Counter(verdict.reason for verdict in self._kept.values() if verdict.reason is not None)
        left_out.update(self._untold)
        if mixed:
            left_out[Reason.MIXED_PATIENTS] += mixed
        series: Counter[Reason] = Counter()
        for verdict in self._kept.values():
            series.update(verdict.series)
        result = Accounting(
            found=len(self._kept) + mixed + self._untold.total(),
            used=len(self._members),
            left_out=left_out,
            series_left_out=series,
            extent_unverified=sum(verdict.unverified for verdict in self._kept.values()),
            fingerprint=fingerprint.of_set(self._secret, [*self._members.values()]),
        )
        self._effects.write_note()
        for study in set(self._spool.list_studies()) - self._kept.keys():
            self._spool.drop_study(study)
        before = store.read_manifest(self._state, self._name)
        self._store.publish_state(result.fingerprint, self._members, result)
        kept = pins.pinned_states(self._state, self._name) | {result.fingerprint}
        self._store.drop_sets(kept | ({before.fingerprint} if before is not None else set()))
        self._index.forget_studies(set(self._index.all_verdicts()) - self._kept.keys())
        self._copies.forget_contents(self._kept.keys())
        judged = all(one.print or one.reason is Reason.WITHDRAWN for one in self._kept.values())
        complete = judged and not self._uncompared
        Look(time.time(), self._terms.asked, self._terms.standing, complete).write_last(self._index)
        self._make_room()
        if self._config.encrypt:
            self._store.drop_open(SEALED, self._store.used_by(kept))
        if left_out[Reason.DISK_FULL]:
            log.warning(
                "no room for every study: free disk space, or raise limits.disk or the data set's disk in site.toml",
                dataset=self._name,
                left_out=left_out[Reason.DISK_FULL],
            )
        log.info("data set prepared", dataset=self._name, found=result.found, used=result.used)
        return result
