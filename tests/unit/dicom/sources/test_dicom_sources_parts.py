"""The pure parts of sources: queries, what their answers become, statuses, pace, and what counts as retrieved."""

from __future__ import annotations

import time
from datetime import date, timedelta
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dicom_files import SERIES, Taken, encoded, image, uid
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from messages.ground.errors import ConfigError
from messages.reasons import Reason
from site_agent.dicom.base import Looked, SeriesFound, StudyFound
from site_agent.dicom.config import Query
from site_agent.dicom.extent import lacks_pixels
from site_agent.dicom.sources import contexts, statuses, storing
from site_agent.dicom.sources.arrivals import Arrivals, weigh_object
from site_agent.dicom.sources.findings import Findings
from site_agent.dicom.sources.pace import Line, Pace
from site_agent.dicom.sources.statuses import RetrievalVerdict
from site_agent.dicom.sources.wanted import Described, Wanted, identify_patient, is_usable_uid, patient_id

DAYS = st.dates(date(1990, 1, 1), date(2030, 1, 1))


def arrivals(taken: Taken, series: SeriesFound = SERIES) -> Arrivals:
    return Arrivals(series, taken.has, taken.take, Pace(1, None))


@given(DAYS, st.none() | DAYS, st.none() | DAYS)
def test_a_study_date_fits_exactly_within_the_days_asked_for(day: date, since: date | None, until: date | None) -> None:
    wanted = Wanted(frozenset({"MR"}), since, until)
    expected = (since is None or day >= since) and (until is None or day <= until)

    assert wanted.fits_query(Described(date=day.strftime("%Y%m%d"))) is expected
    assert wanted.fits_query(Described(date=day.strftime("%Y.%m.%d"))) is expected
    assert wanted.fits_query(Described(date="")) is (since is None and until is None)


@given(DAYS)
def test_a_range_of_dates_is_written_as_dicom_writes_it(day: date) -> None:
    text, later = day.strftime("%Y%m%d"), day + timedelta(days=1)
    mr = frozenset({"MR"})

    assert Wanted(mr).dates == ""
    assert Wanted(mr, since=day).dates == f"{text}-"
    assert Wanted(mr, until=day).dates == f"-{text}"
    assert Wanted(mr, since=day, until=later).dates == f"{text}-{later:%Y%m%d}"


@given(st.text(alphabet="ab*?[.\\^", max_size=8), st.text(alphabet="abAB[.\\^", max_size=8))
def test_wild_cards_match_as_a_plain_reading_of_the_standard_does(pattern: str, text: str) -> None:
    def matches(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return matches(pattern[1:], text) or (text != "" and matches(pattern, text[1:]))
        return text != "" and pattern[0] in ("?", text[0]) and matches(pattern[1:], text[1:])

    wanted = Wanted(frozenset({"MR"}), description=pattern)
    assert wanted.fits_query(Described(description=text)) is matches(pattern.lower(), text.lower())


def test_a_query_is_split_so_that_any_archive_can_match_it(tmp_path: Path) -> None:
    patients = tmp_path / "patients"
    patients.write_text("P2\nP1\n")
    query = Query(modalities=("MR", "CT"), since=date(2024, 1, 1), description="BRAIN*", patients=patients)

    queries = list(Wanted.read_query(query).list_queries())

    assert [(one["PatientID"], one["ModalitiesInStudy"]) for one in queries] == [
        ("P1", "CT"),
        ("P1", "MR"),
        ("P2", "CT"),
        ("P2", "MR"),
    ]
    assert {one["StudyDate"] for one in queries} == {"20240101-"}
    assert {one["StudyDescription"] for one in queries} == {"BRAIN*"}
    assert list(Wanted.read_query(Query()).list_queries()) == [{"ModalitiesInStudy": "MR"}]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"modalities": ()}, "names no modality"),
        ({"since": date(2024, 1, 2), "until": date(2024, 1, 1)}, "since is later than until"),
    ],
)
def test_a_query_that_nothing_can_fit_is_a_mistake_and_not_an_empty_data_set(query: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Wanted.read_query(Query(**query))


@given(st.text(min_size=1, max_size=8).filter(lambda text: "^" not in text), st.text(max_size=8))
def test_the_patient_id_is_got_back_from_what_names_a_patient(patient: str, issuer: str) -> None:
    assert patient_id(identify_patient(patient, issuer)) == patient


@pytest.mark.parametrize("text", ["", ".", "..", "1/2", "../1", "1 2", "1?2", "1\n", "1" * 65, "é"])
def test_a_uid_that_could_be_anything_else_is_not_usable(text: str) -> None:
    assert not is_usable_uid(text)


def test_a_uid_is_usable() -> None:
    assert is_usable_uid("1.2.840.10008.1.1")
    assert is_usable_uid("1.02.3")


def findings(*modalities: str) -> Findings:
    return Findings(Wanted(frozenset(modalities or ("MR",))))


def test_a_study_that_two_queries_find_is_there_once() -> None:
    found = findings("MR", "CT")
    for _ in range(2):
        found.add_study("1.2", "P1", Described("P1", modalities=frozenset({"MR", "CT"})))
        found.add_series("1.2", "1.2.1", "MR", 5)

    assert found.list_candidates() == ["1.2"]
    assert found.result() == ([StudyFound("1.2", "P1", (SeriesFound("1.2", "1.2.1", "MR", 5),))], Looked())


def test_what_an_index_gives_beyond_the_query_is_counted_and_left_out() -> None:
    found = findings()
    found.add_study("1.1", "P1", Described("P1", modalities=frozenset({"US"})))
    found.add_study("1.2", "P2", Described("P2"))  # says no modalities: its series tell
    found.add_series("1.2", "1.2.1", "US", 1)
    found.add_study("1.3", "P3", Described("P3"))
    found.add_series("1.3", "1.3.1", "MR", 1)
    found.add_series("1.3", "1.3.2", "US", 1)
    found.add_series("1.3", "1/3", "MR", 1)
    found.add_study("../1", "P4", Described("P4"))

    studies, looked = found.result()

    assert [(study.uid, [series.uid for series in study.series]) for study in studies] == [("1.3", ["1.3.1"])]
    assert looked == Looked(not_asked=2, unusable=2)


def test_a_study_that_an_index_gives_to_two_patients_is_left_out() -> None:
    found = findings()
    for patient in ("P1", "P2"):
        found.add_study("1.1", patient, Described(patient))

    assert found.list_candidates() == []
    assert found.result() == ([], Looked(mixed_patients=1))


def test_a_study_that_names_fewer_series_than_it_counts_is_asked_again() -> None:
    found = findings()
    found.add_study("1.1", "P1", Described("P1", series=2))
    found.add_study("1.2", "P2", Described("P2", series=1))
    found.add_study("1.3", "P3", Described("P3", series=9))
    found.add_study("1.4", "P4", Described("P4"))
    asked: list[str] = []

    def ask(uid: str) -> None:
        asked.append(uid)
        found.add_series(uid, f"{uid}.1", "MR", 1)
        if asked.count(uid) == 2:
            found.add_series(uid, f"{uid}.2", "SEG", 1)

    assert found.complete_series(ask) == 1, "one counts more than it ever shows"
    assert asked == ["1.1", "1.2", "1.3", "1.4", "1.1", "1.3", "1.3"]
    assert [len(study.series) for study in found.result()[0]] == [2, 1, 2, 1]


def test_only_series_that_are_fetched_are_counted_where_the_index_does_not_say() -> None:
    found = findings()
    found.add_study("1.1", "P1", Described("P1"))
    found.add_series("1.1", "1.1.1", "MR", None)
    found.add_series("1.1", "1.1.2", "MR", 4)
    found.add_series("1.1", "1.1.3", "SEG", None)
    found.add_series("1.1", "1.1.4", "US", None)

    assert [series.uid for series in found.list_uncounted()] == ["1.1.1", "1.1.3"]


@given(st.integers(0, 0xFFFF))
def test_only_success_ends_a_retrieval_well_and_each_status_has_words(code: int) -> None:
    assert (statuses.judge_retrieval(code) is RetrievalVerdict.DONE) is (code == 0)
    text = statuses.tell_meaning(code)
    assert text.startswith(f"status 0x{code:04X}, ")
    assert text.split(", ", 1)[1]


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (0xB000, RetrievalVerdict.SERIES),
        (0xA702, RetrievalVerdict.SERIES),
        (0xC123, RetrievalVerdict.SERIES),
        (0xAA02, RetrievalVerdict.SERIES),
        (0xA801, RetrievalVerdict.REFUSED),
        (0xA900, RetrievalVerdict.REFUSED),
        (0x0122, RetrievalVerdict.REFUSED),
        (0x0124, RetrievalVerdict.REFUSED),
        (0xFE00, RetrievalVerdict.REFUSED),
    ],
)
def test_a_status_is_of_this_series_or_of_all_that_we_ask(code: int, verdict: RetrievalVerdict) -> None:
    assert statuses.judge_retrieval(code) is verdict


@given(st.lists(st.tuples(st.integers(1, 10**6), st.floats(0, 100)), min_size=1, max_size=30), st.floats(1, 10**7))
def test_a_line_never_carries_more_than_its_rate(sent: list[tuple[int, float]], rate: float) -> None:
    line, now, total = Line(rate), 0.0, 0
    for size, pause in sent:
        line = line.carry_bytes(size, now)
        total += size
        now += line.seconds_to_wait(now)  # as `Pace` does
        assert total <= rate * now * (1 + 1e-9)
        now += pause


def test_what_came_too_early_is_waited_for_and_without_a_rate_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    pace, free = Pace(1, 1000), Pace(1, None)
    for size in (500, 1500):
        pace.take_bytes(size)
        free.take_bytes(size)

    assert waited == [0.5, 2.0]


def test_no_more_than_the_allowed_associations_are_held_at_a_time() -> None:
    pace = Pace(2, None)
    with pace.hold_association(), pace.hold_association():
        assert not pace._slots.acquire(blocking=False)
    assert pace._slots.acquire(blocking=False)


def test_each_object_is_taken_once_and_counted_against_the_announcement() -> None:
    taken = Taken(uid(1, 1, 1))
    coming = arrivals(taken)

    assert coming.offer_object(image(number=1), 10)
    assert coming.offer_object(image(number=2), 10)
    assert coming.offer_object(image(number=2), 10)
    assert (coming.received, coming.present) == (1, 2)
    assert coming.count_fetched().reason is Reason.INCOMPLETE_SERIES
    assert coming.count_fetched(failed=True).reason is Reason.RETRIEVE_FAILED
    assert coming.offer_object(image(number=3), 10)
    assert coming.count_fetched().reason is None
    assert coming.count_fetched(listed=[uid(1, 1, 4)]).reason is Reason.INCOMPLETE_SERIES
    assert taken.uids == [uid(1, 1, 2), uid(1, 1, 3)]


def test_what_was_not_asked_for_is_not_taken() -> None:
    taken = Taken()
    coming = arrivals(taken)

    assert not coming.offer_object(image(1, 2, 1), 10)
    assert not coming.offer_object(image(2, 1, 1), 10)
    assert not coming.offer_object(image(SOPInstanceUID=""), 10)
    assert (coming.strangers, coming.received, taken.objects) == (3, 0, [])


def test_nothing_is_taken_after_the_taker_failed_and_its_error_comes_through() -> None:
    offered = []

    def take(obj: Any) -> None:
        offered.append(obj)
        raise OSError("no space left")

    coming = Arrivals(SERIES, lambda sop: False, take, Pace(1, None))

    assert not coming.offer_object(image(number=1), 10)
    assert not coming.offer_object(image(number=2), 10)
    assert len(offered) == 1
    with pytest.raises(OSError, match="no space left"):
        coming.count_fetched()


@given(st.integers(1, 128))
def test_an_object_that_lacks_the_last_of_its_pixels_is_not_whole(missing: int) -> None:
    obj = image()
    assert not lacks_pixels(obj)
    obj.PixelData = obj.PixelData[:-missing]
    assert lacks_pixels(obj)


@pytest.mark.parametrize(
    ("changes", "length"),
    [
        ({"NumberOfFrames": "3"}, 384),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "NumberOfFrames": 3, "Rows": 3, "Columns": 3}, 4),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "Rows": 3, "Columns": 3}, 9),
    ],
)
def test_how_long_whole_pixels_are_follows_the_header(changes: dict[str, Any], length: int) -> None:
    assert not lacks_pixels(image(**changes, PixelData=b"\0" * length))
    assert lacks_pixels(image(**changes, PixelData=b"\0" * (length - 1)))


def test_an_object_without_an_image_is_whole_and_one_that_lost_its_pixels_is_not() -> None:
    assert not lacks_pixels(image(modality="RTSTRUCT"))
    bare = image()
    del bare.PixelData
    assert lacks_pixels(bare)
    assert weigh_object(image()) == 4096 + 128


def test_all_that_we_can_decode_fits_into_one_association() -> None:
    proposed = contexts.proposed_contexts()
    # two more: C-FIND and C-GET
    assert len(proposed) + 2 <= contexts.LIMIT
    assert {context.abstract_syntax for context in proposed} == set(contexts.STORAGE)
    assert len({(context.abstract_syntax, tuple(context.transfer_syntax)) for context in proposed}) == len(proposed)


def test_every_transfer_syntax_that_we_propose_can_be_decoded_here() -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    offered = {
        syntax for storage in contexts.IMAGES for group in contexts.transfer_syntaxes(storage) for syntax in group
    }
    compressed = [syntax for syntax in offered if UID(syntax).is_encapsulated]
    assert len(compressed) == 9
    assert [syntax for syntax in compressed if not get_decoder(UID(syntax)).is_available] == []


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"])
def test_what_c_store_brings_is_read_or_counted_whatever_it_holds(syntax: str) -> None:
    whole = image()
    whole.file_meta.TransferSyntaxUID = syntax
    content = encoded(whole)
    start = 144 + int.from_bytes(content[140:144], "little")
    for cut in (start, start + 1, start + 40, len(content) - 20, len(content)):
        event = SimpleNamespace(
            request=SimpleNamespace(DataSet=BytesIO(content[start:cut])),
            context=SimpleNamespace(transfer_syntax=UID(syntax)),
        )
        taken = Taken()
        coming = Arrivals(SERIES, taken.has, taken.take, Pace(1, None))
        status = storing.store_received(storing.read_request(event), coming)
        assert (status == storing.STORED) == (cut == len(content)), cut
        assert len(taken.objects) == (cut == len(content))


def test_an_answer_that_cannot_be_read_costs_its_own_study_alone() -> None:
    findings = Findings(Wanted.read_query(Query()))
    for number in (1, 2):
        findings.add_study(uid(number), f"P{number}", Described(f"P{number}", "", "", "", frozenset({"MR"})))
    findings.note_unreadable()  # of no study that is known
    findings.add_series(uid(1), uid(1, 1), "MR", 3)
    findings.add_series(uid(2), uid(2, 1), "MR", 3)
    findings.note_unreadable(uid(2))
    found, looked = findings.result()
    assert [study.uid for study in found] == [uid(1)]
    assert looked == Looked(unusable=2)
