"""DICOMweb against a service that misbehaves: every answer is either used or told in one line, and never "nothing"."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from brokers import PATIENCE
from dicom_files import SERIES, Taken, asking, encoded, image, three, uid
from dicom_web_service import Service

from deploy.broker.certificates import Authority
from messages.ground.errors import ConfigError, DataError, PacsRefused, PacsUnreachable
from messages.reasons import Reason
from site_agent.dicom import sources
from site_agent.dicom.base import Fetched, Looked, SeriesFound
from site_agent.dicom.config import DicomWebSource
from site_agent.dicom.sources import dicomweb, tls
from site_agent.dicom.sources.dicomweb import DicomWeb


def settings(url: str, **changes: Any) -> DicomWebSource:
    values = {"source": "dicomweb", "url": url, "patience": PATIENCE, **asking(changes.pop("query", {}))}
    return DicomWebSource(**{**values, **changes})


def fetch(service: Service, taken: Taken, series: SeriesFound = SERIES, **changes: Any) -> Fetched:
    source = DicomWeb(settings(service.url, **changes))
    try:
        return source.fetch_series(series, taken.has, taken.take)
    finally:
        source.close()


def find(service: Service, **changes: Any) -> tuple[Any, Looked]:
    source = DicomWeb(settings(service.url, **changes))
    try:
        return source.find_studies(), source.looked
    finally:
        source.close()


def test_studies_and_series_are_found_with_their_counts() -> None:
    objects = [*three(), image(1, 2, 1, modality="SEG"), image(1, 3, 1, modality="PR"), image(2, 1, 1, modality="CT")]
    with Service(objects) as service:
        (study,), looked = find(service)

    assert (study.uid, study.patient) == (uid(1), "P1")
    assert study.series == (SERIES, SeriesFound(uid(1), uid(1, 2), "SEG", 1))
    assert looked == Looked(not_asked=1)
    assert "ModalitiesInStudy=MR" in service.requests[0]
    assert "includefield=00080061" in service.requests[0]


def test_a_service_that_leaves_the_number_of_instances_out_is_asked_for_a_list() -> None:
    with Service(three()) as service:
        service.counts = False
        assert find(service)[0][0].series == (SERIES,)


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
@pytest.mark.parametrize("ignores_offset", [False, True])
def test_a_search_goes_on_until_a_page_brings_nothing_new(
    monkeypatch: pytest.MonkeyPatch, page: int, ignores_offset: bool
) -> None:
    """Whatever a service gives at most, and also where it gives the same page for ever."""
    monkeypatch.setattr(dicomweb, "PAGE", 2)
    with Service([image(study) for study in (1, 2, 3, 4, 5)]) as service:
        service.page, service.ignores_offset = page, ignores_offset
        studies, _ = find(service)

    there = min(page, 2) if ignores_offset else 5
    assert [study.uid for study in studies] == [uid(number) for number in range(1, there + 1)]


@pytest.mark.parametrize(
    ("value", "sent"), [("P1", "P1"), ("*TUMOUR*", "*TUMOUR*"), ("A B/C&d=%", "A?B?C?d??"), ("GLIOM Ü", "GLIOM?*")]
)
def test_a_search_names_nothing_that_a_service_would_have_to_decode(value: str, sent: str) -> None:
    with Service(three()) as service:
        find(service, query={"description": value})
    assert f"StudyDescription={sent}&" in service.requests[0] + "&"


def test_an_empty_answer_with_success_is_no_studies() -> None:
    with Service() as service:
        assert find(service) == ([], Looked())


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, r"refuses the search for studies \(HTTP 400\)"),
        (401, r"refuses our credentials \(HTTP 401"),
        (403, r"refuses our credentials \(HTTP 403"),
        (404, r"fails in the search for studies \(HTTP 404\)"),
        (406, r"\(HTTP 406\)"),
        (500, r"fails in the search for studies \(HTTP 500\)"),
        (502, r"HTTP 502"),
    ],
)
def test_a_search_that_fails_is_never_no_studies(status: int, words: str) -> None:
    with Service(three()) as service:
        service.fails["^studies$"] = [status]
        with pytest.raises(PacsRefused, match=words) as told:
            find(service)
        with pytest.raises(PacsRefused, match=words):
            sources.echo_source(settings(service.url))
    assert "Patient" not in str(told.value)


def test_a_search_for_series_that_fails_is_an_error_too() -> None:
    with Service(three()) as service:
        service.fails["series$"] = [500]
        with pytest.raises(PacsRefused, match="the search for series"):
            find(service)


@pytest.mark.parametrize("busy", [429, 503])
def test_a_busy_service_is_asked_again(busy: int) -> None:
    with Service(three()) as service:
        service.fails["^studies$"] = [busy, busy, 0]
        assert len(find(service)[0]) == 1
        service.fails["^studies$"] = [busy]
        with pytest.raises(PacsRefused, match=rf"HTTP {busy}"):
            find(service)


@pytest.mark.parametrize(
    "answer",
    [("text/html", b"<html>Please log in</html>"), ("application/json", b'"hello"'), ("application/json", b"[1]")],
)
def test_an_answer_that_is_no_dicom_json_is_told(answer: tuple[str, bytes]) -> None:
    with Service() as service:
        service.answers["studies"] = answer
        with pytest.raises(PacsRefused, match=r"no DICOM JSON.*Check url"):
            find(service)


def test_a_series_comes_whole_as_it_lies_there() -> None:
    with Service(three()) as service:
        taken = Taken()
        fetched = fetch(service, taken)

    assert fetched == Fetched(3, 3)
    assert taken.uids == [uid(1, 1, number) for number in (1, 2, 3)]
    assert {obj.file_meta.TransferSyntaxUID for obj in taken.objects} == {"1.2.840.10008.1.2.1"}
    assert "transfer-syntax=*" in service.accepts[-1]
    assert len([path for path in service.requests if "instances" not in path]) == 1


def test_only_what_is_missing_is_asked_for_again() -> None:
    with Service(three()) as service:
        taken = Taken(uid(1, 1, 2))
        assert fetch(service, taken) == Fetched(2, 3)
        assert [path for path in service.requests if "limit" not in path] == [
            f"/dicom-web/studies/{uid(1)}/series/{uid(1, 1)}/instances/{uid(1, 1, number)}" for number in (1, 3)
        ]
        assert fetch(service, taken) == Fetched(0, 3)


def test_a_service_without_a_search_for_instances_is_asked_for_the_series() -> None:
    with Service(three()) as service:
        service.fails["instances$"] = [404]
        taken = Taken(uid(1, 1, 2))
        assert fetch(service, taken) == Fetched(2, 3)


def test_what_came_is_counted_against_the_number_that_the_index_says() -> None:
    with Service(three()) as service:
        more = SeriesFound(uid(1), uid(1, 1), "MR", 4)
        assert fetch(service, Taken(), more) == Fetched(3, 3, Reason.INCOMPLETE_SERIES)


@pytest.mark.parametrize("status", [404, 410, 500, 503])
def test_a_series_that_the_service_cannot_deliver_is_counted(status: int) -> None:
    with Service(three()) as service:
        service.fails[f"series/{uid(1, 1)}$"] = [status]
        assert fetch(service, Taken()) == Fetched(0, 0, Reason.RETRIEVE_FAILED)


@pytest.mark.parametrize("status", [401, 403, 406])
def test_a_retrieval_that_is_refused_is_an_error(status: int) -> None:
    with Service(three()) as service:
        service.fails[f"series/{uid(1, 1)}$"] = [status]
        with pytest.raises(PacsRefused, match=str(status)):
            fetch(service, Taken())


def test_a_transfer_that_breaks_off_keeps_what_came_and_goes_on_from_there() -> None:
    taken = Taken()
    large = [image(1, 1, number, side=512) for number in (1, 2, 3)]
    with Service(large) as service:
        service.cut = len(encoded(large[0])) * 3 // 2
        with pytest.raises(PacsUnreachable, match="the answer broke off"):
            fetch(service, taken)
        assert taken.uids == [uid(1, 1, 1)]
        service.cut = None
        assert fetch(service, taken) == Fetched(2, 3)


def test_an_answer_that_is_no_multipart_message_is_counted() -> None:
    with Service(three()) as service:
        path = f"studies/{uid(1)}/series/{uid(1, 1)}"
        service.answers[path] = ("text/html", b"<html>Please log in</html>")
        assert fetch(service, Taken()) == Fetched(0, 0, Reason.RETRIEVE_FAILED)


def test_a_part_that_is_no_dicom_is_counted() -> None:
    with Service(three()) as service:
        path = f"studies/{uid(1)}/series/{uid(1, 1)}"
        body = b"--x\r\n\r\nno DICOM at all" + b"." * 200 + b"\r\n--x--\r\n"
        service.answers[path] = ('multipart/related; type="application/dicom"; boundary=x', body)
        assert fetch(service, Taken()) == Fetched(0, 0, Reason.RETRIEVE_FAILED)


@pytest.mark.parametrize(
    "spoil", [lambda body: body[:-40], lambda body: body.replace(b"UI", b"U[", 4), lambda _: b"." * 200]
)
def test_a_part_that_cannot_be_read_costs_none_of_the_others(spoil: Callable[[bytes], bytes]) -> None:
    with Service(three()) as service:
        bodies = [encoded(obj) for obj in three()]
        bodies[1] = spoil(bodies[1])
        head = b"--x\r\nContent-Type: application/dicom\r\n\r\n"
        content = b"".join(head + body + b"\r\n" for body in bodies) + b"--x--\r\n"
        path = f"studies/{uid(1)}/series/{uid(1, 1)}"
        service.answers[path] = ('multipart/related; type="application/dicom"; boundary=x', content)
        taken = Taken()
        fetched = fetch(service, taken)
    assert fetched == Fetched(2, 2, Reason.RETRIEVE_FAILED)
    assert fetched.lacking == (uid(1, 1, 2),)
    assert taken.uids == [uid(1, 1, 1), uid(1, 1, 3)]


def test_what_the_taker_raises_comes_through() -> None:
    def refuse(obj: Any) -> None:
        raise DataError("the disk is full")

    with Service(three()) as service, pytest.raises(DataError, match="disk is full"):
        DicomWeb(settings(service.url)).fetch_series(SERIES, lambda sop: False, refuse)


def test_users_and_tokens_are_shown(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("secret\n")
    with Service(three()) as service:
        service.authorization = "Basic a29uc2lsOnNlY3JldA=="
        assert find(service, user="konsil", password=f"file:{password}")[0]
        service.authorization = "Bearer letmein"
        assert find(service, token="letmein")[0]
        with pytest.raises(PacsRefused, match="credentials"):
            find(service, token="wrong")
        with pytest.raises(ConfigError, match="exclude each other"):
            find(service, token="letmein", user="konsil")
        with pytest.raises(ConfigError, match="cannot read the secret"):
            find(service, token=f"file:{tmp_path / 'missing'}")


def test_the_environment_changes_neither_credentials_nor_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with Service(three()) as service:
        service.authorization = "Bearer letmein"
        assert find(service, token="letmein")[0]


def test_a_service_over_https_is_trusted_by_its_authority_alone(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    theirs, ours = authority.issue_server_identity(["127.0.0.1"], "pacs"), authority.issue_client_identity("site")
    own = {"ca": authority.certificate, "cert": ours.certificate, "key": ours.key}
    with Service(three(), tls=tls.server_context(authority.certificate, theirs.certificate, theirs.key)) as service:
        taken = Taken()
        assert fetch(service, taken, **own) == Fetched(3, 3)
        with pytest.raises(PacsUnreachable, match="certificate cannot be trusted"):
            find(service, **{**own, "ca": Authority(tmp_path / "stranger").certificate})
        with pytest.raises(PacsUnreachable, match="certificate cannot be trusted"):
            find(service)
    with pytest.raises(ConfigError, match="url is not https"):
        DicomWeb(settings("http://127.0.0.1/dicom-web", ca=authority.certificate))


def test_where_nothing_answers_it_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PacsUnreachable, match=r"no answer to the search for studies within 0\.3 s"):
            sources.echo_source(settings(f"http://127.0.0.1:{port}", patience=0.3))
    with pytest.raises(PacsUnreachable, match="Connection refused"):
        sources.echo_source(settings(f"http://127.0.0.1:{port}"))


def test_patients_that_are_asked_for_are_in_no_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    patients = tmp_path / "patients"
    patients.write_text("P1-PLANTED\n")
    with Service([image(1, PatientID="P1-PLANTED")]) as service, caplog.at_level(logging.DEBUG):
        service.fails["^studies$"] = [503, 0]
        assert len(find(service, query={"patients": patients})[0]) == 1
        assert "P1-PLANTED" in service.requests[0]
    assert "PLANTED" not in caplog.text


def test_a_search_that_no_study_fits_does_not_ask_further() -> None:
    with Service([image(1, modality="CT")]) as service:
        assert find(service) == ([], Looked(not_asked=1))
    assert {path.split("?")[0] for path in service.requests} == {"/dicom-web/studies"}
