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
from dataclasses import replace
from datetime import UTC, datetime
from logging import INFO, WARNING
from pathlib import Path

import structlog

from messages.ground import crash
from messages.ground.errors import KonsilError, PacsRefused, PacsUnreachable
from messages.reasons import Reason
from site_agent.datasets.consent import COPY
from site_agent.datasets.vault import Vault
from site_agent.dicom.base import Accounting, StudyFound, StudySource
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import Spool
from site_agent.dicom.prepared import away, fingerprint, index, pins, store
from site_agent.dicom.prepared.copies import Copies, may_hold_copy
from site_agent.dicom.prepared.index import Index, ObjectLeftOut, StudyVerdict
from site_agent.dicom.prepared.looks import Look, Terms
from site_agent.dicom.prepared.store import Store, study_of
from site_agent.dicom.prepared.unused import Effects
from site_agent.dicom.prepared.withdrawals import Withdrawals
from site_agent.dicom.preparing.cleaning import Cleaners, Rules
from site_agent.dicom.preparing.fetching import StudyFetcher
from site_agent.dicom.preparing.making import SEALED, CaseTask
from site_agent.dicom.preparing.pool import Makers
from site_agent.dicom.preparing.space import NO_ROOM, CaseSpace, NoRoom
from site_agent.dicom.preparing.studies import StudyReader, ToldStudy
from site_agent.dicom.sources import open_source

log = structlog.get_logger()

Progress = Callable[[int, int], None]
_PASSING = (Reason.RETRIEVE_FAILED, Reason.INCOMPLETE_SERIES, Reason.UNREADABLE)
"""A series that came short or damaged may come whole the next time, without the source saying otherwise."""
_NO_SERIES = "the source names no series of this kind"
WORTH_PROCESSES = 1000
"""Objects from which on it is worth to start processes for the door's work: the start of one costs as much as some two
hundred objects (1.5 CPU seconds)."""


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
        self._members: dict[str, str] = {}
        self._kept: dict[str, StudyVerdict] = {}
        self._others: set[str] = set()
        self._uncompared = self._done = self._total = 0
        self._terms = Terms(config, secret)
        names = Pseudonyms(secret)
        self._reader = StudyReader(config, names, self._terms)
        self._withdrawn = Withdrawals(config.withdrawn, names)
        self._cleaners = Cleaners(Rules(secret, config.labels, tuple(config.overrides)))
        self._index = Index(lying.folder / "index.sqlite", Vault(secret, index.NAMES))
        self._effects = Effects(config, self._index)
        self._spool = Spool(lying.folder / "spool", names, secret=secret if config.encrypt else None)
        self._space = CaseSpace(name, config, state, lying, self._index, self._members, limit)
        self._fetcher = StudyFetcher(
            name,
            names,
            self._reader,
            self._spool,
            self._index,
            self._cleaners,
            self._withdrawn,
            self._effects,
            self._space,
            self._show_progress,
        )
        self._copies = Copies(self._index, lying, self._withdrawn, secret, keeps=True)

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
            self._effects.see_found(found, source.looked)
            self._total = len(found)
            passed = [ObjectLeftOut("", one.name, one.reason, one.text) for one in source.looked.passed_over]
            self._index.put_refused("", passed)
            self._reader.see_found(found)
            told = [one for study in found if (one := self._tell_study(study)) is not None]
            waiting = [one for one in told if not self._is_settled(one)]
            waiting = [*self._list_compared(told), *waiting]
            objects = sum(self._reader.count_objects(one) for one in waiting)
            processes = self._processes if objects >= WORTH_PROCESSES else 1
            self._cleaners.open(processes)
            self._space.make_room()
            with Makers(0 if self._here else min(processes, len(waiting)), self._show_progress) as makers:
                for one in waiting:
                    if not self._space.has_room():
                        self._leave_out_unfit(one)
                        continue
                    task = self._fetch_study(source, one)
                    for made, verdict in makers.give_task(task) if task is not None else ():
                        self._note_made(made, verdict)
                for made, verdict in makers.await_rest():
                    self._note_made(made, verdict)
        finally:
            source.close()
        self._withdrawn.judge_objects(found, self._index)
        self._leave_out_copies()
        return self._publish_state(mixed)

    # before anything is fetched

    def _is_fresh(self, known: Accounting) -> bool:
        look = Look.read_last(self._index)
        whole = store.count_whole_cases(store.set_folder(self._state, self._name, known.fingerprint)) is not None
        return look is not None and whole and look.is_fresh(self._terms, self._config.refresh)

    def _tell_study(self, found: StudyFound) -> ToldStudy | None:
        """What is known of a study; None where the source says of it what cannot be understood."""
        try:
            return self._reader.tell_study(found)
        except (KonsilError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - one study's nonsense must not end the others' preparation
            log.warning("a study is left out: what the source says of it cannot be read", error=type(error).__name__)
            self._untold[Reason.UNREADABLE] += 1
            return None

    def _is_settled(self, told: ToldStudy) -> bool:
        """Whether nothing has to be fetched: the verdict stands, or can be told without an image."""
        if self._is_withdrawn(told):
            self._withdraw_study(told)
            return True
        if told.patient in self._others:
            self._withdraw_study(told, StudyVerdict(told.patient, told.print, Reason.WITHDRAWN, COPY))
            return True
        known = self._index.get_verdict(told.study)
        stands = known is not None and known.print == told.print and known.reason is not Reason.WITHDRAWN
        if self._withdrawn.has_entries and self._fetcher.names_of(told.study) is None:  # so says an earlier release
            stands = False
        if (
            known is not None
            and stands
            and (known.reason is not None or self._store.holds_case(told.case, known.digest))
        ):
            self._settle_study(told.study, told.case, known)
            return True
        lacks = self._reader.find_lack(told)
        if lacks is not None:
            verdict = StudyVerdict(told.patient, told.print, lacks, told.unclear or _NO_SERIES)
            self._index.put_verdict(told.study, verdict)
            self._settle_study(told.study, told.case, verdict)
        return lacks is not None

    def _is_withdrawn(self, told: ToldStudy) -> bool:
        """Whether its patient has withdrawn, as far as that is known before it is fetched as it is now."""
        named = self._fetcher.names_of(told.study)
        return self._withdrawn.covers_study(told.found) or (
            named is not None
            and named.print == told.print
            and self._withdrawn.covers_pseudonyms(told.patient, told.study)
        )

    def _list_compared(self, told: Sequence[ToldStudy]) -> list[ToldStudy]:
        """Studies of the withdrawn whose images have to be looked at: another patient's study may be a copy of them."""
        gone = {one.study for one in told if self._is_withdrawn(one)}
        if not gone:
            return []
        known = self._index.all_contents()
        others = [series for one in told if one.study not in gone for series in self._reader.image_series(one.found)]
        return [
            replace(one, compared=True)
            for one in told
            if one.study in gone
            and (one.study not in known or known[one.study].print != one.print)
            and may_hold_copy(self._reader.image_series(one.found), others)
        ]

    def _withdraw_study(self, told: ToldStudy, verdict: StudyVerdict | None = None) -> None:
        self._store.drop_case(told.case)
        self._spool.drop_study(told.study)
        verdict = verdict or StudyVerdict.of_withdrawn(told.patient)
        self._index.put_verdict(told.study, verdict)
        self._settle_study(told.study, told.case, verdict)

    # what comes

    def _leave_out_unfit(self, told: ToldStudy) -> None:
        """There is no room for a study: it is left out, and what came of it goes."""
        self._spool.drop_study(told.study)
        if told.compared:
            self._uncompared += 1
            return
        verdict = StudyVerdict(told.patient, "", Reason.DISK_FULL, NO_ROOM)
        self._index.put_verdict(told.study, verdict)
        self._settle_study(told.study, told.case, verdict)

    def _fetch_study(self, source: StudySource, told: ToldStudy) -> CaseTask | None:
        """Fetch one study into the spool; None where it was settled by that."""
        try:
            come = self._fetcher.fetch_study(source, told)
        except NoRoom:
            self._leave_out_unfit(told)
            return None
        if come.withdrawn:
            self._withdraw_study(told)
            return self._fetch_study(source, replace(told, compared=True))
        return CaseTask(
            folder=self._store.folder,
            config=self._config,
            study=told.study,
            patient=told.patient,
            print=told.print,
            modalities={uid: one.modality for uid, one in come.wanted.items()},
            announced={uid: one.instances for uid, one in come.wanted.items()},
            broken=come.broken,
            secret=self._secret,
            series=come.series,
            nifti=told.nifti,
            compared=told.compared,
        )

    def _note_compared(self, task: CaseTask, verdict: StudyVerdict) -> None:
        """Keep what the images of a withdrawn patient look like, and no image."""
        whole = verdict.reason is Reason.WITHDRAWN and not task.broken
        self._uncompared += not whole
        self._index.put_content(task.study, task.patient, task.print if whole else "", verdict.images)
        self._spool.drop_study(task.study)

    def _leave_out_copies(self) -> None:
        """Cases of those who have images of somebody withdrawn are withdrawn, too."""
        lost = self._copies.find_lost()
        others = self._copies.find_other_names(lost, self._members)
        everybodys = self._copies.find_everybodys(lost, self._members)
        used = sum(store.patient_of(case) in everybodys for case in self._members)
        for case in [case for case in self._members if store.patient_of(case) in others]:
            del self._members[case]
            verdict = self._kept[study_of(case)]
            self._kept[study_of(case)] = left_out = StudyVerdict(
                verdict.patient, verdict.print, Reason.WITHDRAWN, COPY, series=verdict.series
            )
            self._index.put_verdict(study_of(case), left_out)
        self._store.drop_cases(lambda patient, _: patient in others)
        copies = sum(one.reason is Reason.WITHDRAWN and bool(one.print) for one in self._kept.values())
        consent = self._withdrawn.note_copies(copies, self._uncompared, used, self._index)
        if consent is not None:
            log.log(WARNING if copies or self._uncompared or used else INFO, consent.say_counts(), dataset=self._name)

    def _note_made(self, task: CaseTask, verdict: StudyVerdict) -> None:
        if task.compared:
            self._note_compared(task, verdict)
            return
        if verdict.images:
            self._index.put_content(task.study, task.patient, verdict.print, verdict.images)
        if verdict.reason is None:
            full = self._space.keep_case(task.case, verdict.digest)
            if full:
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
        self._space.make_room()
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
