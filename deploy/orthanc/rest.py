"""Orthanc's own REST interface, as far as the demo and tests need it (Orthanc Book, "REST API")."""

from __future__ import annotations

import base64
import http.client
import json
from dataclasses import dataclass, field

from deploy.orthanc.configuration import HOST
from messages.ground.errors import WorkFailed

TAKEN = ("Success", "AlreadyStored")


@dataclass(frozen=True, slots=True)
class Rest:
    """One Orthanc on loopback; `user` "" where it asks for no login. Each call has a connection of its own."""

    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    def request(self, method: str, path: str, body: bytes | None = None, *, timeout: float = 60.0) -> bytes:
        """The answer's body.

        Raises:
            WorkFailed: a status other than 2xx, or nothing answers.
        """
        headers = {}
        if self.user:
            login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            headers["Authorization"] = f"Basic {login}"
        where = f"http://{HOST}:{self.port}"
        connection = http.client.HTTPConnection(HOST, self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise WorkFailed(f"Orthanc does not answer ({type(error).__name__})", where=where) from None
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise WorkFailed(f"Orthanc answers {answer.status} to {method} {path}", where=where)
        return content

    def store_content(self, content: bytes) -> None:
        """Store one DICOM file, or a ZIP archive of many.

        Raises:
            WorkFailed: it does not take one of them.
        """
        told = json.loads(self.request("POST", "/instances", content))
        for one in told if isinstance(told, list) else [told]:
            if one.get("Status") not in TAKEN:
                raise WorkFailed(f"Orthanc did not store it ({one.get('Status')})", where=f"http://{HOST}:{self.port}")

    def count_level(self, level: str = "Instances") -> int:
        """How many "Patients", "Studies", "Series" or "Instances" it holds."""
        return int(json.loads(self.request("GET", "/statistics"))[f"Count{level}"])
