"""C-MOVE, and our own storage SCP: what it takes, from whom, and when a PACS that says nothing is given up."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from brokers import PATIENCE
from dicom_files import SERIES, Taken, image, three, uid
from dicom_nodes import FIND, MOVE, Pacs, fetch, settings
from pynetdicom import AE

from deploy.broker.certificates import Authority
from messages.ground.errors import DataError, PacsRefused, Unreachable
from site_agent.dicom.sources import association, contexts, tls
from site_agent.dicom.sources.arrivals import Arrivals
from site_agent.dicom.sources.dimse import Dimse
from site_agent.dicom.sources.pace import Pace
from site_agent.dicom.sources.silence import Silence
from site_agent.dicom.sources.storage_scp import StorageScp


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
            source.fetch_series(SERIES, lambda sop: False, take)
        source.close()

    assert len(offered) == 1


def test_a_move_brings_a_series_to_our_own_storage_scp() -> None:
    destinations: dict[str, tuple[str, int]] = {}
    with Pacs(three(), destinations=destinations) as pacs:
        source, taken = Dimse(settings(pacs.port, retrieve="move")), Taken(uid(1, 1, 3))
        destinations["KONSIL"] = ("127.0.0.1", source.scp.port)
        fetched = source.fetch_series(SERIES, taken.has, taken.take)
        source.close()

    assert (fetched.received, fetched.present, fetched.reason) == (2, 3, None)
    assert {obj.file_meta.TransferSyntaxUID for obj in taken.objects} == {"1.2.840.10008.1.2.1"}


def test_a_move_whose_destination_the_pacs_does_not_know_says_what_to_register() -> None:
    with (
        Pacs(three()) as pacs,
        pytest.raises(PacsRefused, match=r"0xA801, move destination unknown.*'KONSIL'.*port \d"),
    ):
        fetch(pacs, Taken(), retrieve="move")


def test_move_is_proposed_without_storage_contexts() -> None:
    """A PACS that offers no C-GET serves C-MOVE."""
    destinations: dict[str, tuple[str, int]] = {}
    with Pacs(three(), offers=(FIND, MOVE), roles=False, destinations=destinations) as pacs:
        source, taken = Dimse(settings(pacs.port, retrieve="move")), Taken()
        destinations["KONSIL"] = ("127.0.0.1", source.scp.port)
        assert source.fetch_series(SERIES, taken.has, taken.take).present == 3
        source.close()
    assert len(contexts.accepted_contexts()) == len(contexts.STORAGE)


def send(port: int, obj: Any, *, ae: str = "PACS", called: str = "KONSIL", tls_args: Any = None) -> Any:
    """C-STORE an object to a storage SCP: the status, or None where no association came about."""
    entity = AE(ae_title=ae)
    entity.acse_timeout = entity.dimse_timeout = entity.connection_timeout = 3
    entity.add_requested_context(obj.SOPClassUID, obj.file_meta.TransferSyntaxUID)
    made = entity.associate("127.0.0.1", port, ae_title=called, tls_args=tls_args)
    if not made.is_established:
        association._close_socket(made)
        return None
    status = made.send_c_store(obj).Status
    made.release()
    return status


def test_the_storage_scp_takes_only_what_was_asked_for_and_only_from_the_pacs() -> None:
    scp, taken = StorageScp(settings(1)), Taken()
    try:
        coming = Arrivals(SERIES, taken.has, taken.take, Pace(1, None))
        assert send(scp.port, image()) == 0x0124
        with scp.expect_series(coming):
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
    ours = authority.issue_server_identity(["127.0.0.1"], "site")
    scp = StorageScp(settings(1, ca=authority.certificate, cert=ours.certificate, key=ours.key, patience=PATIENCE))
    taken = Taken()
    try:
        with scp.expect_series(Arrivals(SERIES, taken.has, taken.take, Pace(1, None))):
            for theirs in (stranger.issue_client_identity("pacs"), authority.issue_client_identity("pacs")):
                context = tls.client_context(authority.certificate, theirs.certificate, theirs.key)
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
        assert list(silence.watch_answers(iter([(1, 2)]))) == [(1, 2)]
    assert line.dimse_timeout == 5.0

    with Silence(line, 0.05, lambda: 0.0):
        assert line.given_up.wait(PATIENCE)
