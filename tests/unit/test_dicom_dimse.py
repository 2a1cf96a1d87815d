"""DIMSE against a PACS that misbehaves: each way in which it can fail ends in one clear line, never in "nothing"."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dicom_files import Taken, image, uid
from dicom_nodes import FIND, GET, MOVE, VERIFICATION, Pacs, settings
from pynetdicom import AE

from deploy.broker.certificates import Authority
from messages.errors import ConfigError, DataError, PacsRefused, PacsUnreachable, Unreachable
from messages.reasons import Reason
from site_agent.dicom import sources
from site_agent.dicom.base import Looked, SeriesFound
from site_agent.dicom.sources import association, contexts, dimse, tls
from site_agent.dicom.sources.arrivals import Arrivals
from site_agent.dicom.sources.dimse import Dimse
from site_agent.dicom.sources.pace import Pace
from site_agent.dicom.sources.silence import Silence
from site_agent.dicom.sources.storage_scp import StorageScp

SERIES = SeriesFound(uid(1), uid(1, 1), "MR", 3)


def three() -> list[Any]:
    return [image(1, 1, number) for number in (1, 2, 3)]


def fetch(pacs: Pacs, taken: Taken, series: SeriesFound = SERIES, **changes: Any) -> Any:
    source = Dimse(settings(pacs.port, **changes))
    try:
        return source.fetch(series, taken.has, taken.take)
    finally:
        source.close()


def test_studies_and_series_are_found_with_their_counts() -> None:
    objects = [*three(), image(1, 2, 1, modality="SEG"), image(1, 3, 1, modality="PR"), image(2, 1, 1, modality="CT")]
    with Pacs(objects) as pacs:
        source = Dimse(settings(pacs.port))
        (study,) = source.find()

    assert (study.uid, study.patient) == (uid(1), "P1")
    assert study.series == (
        SeriesFound(uid(1), uid(1, 1), "MR", 3),
        SeriesFound(uid(1), uid(1, 2), "SEG", 1),
    )
    assert source.looked == Looked(not_asked=1)
    assert pacs.associations == 1


def test_a_pacs_that_leaves_the_number_of_instances_out_is_asked_for_a_list() -> None:
    with Pacs(three(), counts=False) as pacs:
        assert Dimse(settings(pacs.port)).find()[0].series == (SERIES,)


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
        Dimse(settings(pacs.port)).find()


def test_a_search_that_breaks_off_is_never_no_studies() -> None:
    def answer(event: Any) -> Iterator[Any]:
        yield from pacs.matches(event)
        event.assoc.abort()

    with Pacs(three(), find=answer) as pacs, pytest.raises(PacsUnreachable, match=r"broke off.*in C-FIND"):
        Dimse(settings(pacs.port)).find()


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
        ((series,),) = [study.series for study in source.find()]
        fetched = source.fetch(series, taken.has, taken.take)

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


@pytest.mark.parametrize("retrieve", ["get", "move"])
def test_what_the_taker_raises_ends_the_transfer_and_comes_through(retrieve: str) -> None:
    offered = []

    def take(obj: Any) -> None:
        offered.append(obj)
        raise DataError("the disk is full")

    destinations: dict[str, tuple[str, int]] = {}
    with Pacs(three(), destinations=destinations) as pacs:
        source = Dimse(settings(pacs.port, retrieve=retrieve))
        if retrieve == "move":
            destinations["KONSIL"] = ("127.0.0.1", source.scp.port)
        with pytest.raises(DataError, match="disk is full"):
            source.fetch(SERIES, lambda sop: False, take)
        source.close()

    assert len(offered) == 1


def test_a_pacs_that_falls_silent_is_given_up() -> None:
    over = threading.Event()

    def answer(event: Any) -> Iterator[Any]:
        over.wait(30)
        yield 0

    with Pacs(three(), get=answer) as pacs:
        try:
            with pytest.raises(PacsUnreachable, match=r"2 s went by without a word, in C-GET"):
                fetch(pacs, Taken(), patience=2.0)
        finally:
            over.set()


def test_a_move_brings_a_series_to_our_own_storage_scp() -> None:
    destinations: dict[str, tuple[str, int]] = {}
    with Pacs(three(), destinations=destinations) as pacs:
        source, taken = Dimse(settings(pacs.port, retrieve="move")), Taken(uid(1, 1, 3))
        destinations["KONSIL"] = ("127.0.0.1", source.scp.port)
        fetched = source.fetch(SERIES, taken.has, taken.take)
        source.close()

    assert (fetched.received, fetched.present, fetched.reason) == (2, 3, None)
    assert {obj.file_meta.TransferSyntaxUID for obj in taken.objects} == {"1.2.840.10008.1.2.1"}


def test_a_move_whose_destination_the_pacs_does_not_know_says_what_to_register() -> None:
    with (
        Pacs(three()) as pacs,
        pytest.raises(PacsRefused, match=r"0xA801, move destination unknown.*'KONSIL'.*port \d"),
    ):
        fetch(pacs, Taken(), retrieve="move")


def send(port: int, obj: Any, *, ae: str = "PACS", called: str = "KONSIL", tls_args: Any = None) -> Any:
    """C-STORE an object to a storage SCP: the status, or None where no association came about."""
    entity = AE(ae_title=ae)
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = 3
    entity.add_requested_context(obj.SOPClassUID, obj.file_meta.TransferSyntaxUID)
    made = entity.associate("127.0.0.1", port, ae_title=called, tls_args=tls_args)
    if not made.is_established:
        association._close(made)
        return None
    status = made.send_c_store(obj).Status
    made.release()
    return status


def test_the_storage_scp_takes_only_what_was_asked_for_and_only_from_the_pacs() -> None:
    scp, taken = StorageScp(settings(1)), Taken()
    try:
        coming = Arrivals(SERIES, taken.has, taken.take, Pace(1, None))
        assert send(scp.port, image()) == 0x0124
        with scp.expecting(coming):
            assert send(scp.port, image(), ae="STRANGER") is None
            assert send(scp.port, image(), called="ANOTHER") is None
            assert send(scp.port, image(2, 1, 1)) == 0x0124
            assert send(scp.port, image(1, 1, 1)) == 0x0000
        assert send(scp.port, image(1, 1, 2)) == 0x0124
    finally:
        scp.close()

    assert taken.uids == [uid(1, 1, 1)]
    assert scp.refused == 3
    assert send(scp.port, image()) is None


def test_the_storage_scp_over_tls_takes_nothing_without_a_certificate_of_the_authority(tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path / "authority"), Authority(tmp_path / "stranger")
    ours = authority.server(["127.0.0.1"], "site")
    scp = StorageScp(settings(1, ca=authority.certificate, cert=ours.certificate, key=ours.key, patience=2.0))
    taken = Taken()
    try:
        with scp.expecting(Arrivals(SERIES, taken.has, taken.take, Pace(1, None))):
            for theirs in (stranger.client("pacs"), authority.client("pacs")):
                context = tls.client(authority.certificate, theirs.certificate, theirs.key)
                told = send(scp.port, image(), tls_args=(context, "127.0.0.1"))
                assert told == (0x0000 if theirs.key.is_relative_to(authority.folder) else None)
            assert send(scp.port, image()) is None
    finally:
        scp.close()
    assert taken.uids == [uid(1, 1, 1)]


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        config = settings(1, retrieve="move", listen_port=other.getsockname()[1])
        with pytest.raises(Unreachable, match=r"cannot listen.*in use"):
            StorageScp(config)


class Line:
    """What `Silence` touches of an association."""

    def __init__(self) -> None:
        self.dimse_timeout: float | None = 5.0
        self.given_up = threading.Event()
        self.dimse = self
        self.msg_queue = self

    def put(self, message: Any) -> None:
        assert message == (None, None)
        self.given_up.set()


def test_a_move_is_given_up_only_once_neither_answers_nor_objects_come() -> None:
    line, heard = Line(), [time.monotonic() + 3600]
    with Silence(line, 0.05, lambda: heard[0]) as silence:
        assert line.dimse_timeout is None
        assert not line.given_up.wait(0.2)  # an object came in an hour's time: far from silent
        assert list(silence.watched(iter([(1, 2)]))) == [(1, 2)]
    assert line.dimse_timeout == 5.0

    with Silence(line, 0.05, lambda: 0.0):
        assert line.given_up.wait(10)


def test_an_echo_is_answered() -> None:
    with Pacs() as pacs:
        sources.echo(settings(pacs.port))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ae": "NOBODY"}, "does not know our AE title 'NOBODY'.*registered"),
        ({"called": "OTHER"}, "is not called 'OTHER'.*Correct called"),
    ],
)
def test_a_rejected_ae_title_is_told_by_name(changes: dict[str, Any], words: str) -> None:
    with Pacs(three()) as pacs:
        config = settings(pacs.port, **changes)
        for ask in (lambda: sources.echo(config), Dimse(config).find):
            with pytest.raises(PacsRefused, match=words):
                ask()


def test_a_pacs_at_its_limit_is_asked_again_and_then_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association, "PAUSE", 0.0)
    with Pacs(three(), maximum=1, callers=("KONSIL", "OTHER")) as pacs:
        entity = AE(ae_title="OTHER")
        entity.add_requested_context(VERIFICATION)
        first = entity.associate("127.0.0.1", pacs.port, ae_title="PACS")
        with pytest.raises(PacsRefused, match=r"rejects the association \(local limit exceeded"):
            sources.echo(settings(pacs.port))
        first.release()


@pytest.mark.parametrize(
    ("offers", "words"),
    [
        ((VERIFICATION, FIND), "presentation context of C-GET"),
        ((VERIFICATION,), "presentation context of C-GET"),
        ((), "presentation context of C-GET"),
    ],
)
def test_a_rejected_presentation_context_is_told(offers: tuple[str, ...], words: str) -> None:
    with Pacs(three(), offers=offers) as pacs, pytest.raises(PacsRefused, match=words):
        fetch(pacs, Taken())


def test_a_pacs_that_offers_nothing_that_we_ask_for_is_told() -> None:
    with Pacs(three(), offers=(VERIFICATION,)) as pacs, pytest.raises(PacsRefused, match="each presentation context"):
        Dimse(settings(pacs.port)).find()


def test_a_pacs_that_lets_us_take_no_storage_class_over_get_is_told() -> None:
    with (
        Pacs(three(), roles=False, offers=(FIND, GET)) as pacs,
        pytest.raises(PacsRefused, match=r'take no storage class.*retrieve = "move"'),
    ):
        fetch(pacs, Taken())


def test_where_nothing_listens_it_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with pytest.raises(PacsUnreachable, match=r"nothing answers \(Connection refused\)"):
        sources.echo(settings(port))


def test_a_port_that_takes_connections_and_speaks_no_dicom_is_told() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(PacsUnreachable, match="no association comes about within"),
    ):
        sources.echo(settings(other.getsockname()[1], patience=0.3))


def test_associations_are_not_left_open() -> None:
    before = {thread.name for thread in threading.enumerate()}
    with Pacs(three()) as pacs:
        source = Dimse(settings(pacs.port))
        source.find()
        for _ in range(3):
            source.fetch(SERIES, Taken().has, Taken().take)
        source.close()
    deadline = time.monotonic() + 10
    while left := {thread.name for thread in threading.enumerate()} - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def test_an_association_over_tls_shows_and_asks_for_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    theirs, ours = authority.server(["127.0.0.1"], "pacs"), authority.client("site")
    own = {"ca": authority.certificate, "cert": ours.certificate, "key": ours.key}
    serving = tls.server(authority.certificate, theirs.certificate, theirs.key)
    with Pacs(three(), ssl_context=serving) as pacs:
        taken = Taken()
        assert fetch(pacs, taken, **own).reason is None
        assert len(taken.objects) == 3

        with pytest.raises(PacsUnreachable, match="Check that this port speaks DICOM; if it speaks TLS, name ca"):
            sources.echo(settings(pacs.port, patience=0.5))
        stranger = Authority(tmp_path / "stranger")
        with pytest.raises(PacsUnreachable, match=r"certificate cannot be trusted"):
            sources.echo(settings(pacs.port, **{**own, "ca": stranger.certificate}))


def test_certificates_that_do_not_fit_together_are_a_mistake_of_the_settings(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours = authority.server(["127.0.0.1"], "site")
    for changes, words in (
        ({"cert": ours.certificate}, "cert needs ca"),
        ({"ca": tmp_path / "missing"}, "cannot read certificate"),
        ({"ca": ours.key}, "holds no certificate"),
        ({"ca": authority.certificate, "key": ours.key}, "key needs the certificate"),
        (
            {"ca": authority.certificate, "cert": ours.certificate, "key": authority.certificate},
            "not a certificate and",
        ),
    ):
        with pytest.raises(ConfigError, match=words):
            Dimse(settings(1, **changes))
    with pytest.raises(ConfigError, match="needs a certificate of ours"):
        StorageScp(settings(1, retrieve="move", ca=authority.certificate))


def test_move_is_proposed_without_storage_contexts() -> None:
    """A PACS that offers no C-GET serves C-MOVE."""
    destinations: dict[str, tuple[str, int]] = {}
    with Pacs(three(), offers=(FIND, MOVE), roles=False, destinations=destinations) as pacs:
        source, taken = Dimse(settings(pacs.port, retrieve="move")), Taken()
        destinations["KONSIL"] = ("127.0.0.1", source.scp.port)
        assert source.fetch(SERIES, taken.has, taken.take).present == 3
        source.close()
    assert len(contexts.accepted()) == len(contexts.STORAGE)
