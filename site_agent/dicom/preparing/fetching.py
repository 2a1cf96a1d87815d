"""One study fetched into the spool, through the door: what came, what was left out, and whose it turned out to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog

from messages.ground import crash
from messages.ground.errors import KonsilError, PacsRefused
from messages.reasons import Reason
from site_agent.dicom.base import Fetched, Object, SeriesFound, StudySource
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.door.spool import Spool
from site_agent.dicom.prepared.index import Index, ObjectLeftOut, StudyNames
from site_agent.dicom.prepared.unused import Effects
from site_agent.dicom.prepared.withdrawals import Withdrawals
from site_agent.dicom.preparing.cleaning import Cleaned, Cleaners, RefusedObject
from site_agent.dicom.preparing.space import CaseSpace, NoRoom
from site_agent.dicom.preparing.studies import StudyReader, ToldStudy

log = structlog.get_logger()

REFUSALS = 3
"""Studies in a row of which the source will not give a series, until it counts as refusing altogether."""
MOST_NAMED = 100
"""Objects left out of one study that are named, each by itself."""

_LACKING, _TWOFOLD = "it cannot be read, or did not come", "another file bears its UID, and holds something else"


@dataclass
class CameOfStudy:
    """What came of fetching one study."""

    wanted: dict[str, SeriesFound] = field(default_factory=dict)
    """Pseudonym → the series that was asked for."""
    broken: dict[str, Reason] = field(default_factory=dict)
    series: Counter[Reason] = field(default_factory=Counter)
    objects: list[ObjectLeftOut] = field(default_factory=list)
    withdrawn: bool = False
    refused: bool = False
    names: frozenset[str] = frozenset()
    marks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Asked:
    """Which series is fetched; pseudonyms."""

    study: str
    series: str
    compared: bool = False


class StudyFetcher:
    """Fetches studies, one at a time, and notes whom their objects name.

    Args:
        name: of the data set. breathe: called with each object that comes.
    """

    def __init__(
        self,
        name: str,
        names: Pseudonyms,
        reader: StudyReader,
        spool: Spool,
        index: Index,
        cleaners: Cleaners,
        withdrawn: Withdrawals,
        effects: Effects,
        space: CaseSpace,
        breathe: Callable[[], None],
    ) -> None:
        self._name, self._names, self._reader = name, names, reader
        self._spool, self._index, self._cleaners = spool, index, cleaners
        self._withdrawn, self._effects, self._space, self._breathe = withdrawn, effects, space, breathe
        self._named = index.all_names()
        for study, one in self._named.items():
            withdrawn.see_names(study, one.names)
        self._refusals = 0

    def names_of(self, study: str) -> StudyNames | None:
        """Whom the objects of a study name, keyed, as far as it was ever fetched."""
        return self._named.get(study)

    def fetch_study(self, source: StudySource, told: ToldStudy) -> CameOfStudy:
        """Fetch one study into the spool.

        Raises:
            NoRoom: an object would take room that rounds need; what came of the study lies in the spool.
            PacsRefused: the source gives no series any more.
        """
        come = CameOfStudy()
        self._space.begin_study()
        if told.study not in self._named:  # an earlier release, which did not note whom objects name, began with it
            self._spool.drop_study(told.study)
        before = self._named.get(told.study, StudyNames("", frozenset()))
        resumed = bool(self._spool.list_series(told.study))
        try:
            self._fetch_all(source, told, come)
        finally:
            self._space.end_study()
        if not told.compared:
            self._index.put_refused(told.study, come.objects)
            whole = not (resumed or come.broken or come.withdrawn)
            known = StudyNames("", frozenset()) if whole else before
            self._note_names(told.study, StudyNames(told.print, come.names | known.names, come.marks | known.marks))
            come.withdrawn |= self._withdrawn.covers_pseudonyms(told.patient, told.study)
        self._refusals = self._refusals + 1 if come.refused else 0
        return come

    def _fetch_all(self, source: StudySource, told: ToldStudy, come: CameOfStudy) -> None:
        come.wanted = {self._names.pseudonym_of_uid(one.uid): one for one in self._reader.wanted_series(told)}
        for uid, series in come.wanted.items():
            try:
                fetched = self._fetch_series(source, series, _Asked(told.study, uid, told.compared), come)
            except PacsRefused as error:
                log.warning("the PACS does not give a series", dataset=self._name, error=error.what)
                come.refused = True
                come.broken[uid] = Reason.RETRIEVE_FAILED
                if self._refusals + 1 >= REFUSALS:
                    raise
                continue
            if fetched.reason is not None:
                come.broken[uid] = fetched.reason
                come.series[fetched.reason] += 1
                text = _TWOFOLD if fetched.reason is Reason.DUPLICATE_SLICES else _LACKING
                come.objects += [ObjectLeftOut(told.study, name, fetched.reason, text) for name in fetched.lacking]

    def _fetch_series(self, source: StudySource, series: SeriesFound, asked: _Asked, come: CameOfStudy) -> Fetched:
        """Fetch one series into the spool; what came of it is there when this ends, however it does."""
        try:
            try:
                return source.fetch_series(
                    series, self._spool.has_object, partial(self._take_object, asked=asked, come=come)
                )
            finally:
                for one in self._cleaners.await_rest():
                    self._keep_cleaned(one, asked, come)
        except NoRoom:
            self._cleaners.forget_given()  # all of the study goes
            raise
        except (KonsilError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - one series' nonsense must not end the others' preparation
            self._cleaners.forget_given()
            log.warning("a series is left out: it cannot be fetched", dataset=self._name, error=type(error).__name__)
            return Fetched(0, 0, Reason.RETRIEVE_FAILED)

    def _take_object(self, obj: Object, asked: _Asked, come: CameOfStudy) -> None:
        self._breathe()
        try:
            withdrawn = not asked.compared and self._withdrawn.covers_object(obj)
            names, marks = (frozenset[str](),) * 2 if asked.compared else self._withdrawn.key_names(obj)
        except Exception:  # noqa: BLE001 - whose it is cannot be read: so neither whether it may be used
            refused = RefusedObject(Reason.UNREADABLE, "an object that does not say whose it is")
            self._keep_cleaned(refused, asked, come)
            return
        if not names <= come.names:  # before it lies in the spool, and is not looked at again
            come.names |= names
            come.marks |= marks
            known = self._named.get(asked.study, StudyNames("", frozenset()))
            self._note_names(asked.study, StudyNames("", known.names | come.names, known.marks | come.marks))
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

    def _keep_cleaned(self, clean: Cleaned, asked: _Asked, come: CameOfStudy) -> None:
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
        self._space.take_object(len(clean.content))
        self._spool.keep_written(clean)
        crash.pass_step("dicom:spooled")
