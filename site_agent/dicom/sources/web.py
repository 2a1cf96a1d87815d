"""HTTP with a DICOMweb service: sessions with credentials, TLS and time-outs, and every failure as one line of ours.

Exceptions of requests and dicomweb-client stop here. What a service says in words is not passed on: it may name
patients.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import structlog

from messages.ground.errors import ConfigError, PacsRefused, PacsUnreachable
from messages.ground.settings import read_secret
from site_agent.dicom.config import DicomWebSource
from site_agent.dicom.hush import silence_libraries
from site_agent.dicom.sources import tls

RETRIES = 3
"""Times that a request is made again which the service was too busy for (429, 503) or never took."""
CHUNK = 65536
"""Bytes read at a time: what came of such a piece is lost where the answer breaks off within it."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")

_log = structlog.get_logger()


class RequestFailed(Exception):
    """A service could not give one resource, and may well give others. `status` is HTTP's, 0 for a damaged answer."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(str(status))

    @property
    def passing(self) -> bool:
        """Whether it may be over by itself: the service's own failure, not a verb that it lacks (RFC 9110, 15.6)."""
        return self.status >= 500 and self.status not in (501, 505)


class Web:
    """DICOMweb clients of one service, as many as associations may be had at a time.

    Raises:
        ConfigError: credentials or certificates cannot be used, or do not fit together.
    """

    def __init__(self, config: DicomWebSource) -> None:
        silence_libraries()
        address = urlsplit(config.url)
        self.where = f"{address.hostname}:{address.port or (443 if address.scheme == 'https' else 80)}{address.path}"
        self._config = config
        self._url = config.url.rstrip("/")
        self._headers, self._login = _read_credentials(config)
        if config.ca is not None and address.scheme != "https":
            raise ConfigError("ca is given and url is not https", where="url", advice="Write https://, or remove ca")
        if (self._headers or self._login) and address.scheme != "https" and address.hostname not in LOOPBACK:
            _log.warning("credentials for the PACS travel in the clear: its url is not https")
        tls.client_context(config.ca, config.cert, config.key)  # its mistakes are the operator's, and told as such
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()

    @contextmanager
    def open_client(self, doing: str) -> Iterator[Any]:
        """A client for the block, and its failures as ours.

        Args:
            doing: the request in words, such as "the search for studies".

        Raises:
            PacsUnreachable: nothing answers, not in time, or the answer broke off.
            PacsRefused: credentials, verb or form are refused.
            Failed: the service has not got, or cannot deliver, what was asked for.
        """
        import requests

        try:
            client = self._free.get_nowait()
        except queue.Empty:
            client = self._make_session()
        try:
            yield client
        except requests.HTTPError as error:
            raise self._refusal_error(error.response.status_code, doing) from None
        except requests.exceptions.SSLError as error:
            raise PacsUnreachable(
                tls.explain_handshake(error) or "no TLS can be spoken with it",
                where=self.where,
                advice="Check ca, cert and key in site.toml, and that this port speaks HTTPS",
                passing=False,
            ) from None
        except requests.Timeout:
            raise PacsUnreachable(
                f"no answer to {doing} within {self._config.patience:g} s",
                where=self.where,
                advice="Check that the PACS runs; what came is kept",
            ) from None
        except requests.JSONDecodeError:
            raise PacsRefused(
                f"it answers {doing} with something that is no DICOM JSON",
                where=self.where,
                advice="Check url: the base of the DICOMweb service, such as https://pacs.example/dicom-web",
            ) from None
        except requests.RequestException as error:
            raise PacsUnreachable(
                f"nothing answers, or the answer broke off ({_error_words(error)})",
                where=self.where,
                advice="Check url, and that the PACS runs and no firewall is in between; what came is kept",
            ) from None
        finally:
            self._free.put(client)

    def close(self) -> None:
        """Close all connections."""
        while True:
            try:
                self._free.get_nowait()._session.close()
            except queue.Empty:
                return

    def _make_session(self) -> Any:
        import requests
        from urllib3.util import Retry

        config = self._config
        session = requests.Session()
        # Nothing from the environment: a proxy, another bundle of authorities, a .netrc in place of the token.
        session.trust_env = False
        session.verify = str(config.ca) if config.ca is not None else True
        session.cert = tls.own_files(config.cert, config.key)
        session.auth = self._login
        session.max_redirects = 3
        retry = Retry(
            total=RETRIES,
            connect=1,
            read=False,  # not at all, and said as what it is
            redirect=3,
            status_forcelist=(429, 503),
            backoff_factor=0.25,
            raise_on_status=False,
            retry_after_max=max(1, int(config.patience)),
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, _make_adapter(retry))
        client = _client_class()(
            self._url,
            session=session,
            headers=self._headers,
            timeout=config.patience,
            chunk_size=CHUNK,
            permissive_uid=True,  # real archives hold UIDs with leading zeros; `wanted.is_usable_uid` has judged them
        )
        client.set_http_retry_params(retry=False)  # it would retry whatever is raised, for half a minute
        return client

    def _refusal_error(self, status: int, doing: str) -> PacsRefused | RequestFailed:
        if status in (401, 403):
            return PacsRefused(
                f"it refuses our credentials (HTTP {status}, in {doing})",
                where=self.where,
                advice="Check user and password, or token, in site.toml, and what this user may do in the PACS",
            )
        if status in (404, 410) or status >= 500:
            return RequestFailed(status)
        if status == 406:
            return PacsRefused(
                f"it cannot answer {doing} in the form that DICOMweb asks for (HTTP 406)",
                where=self.where,
                advice="Check that url is the DICOMweb base, or fetch over DIMSE",
            )
        return PacsRefused(
            f"it refuses {doing} (HTTP {status})",
            where=self.where,
            advice="Check url, and what this user may do in the PACS",
            passing=status == 429,  # still too busy after `RETRIES`
        )


@cache
def _client_class() -> Any:
    from dicomweb_client.web import DICOMwebClient

    class Client(DICOMwebClient):  # type: ignore[misc]  # dicomweb_client is skipped by mypy
        """Gives objects as bytes: the library's own reading ends an answer at the first that cannot be read."""

        def _http_get_multipart_application_dicom(
            self, url: str, media_types: Any = None, params: Any = None, stream: bool = False
        ) -> Iterator[bytes]:
            accept = self._build_multipart_accept_header_field_value(media_types, {"*": "application/dicom"})
            response = self._http_get(url, params=params, headers={"Accept": accept}, stream=stream)
            if response.headers["Content-Type"].startswith("application/dicom"):  # one object, without the envelope
                return iter([response.content])
            parts: Iterator[bytes] = self._decode_multipart_message(response, stream=stream)
            return parts

    return Client


def _make_adapter(retry: Any) -> Any:
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):  # type: ignore[misc]  # requests is skipped by mypy
        """Leaves wild cards as they are: they need no encoding (RFC 3986, 3.4), and some services do not decode it."""

        def send(self, request: Any, *args: Any, **options: Any) -> Any:
            path, mark, query = request.url.partition("?")
            request.url = path + mark + query.replace("%2A", "*").replace("%3F", "?")
            return super().send(request, *args, **options)

    return Adapter(max_retries=retry)


def _read_credentials(config: DicomWebSource) -> tuple[dict[str, str], tuple[str, str] | None]:
    if config.token and (config.user or config.password):
        raise ConfigError(
            "token and user exclude each other", where="token", advice="Keep the one that the PACS asks for"
        )
    if config.token:
        return {"Authorization": f"Bearer {read_secret(config.token, 'token')}"}, None
    if config.user:
        return {}, (config.user, read_secret(config.password, "password"))
    return {}, None


def _error_words(error: BaseException) -> str:
    """The operating system's words for the cause, or the exception's type: never its text, which quotes the address."""
    one: BaseException | None = error
    seen: list[BaseException] = []
    while one is not None and one not in seen:
        seen.append(one)
        inner = next((part for part in one.args if isinstance(part, BaseException)), None)
        reason = getattr(one, "reason", None)
        one = inner or (reason if isinstance(reason, BaseException) else None) or one.__cause__ or one.__context__
    for cause in reversed(seen):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return type(seen[-1]).__name__
