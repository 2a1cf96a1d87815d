"""A DICOMweb service for tests: a real one on loopback, small, that fails as it is told.

(Test modules import this as `dicom_web_service`.)
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from dicom_files import encoded
from pydicom.dataset import Dataset

BOUNDARY = "konsil-test-boundary"
LEVELS = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}


class Service:
    """QIDO-RS and WADO-RS over `objects`, with as little matching as a service may do: none.

    Attributes:
        page: most matches of an answer. ignores_offset: as some services do.
        fails: (pattern of a path, HTTP status) → that status for the first request of such a path, or for each.
        cut: bytes after which an answer to a retrieval breaks off.
        counts: whether it says Number of Series Related Instances.
        authorization: the header that each request must carry.
        answers: path → (content type, body) in place of what it would answer.
        requests: paths with queries, as they came.
    """

    def __init__(self, objects: Sequence[Dataset] = (), tls: ssl.SSLContext | None = None) -> None:
        self.objects = list(objects)
        self.page = 1000
        self.ignores_offset = False
        self.counts = True
        self.fails: dict[str, list[int]] = {}
        self.cut: int | None = None
        self.authorization: str | None = None
        self.answers: dict[str, tuple[str, bytes]] = {}
        self.requests: list[str] = []
        self.accepts: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._scheme = "http" if tls is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/dicom-web"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def failure(self, path: str) -> int | None:
        """The status that a path is to fail with now."""
        for pattern, left in self.fails.items():
            if re.search(pattern, path) and left:
                return left.pop(0) if len(left) > 1 else left[0] or None
        return None

    def search(self, level: str, within: dict[str, str], offset: int, limit: int) -> list[Any]:
        found: dict[str, list[Dataset]] = {}
        for obj in self.objects:
            if all(obj[key].value == value for key, value in within.items()):
                found.setdefault(obj[LEVELS[level]].value, []).append(obj)
        answers = []
        for group in found.values():
            answer = Dataset()
            for keyword in ("StudyInstanceUID", "PatientID", "AccessionNumber", "StudyDate", "StudyDescription"):
                answer[keyword] = group[0][keyword]
            if level == "studies":
                answer.ModalitiesInStudy = sorted({obj.Modality for obj in group})
            if level == "series":
                answer.SeriesInstanceUID, answer.Modality = group[0].SeriesInstanceUID, group[0].Modality
                if self.counts:
                    answer.NumberOfSeriesRelatedInstances = len(group)
            if level == "instances":
                answer.SOPInstanceUID = group[0].SOPInstanceUID
            answers.append(answer.to_json_dict())
        start = 0 if self.ignores_offset else offset
        return answers[start : start + min(limit, self.page)]


def _handler(service: Service) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            service.requests.append(self.path)
            service.accepts.append(self.headers.get("Accept", ""))
            address = urlsplit(self.path)
            path = address.path.removeprefix("/dicom-web/")
            if service.authorization not in (None, self.headers.get("Authorization")):
                self.send(401, "text/plain", b"who are you?")
            elif status := service.failure(path):
                self.send(status, "text/plain", b"Patient^Name cannot be found")
            elif path in service.answers:
                self.send(200, *service.answers[path])
            else:
                self.answer(path.split("/"), parse_qs(address.query))

        def answer(self, parts: list[str], query: dict[str, list[str]]) -> None:
            within = {LEVELS[level]: value for level, value in zip(parts[::2], parts[1::2], strict=False)}
            if len(parts) % 2:
                offset, limit = (
                    int(query.get(key, [default])[0]) for key, default in (("offset", "0"), ("limit", "99"))
                )
                found = service.search(parts[-1], within, offset, limit)
                self.send(200 if found else 204, "application/dicom+json", json.dumps(found).encode() if found else b"")
                return
            bodies = [
                encoded(obj) for obj in service.objects if all(obj[key].value == value for key, value in within.items())
            ]
            if not bodies:
                self.send(404, "text/plain", b"")
                return
            head = f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
            content = b"".join(head + body + b"\r\n" for body in bodies) + f"--{BOUNDARY}--\r\n".encode()
            self.send(200, f'multipart/related; type="application/dicom"; boundary={BOUNDARY}', content)

        def send(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            if content:
                self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if service.cut is not None and kind.startswith("multipart"):
                content = content[: service.cut]
                self.close_connection = True
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
