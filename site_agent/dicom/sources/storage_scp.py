"""Our own storage SCP: where a PACS sends what C-MOVE asks for (PS3.4, annex B; C.4.2).

Takes associations only from the PACS's AE title, called by ours, so many at a time; takes objects only of series that
are asked for at that moment. Everything else is refused with a status and counted. It listens while it is open only.
"""

from __future__ import annotations

import socketserver
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from messages.ground.errors import Unreachable
from site_agent.dicom.config import DimseSource
from site_agent.dicom.hush import hush_pynetdicom, silence_libraries
from site_agent.dicom.sources import contexts, storing, tls
from site_agent.dicom.sources.arrivals import Arrivals
from site_agent.dicom.sources.association import PDU

HANDSHAKE = 10.0
"""Seconds for a TLS handshake: it is made where connections are taken, one after the other."""
POLL = 0.1
"""Seconds in which it notices that it is to end."""


class StorageScp:
    """Listens on `config.listen`, `config.listen_port` from here to `close`.

    Attributes:
        refused: objects that came and nobody had asked for.

    Raises:
        ConfigError: certificates cannot be used.
        Unreachable: the address or port cannot be listened on.
    """

    def __init__(self, config: DimseSource) -> None:
        from pynetdicom import AE, evt

        silence_libraries()
        hush_pynetdicom()
        self.refused = 0
        self._asked: dict[tuple[str, str], _Expected] = {}
        self._lock = threading.Lock()
        entity = AE(ae_title=config.ae)
        entity.require_calling_aet = [config.called]
        entity.require_called_aet = True
        entity.maximum_associations = config.associations
        entity.maximum_pdu_size = PDU
        entity.acse_timeout = entity.dimse_timeout = config.patience
        entity.network_timeout = 10 * config.patience
        where = f"{config.listen}:{config.listen_port}"
        try:
            self._server = serve_entity(
                entity,
                (config.listen, config.listen_port),
                contexts=contexts.accepted_contexts(),
                ssl_context=tls.server_context(config.ca, config.cert, config.key),
                evt_handlers=[(evt.EVT_C_STORE, self._store_object)],
            )
        except OSError as error:
            raise Unreachable(
                f"cannot listen for what C-MOVE brings ({error.strerror})",
                where=where,
                advice="Set listen and listen_port to an address of this machine and a free port that the PACS knows",
            ) from None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    @contextmanager
    def expect_series(self, arrivals: Arrivals) -> Iterator[_Expected]:
        """Take objects of one series for the block."""
        key = (arrivals.series.study, arrivals.series.uid)
        expected = _Expected(arrivals)
        with self._lock:
            self._asked[key] = expected
        try:
            yield expected
        finally:
            with self._lock:
                self._asked.pop(key, None)

    def close(self) -> None:
        """Stop listening, and end the associations that there are."""
        self._server.stop()

    def _store_object(self, event: Any) -> int:
        came = storing.read_request(event)
        key = (
            ("", "") if came is None else (str(came[0].get("StudyInstanceUID")), str(came[0].get("SeriesInstanceUID")))
        )
        with self._lock:
            expected = self._asked.get(key)
            if expected is None:
                self.refused += 1
                return storing.CANNOT_UNDERSTAND if came is None else storing.NOT_ASKED_FOR
        expected.note_sign()
        try:
            return storing.store_received(came, expected.arrivals)
        finally:
            expected.note_sign()


class _Expected:
    """One series that C-MOVE is to bring, and when something of it last came."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self.last = time.monotonic()

    def note_sign(self) -> None:
        self.last = time.monotonic()


def serve_entity(entity: Any, address: tuple[str, int], *, evt_handlers: Sequence[Any] = (), **options: Any) -> Any:
    """Have an application entity listen, on a thread of its own, until `stop` of what is returned.

    pynetdicom's own server, but handshakes end (one that says nothing would keep all others out), what fails in them is
    closed and not drawn up on standard error, its sockets are prompt, and its end ends its associations.

    Args:
        entity: pynetdicom's AE. evt_handlers, options: of its `make_server`.

    Raises:
        OSError: the address cannot be listened on.
    """
    from pynetdicom.transport import ThreadedAssociationServer

    from site_agent.dicom.sources.prompt_socket import HASTEN

    class Server(ThreadedAssociationServer):  # type: ignore[misc]  # pynetdicom is skipped by mypy
        def get_request(self) -> tuple[Any, Any]:
            line, address = self.socket.accept()
            if self.ssl_context is None:
                return line, address
            line.settimeout(HANDSHAKE)
            try:
                wrapped = self.ssl_context.wrap_socket(line, server_side=True)
            except OSError:
                line.close()
                raise  # and the loop goes on: socketserver takes any OSError here for a connection that went
            wrapped.settimeout(None)
            return wrapped, address

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Say nothing: the PACS's answer to C-MOVE tells."""

        def stop(self) -> None:
            socketserver.BaseServer.shutdown(self)
            thread.join()
            self.server_close()
            for association in self.active_associations:
                association.abort()

    server = entity.make_server(address, server_class=Server, evt_handlers=[HASTEN, *evt_handlers], **options)
    thread = threading.Thread(target=server.serve_forever, args=(POLL,), name="konsil-storage-scp", daemon=True)
    thread.start()
    return server
