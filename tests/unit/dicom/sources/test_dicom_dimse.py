"""C-FIND and C-GET against a PACS that misbehaves: each failure ends in one clear line, and never in "nothing"."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from brokers import PATIENCE
from dicom_files import SERIES, Taken, image, three, uid
from dicom_nodes import Pacs, fetch, settings

from messages.ground.errors import PacsRefused, PacsUnreachable
from messages.reasons import Reason
from site_agent.dicom.base import Looked, SeriesFound
from site_agent.dicom.sources import dimse
from site_agent.dicom.sources.dimse import Dimse


def test_studies_and_series_are_found_with_their_counts() -> None:
    objects = [*three(), image(1, 2, 1, modality="SEG"), image(1, 3, 1, modality="PR"), image(2, 1, 1, modality="CT")]
    with Pacs(objects) as pacs:
        source = Dimse(settings(pacs.port))
        (study,) = source.find_studies()

    assert (study.uid, study.patient) == (uid(1), "P1")
    assert study.series == (
        SeriesFound(uid(1), uid(1, 1), "MR", 3),
        SeriesFound(uid(1), uid(1, 2), "SEG", 1),
    )
    assert source.looked == Looked(not_asked=1)
    assert pacs.associations == 1


def test_a_pacs_that_leaves_the_number_of_instances_out_is_asked_for_a_list() -> None:
    with Pacs(three(), counts=False) as pacs:
        assert Dimse(settings(pacs.port)).find_studies()[0].series == (SERIES,)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0xA700, "0xA700, out of resources"),
        (0xA900, "0xA900, identifier does not match"),
        (0xC001, "0xC001, unable to process"),
        (0xFE00, "0xFE00, cancelled"),
        (0x0122, "0x0122, SOP class not supported"),
        (0xB001, "0xB001, matching reached the response limit"),
    ],
)
@pytest.mark.parametrize("after_matches", [False, True])
def test_a_search_that_does_not_end_with_success_is_never_no_studies(
    code: int, words: str, after_matches: bool
) -> None:
    def answer(event: Any) -> Iterator[Any]:
        if after_matches:
            yield from pacs.matches(event)
        yield code, None

    with Pacs(three(), find=answer) as pacs, pytest.raises(PacsRefused, match=words):
        Dimse(settings(pacs.port)).find_studies()


def test_a_search_that_breaks_off_is_never_no_studies() -> None:
    def answer(event: Any) -> Iterator[Any]:
        yield from pacs.matches(event)
        event.assoc.abort()

    with Pacs(three(), find=answer) as pacs, pytest.raises(PacsUnreachable, match=r"broke off.*in C-FIND"):
        Dimse(settings(pacs.port)).find_studies()


def test_a_series_comes_whole_with_its_file_meta_information() -> None:
    with Pacs(three()) as pacs:
        taken = Taken()
        fetched = fetch(pacs, taken)

    assert (fetched.received, fetched.present, fetched.reason) == (3, 3, None)
    assert taken.uids == [uid(1, 1, number) for number in (1, 2, 3)]
    assert {obj.file_meta.TransferSyntaxUID for obj in taken.objects} == {"1.2.840.10008.1.2.1"}
    assert {obj.pixel_array.shape for obj in taken.objects} == {(8, 8)}
    assert [query.QueryRetrieveLevel for query in pacs.asked] == ["IMAGE", "SERIES"]


def test_only_what_is_missing_is_asked_for_again() -> None:
    with Pacs(three()) as pacs:
        taken = Taken(uid(1, 1, 2))
        fetched = fetch(pacs, taken)
        assert (fetched.received, fetched.present, fetched.reason) == (2, 3, None)
        assert list(pacs.asked[-1].SOPInstanceUID) == [uid(1, 1, 1), uid(1, 1, 3)]

        before = len(pacs.asked)
        fetched = fetch(pacs, taken)
        assert (fetched.received, fetched.present, fetched.reason) == (0, 3, None)
        assert [query.QueryRetrieveLevel for query in pacs.asked[before:]] == ["IMAGE"]


def test_many_missing_objects_are_asked_for_in_bounded_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dimse, "BATCH", 2)
    with Pacs([image(1, 1, number) for number in range(1, 7)]) as pacs:
        taken = Taken(uid(1, 1, 1))
        fetched = fetch(pacs, taken)

    assert (fetched.received, fetched.present, fetched.reason) == (5, 6, None)
    assert [list(query.SOPInstanceUID) for query in pacs.asked[1:3]] == [
        [uid(1, 1, 2), uid(1, 1, 3)],
        [uid(1, 1, 4), uid(1, 1, 5)],
    ]
    assert pacs.asked[3].SOPInstanceUID == uid(1, 1, 6)


def test_a_pacs_without_the_image_level_is_asked_for_the_series() -> None:
    def answer(event: Any) -> Iterator[Any]:
        if event.identifier.QueryRetrieveLevel == "IMAGE":
            yield 0xA900, None
        yield from pacs.matches(event)

    with Pacs(three(), find=answer) as pacs:
        taken = Taken(uid(1, 1, 2))
        fetched = fetch(pacs, taken)

    assert (fetched.received, fetched.present, fetched.reason) == (2, 3, None)


@pytest.mark.parametrize(("miscount", "reason"), [(1, Reason.INCOMPLETE_SERIES), (0, None), (-1, None)])
def test_what_came_is_counted_against_the_number_that_the_index_says(miscount: int, reason: Reason | None) -> None:
    with Pacs(three(), miscount=miscount) as pacs:
        source, taken = Dimse(settings(pacs.port)), Taken()
        ((series,),) = [study.series for study in source.find_studies()]
        fetched = source.fetch_series(series, taken.has, taken.take)

    assert series.instances == 3 + miscount
    assert (fetched.present, fetched.reason) == (3, reason)


def test_success_with_fewer_objects_than_were_listed_is_noticed() -> None:
    def answer(event: Any) -> Iterator[Any]:
        yield 2
        for obj in three()[:2]:
            yield 0xFF00, obj

    with Pacs(three(), get=answer) as pacs:
        fetched = fetch(pacs, Taken(), SeriesFound(uid(1), uid(1, 1), "MR"))

    assert (fetched.received, fetched.present, fetched.reason) == (2, 2, Reason.INCOMPLETE_SERIES)


@pytest.mark.parametrize("code", [0xA702, 0xC000, 0xA701])
def test_a_failure_of_one_series_is_counted_and_what_came_is_kept(code: int) -> None:
    def answer(event: Any) -> Iterator[Any]:
        yield 3
        yield 0xFF00, three()[0]
        yield code, None

    with Pacs(three(), get=answer) as pacs:
        taken = Taken()
        fetched = fetch(pacs, taken)

    assert (fetched.received, fetched.reason) == (1, Reason.RETRIEVE_FAILED)
    assert taken.uids == [uid(1, 1, 1)]


def test_sub_operations_that_fail_are_counted() -> None:
    """The PACS has an object of a storage class that no context was agreed on for: PS3.4's status 0xB000."""
    odd = image(1, 1, 4)
    odd.SOPClassUID = "1.2.840.10008.5.1.4.1.1.128"  # PET
    with Pacs([*three(), odd]) as pacs:
        taken = Taken()
        fetched = fetch(pacs, taken)

    assert (fetched.received, fetched.present, fetched.reason) == (3, 3, Reason.RETRIEVE_FAILED)


@pytest.mark.parametrize(("code", "words"), [(0xA900, "0xA900"), (0x0124, "not authorised"), (0xFE00, "cancelled")])
def test_a_retrieval_that_is_refused_is_an_error(code: int, words: str) -> None:
    def answer(event: Any) -> Iterator[Any]:
        yield 3
        yield code, None

    with Pacs(three(), get=answer) as pacs, pytest.raises(PacsRefused, match=words):
        fetch(pacs, Taken())


def test_a_transfer_that_breaks_off_keeps_what_came_and_goes_on_from_there() -> None:
    def answer(event: Any) -> Iterator[Any]:
        yield 3
        for obj in three()[:2]:
            yield 0xFF00, obj
        event.assoc.abort()

    taken = Taken()
    with Pacs(three(), get=answer) as pacs, pytest.raises(PacsUnreachable, match=r"broke off.*in C-GET, after"):
        fetch(pacs, taken)
    came = len(taken.objects)
    assert came >= 1

    with Pacs(three()) as pacs:
        fetched = fetch(pacs, taken)
    assert (fetched.received, fetched.present, fetched.reason) == (3 - came, 3, None)


def test_objects_that_nobody_asked_for_are_not_taken() -> None:
    def answer(event: Any) -> Iterator[Any]:
        yield 4
        for obj in [*three(), image(2, 1, 1)]:
            yield 0xFF00, obj

    with Pacs(three(), get=answer) as pacs:
        taken = Taken()
        fetched = fetch(pacs, taken)

    assert (fetched.received, fetched.present) == (3, 3)
    assert taken.uids == [uid(1, 1, number) for number in (1, 2, 3)]


def test_an_object_that_came_incomplete_is_not_taken() -> None:
    objects = three()
    objects[1].PixelData = objects[1].PixelData[:-2]
    with Pacs(objects) as pacs:
        taken = Taken()
        fetched = fetch(pacs, taken)

    assert taken.uids == [uid(1, 1, 1), uid(1, 1, 3)]
    assert (fetched.received, fetched.reason) == (2, Reason.RETRIEVE_FAILED)


def test_a_pacs_that_falls_silent_is_given_up() -> None:
    over = threading.Event()

    def answer(event: Any) -> Iterator[Any]:
        over.wait(PATIENCE)
        yield 0

    with Pacs(three(), get=answer) as pacs:
        try:
            with pytest.raises(PacsUnreachable, match=r"4 s went by without a word, in C-GET"):
                fetch(pacs, Taken(), patience=4.0)
        finally:
            over.set()
