"""A private Orthanc of this user's, on free ports: for the demo from a PACS and for tests.

Needs no root, touches no system service, and ends with its context or with this process, even on SIGKILL
(`deploy.local.tether`). HTTP is answered for loopback alone. Orthanc's DICOM port takes connections on every interface;
with `strict_aet` it turns away whoever is not registered with a host of its own. So: no real patients in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local import ports as spare_ports
from deploy.local import tether
from deploy.local.startup import wait_for_server
from deploy.orthanc import configuration
from deploy.orthanc.configuration import HOST, Missing, Ports, find_orthanc
from deploy.orthanc.rest import Rest
from messages.ground.errors import RequestError, WorkFailed

__all__ = ["Missing", "OrthancNode", "find_orthanc"]

OWNER = "konsil"
"""The user by which `request` logs in where the node has users."""
ATTEMPTS = 3
"""Another process may take a port between our choice and Orthanc's start."""


class OrthancNode:
    """One Orthanc server whose whole state lives in `folder`.

    Args:
        folder: made if missing; index, files, configuration and log go there.
        aets: AE title → (host, port) of who may talk DICOM to it, and where a C-MOVE to that title goes. A title that
            only calls (C-FIND, C-GET) may have any port. More can be added with `register_modality`.
        users: user → password for HTTP; empty: no login.
        aet: the node's own AE title.
        strict_aet: refuse wrong called and unregistered calling titles at the association.
    """

    host = HOST

    def __init__(
        self,
        folder: Path,
        *,
        aets: Mapping[str, tuple[str, int]] = {},
        users: Mapping[str, str] = {},
        aet: str = "ORTHANC",
        strict_aet: bool = True,
    ) -> None:
        self.folder = folder.absolute()
        self.aet = aet
        self._aets = dict(aets)
        self._users = {**users, OWNER: secrets.token_urlsafe(18)} if users else {}
        self._strict = strict_aet
        self._ports: Ports | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def http_port(self) -> int:
        """The port of REST and DICOMweb (known after the first start, kept over restarts)."""
        return self._start_on_free_ports().http

    @property
    def dicom_port(self) -> int:
        """The port of the DIMSE services."""
        return self._start_on_free_ports().dicom

    @property
    def url(self) -> str:
        """The base of the DICOMweb services."""
        return f"http://{HOST}:{self.http_port}/dicom-web"

    @property
    def rest(self) -> Rest:
        """Its REST interface, with a login of the node's own."""
        return self._open_rest(self._start_on_free_ports())

    @property
    def log(self) -> Path:
        """What Orthanc says."""
        return self.folder / "orthanc.log"

    @property
    def pid(self) -> int | None:
        """Process id of the server, None while none runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self, timeout: float = 60.0) -> None:
        """Start, and wait until both ports answer; nothing where it runs already.

        Raises:
            Missing: Orthanc or its DICOMweb plugin is not installed.
            WorkFailed: it ended or did not answer in time.
        """
        if self.pid is not None:
            return
        installed = find_orthanc()
        for name in ("storage", "tmp"):
            (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout
        for attempt in range(1, ATTEMPTS + 1):
            ports = self._ports or _free_ports()
            self._launch_server(installed, ports)
            try:
                self._await_ports(ports, deadline)
            except WorkFailed:
                self.kill()
                if self._ports is not None or attempt == ATTEMPTS or time.monotonic() > deadline:
                    raise
            else:
                self._ports = ports
                return

    def stop(self, timeout: float = 20.0) -> None:
        """End it in order, the hard way after `timeout` seconds; idempotent."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """SIGKILL, as a power cut would; idempotent."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def store_files(self, what: Path | bytes) -> None:
        """Store one DICOM file, or a ZIP archive of many (Orthanc takes each member).

        Raises:
            WorkFailed: Orthanc does not take it.
        """
        self.rest.store_content(what if isinstance(what, bytes) else what.read_bytes())

    def register_modality(self, title: str, host: str, port: int) -> None:
        """Let an AE title in, and have C-MOVE to it go to `host` and `port`; over an earlier entry of the same title.

        Kept over restarts of this object's node.
        """
        self._aets[title] = (host, port)
        body = {"AET": title, "Host": host, "Port": port}
        self.request("PUT", f"/modalities/{configuration.name_modality(title)}", json.dumps(body).encode())

    def count_objects(self) -> int:
        """Objects (SOP instances) that it holds."""
        return self.rest.count_level()

    def clear_patients(self) -> None:
        """Forget every patient."""
        for patient in json.loads(self.request("GET", "/patients")):
            self.request("DELETE", f"/patients/{patient}")

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The answer's body of Orthanc's own REST interface; raises WorkFailed as `rest.Rest.request`."""
        return self.rest.request(method, path, body)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # nobody reads what an orderly end would write
        self.kill()

    def _start_on_free_ports(self) -> Ports:
        if self._ports is None:
            raise RequestError("this private Orthanc was never started", where=str(self.folder))
        return self._ports

    def _launch_server(self, installed: configuration.Installed, ports: Ports) -> None:
        content = configuration.write_content(
            self.folder,
            ports,
            installed.plugin,
            aet=self.aet,
            aets=self._aets,
            users=self._users,
            strict_aet=self._strict,
        )
        path = self.folder / "orthanc.json"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)  # passwords lie in it
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), str(installed.program), str(path)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for the foreground; the owner decides when it ends
                env={**os.environ, "LC_ALL": "C.UTF-8"},  # it refuses to start where the locale is not there
            )

    def _await_ports(self, ports: Ports, deadline: float) -> None:
        """Wait until it answers over HTTP and takes DICOM connections."""

        def ended() -> WorkFailed | None:
            if self.pid is not None:
                return None
            return WorkFailed(f"Orthanc ended while starting: {self._last_words()}", where=str(self.log))

        within = max(0.0, deadline - time.monotonic())
        if not wait_for_server(
            lambda: _answers_as_orthanc(self._open_rest(ports)) and _takes_connections(ports.dicom), ended, within
        ):
            raise WorkFailed(
                "Orthanc did not answer in time",
                where=str(self.log),
                advice="Read its log, or try again on a less busy machine",
            )

    def _open_rest(self, ports: Ports) -> Rest:
        return Rest(ports.http, OWNER, self._users[OWNER]) if self._users else Rest(ports.http)

    def _last_words(self) -> str:
        """The last line of its log that names an error."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()
            if errors := [line for line in lines if line.startswith(("E", "F")) or "rror" in line]:
                return errors[-1][:300]
        return "read its log"


def _answers_as_orthanc(rest: Rest) -> bool:
    """Whether Orthanc, and not another program on this port, answers a user of this node."""
    try:
        return json.loads(rest.request("GET", "/system", timeout=5.0)).get("DicomAet") is not None
    except (WorkFailed, ValueError, AttributeError):
        return False


def _takes_connections(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=5.0).close()
    except OSError:
        return False
    return True


def _free_ports() -> Ports:
    """Two free ports, held together while they are chosen so that they differ."""
    with (
        spare_ports.hold_free_port("") as first,
        spare_ports.hold_free_port("") as second,
    ):  # on every interface, as Orthanc will
        return Ports(first.getsockname()[1], second.getsockname()[1])
