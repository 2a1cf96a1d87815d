"""Associations with a PACS that rejects them, is not there, or speaks another language: each told in one clear line."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from brokers import PATIENCE
from dicom_files import SERIES, Taken, three
from dicom_nodes import FIND, GET, VERIFICATION, Pacs, fetch, settings
from pynetdicom import AE

from deploy.broker.certificates import Authority
from messages.ground.errors import ConfigError, PacsRefused, PacsUnreachable
from site_agent.dicom import sources
from site_agent.dicom.sources import association, tls
from site_agent.dicom.sources.dimse import Dimse
from site_agent.dicom.sources.storage_scp import StorageScp


def test_an_echo_is_answered() -> None:
    with Pacs() as pacs:
        sources.echo_source(settings(pacs.port))


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
        for ask in (lambda: sources.echo_source(config), Dimse(config).find_studies):
            with pytest.raises(PacsRefused, match=words):
                ask()


def test_a_pacs_at_its_limit_is_asked_again_and_then_let_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association, "PAUSE", 0.0)
    with Pacs(three(), maximum=1, callers=("KONSIL", "OTHER")) as pacs:
        entity = AE(ae_title="OTHER")
        entity.add_requested_context(VERIFICATION)
        first = entity.associate("127.0.0.1", pacs.port, ae_title="PACS")
        with pytest.raises(PacsRefused, match=r"rejects the association \(local limit exceeded"):
            sources.echo_source(settings(pacs.port))
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
        Dimse(settings(pacs.port)).find_studies()


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
        sources.echo_source(settings(port))


def test_a_port_that_takes_connections_and_speaks_no_dicom_is_told() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(PacsUnreachable, match="no association comes about within"),
    ):
        sources.echo_source(settings(other.getsockname()[1], patience=0.3))


def test_associations_are_not_left_open() -> None:
    before = {thread.name for thread in threading.enumerate()}
    with Pacs(three()) as pacs:
        source = Dimse(settings(pacs.port))
        source.find_studies()
        for _ in range(3):
            source.fetch_series(SERIES, Taken().has, Taken().take)
        source.close()
    deadline = time.monotonic() + PATIENCE
    while left := {thread.name for thread in threading.enumerate()} - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


def test_an_association_over_tls_shows_and_asks_for_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    theirs, ours = authority.issue_server_identity(["127.0.0.1"], "pacs"), authority.issue_client_identity("site")
    own = {"ca": authority.certificate, "cert": ours.certificate, "key": ours.key}
    serving = tls.server_context(authority.certificate, theirs.certificate, theirs.key)
    with Pacs(three(), ssl_context=serving) as pacs:
        taken = Taken()
        assert fetch(pacs, taken, **own).reason is None
        assert len(taken.objects) == 3

        with pytest.raises(PacsUnreachable, match="Check that this port speaks DICOM; if it speaks TLS, name ca"):
            sources.echo_source(settings(pacs.port, patience=0.5))
        stranger = Authority(tmp_path / "stranger")
        with pytest.raises(PacsUnreachable, match=r"certificate cannot be trusted"):
            sources.echo_source(settings(pacs.port, **{**own, "ca": stranger.certificate}))


def test_certificates_that_do_not_fit_together_are_a_mistake_of_the_settings(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours = authority.issue_server_identity(["127.0.0.1"], "site")
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
