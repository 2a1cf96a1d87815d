"""Each association's socket acknowledges at once, so that no PACS waits for us; without the option nothing breaks."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from dicom_files import SERIES, Taken, image, three
from dicom_nodes import Pacs, settings
from pynetdicom.association import Association

from deploy.broker.certificates import Authority
from site_agent.dicom.sources import prompt_socket, tls
from site_agent.dicom.sources.dimse import Dimse
from site_agent.dicom.sources.prompt_socket import PromptSocket


def sockets() -> list[Any]:
    """Of all associations of this process now."""
    return [one.dul.socket for one in threading.enumerate() if isinstance(one, Association)]


@pytest.mark.parametrize(
    ("retrieve", "secure"), [("get", False), ("get", True), ("move", False)], ids=["get", "get-tls", "move"]
)
@pytest.mark.parametrize("quickack", [True, False], ids=["quickack", "without"])
def test_every_association_is_prompt(
    retrieve: str, quickack: bool, secure: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not quickack:
        monkeypatch.setattr(prompt_socket, "_QUICKACK", None)
    changes: dict[str, Any] = {"retrieve": retrieve}
    context = None
    if secure:
        authority = Authority(tmp_path / "authority")
        theirs, ours = authority.issue_server_identity(["127.0.0.1"], "pacs"), authority.issue_client_identity("site")
        context = tls.server_context(authority.certificate, theirs.certificate, theirs.key)
        changes |= {"ca": authority.certificate, "cert": ours.certificate, "key": ours.key}
    seen: set[type] = set()
    delays: set[int] = set()
    destinations: dict[str, tuple[str, int]] = {}
    taken = Taken()

    def take(obj: Any) -> None:
        for line in sockets():
            seen.add(type(line))
            delays.add(line.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        taken.take(obj)

    with Pacs([*three(), image(1, 1, 4, side=512)], destinations=destinations, ssl_context=context) as pacs:
        source = Dimse(settings(pacs.port, **changes))
        if retrieve == "move":
            destinations["KONSIL"] = ("127.0.0.1", source.scp.port)
        fetched = source.fetch_series(SERIES, taken.has, take)
        source.close()

    assert (fetched.received, fetched.reason) == (4, None)
    # C-MOVE's objects come from an association that the test's PACS makes by pynetdicom's own means
    assert PromptSocket in seen
    assert 1 in delays
    if retrieve == "get":
        assert (seen, delays) == ({PromptSocket}, {1})


def test_a_line_that_is_gone_or_of_another_kind_is_left_as_it_is() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        prompt_socket.acknowledge_at_once(ours)  # no TCP
    prompt_socket.acknowledge_at_once(ours)
