"""Figures of a service for Prometheus: its settings, what a reading is, and the endpoint that serves them.

Off unless the operator asks for it, and then on loopback: figures travel unencrypted and to whoever asks. The endpoint
has one thread of its own; it reads what the main loop has left for it and never waits for the main loop.
`prometheus_client` is imported where the endpoint is switched on, and only its formats are used: each endpoint has a
registry of its own (text format 0.0.4 and OpenMetrics 1.0, whichever the scraper asks for).
"""

from __future__ import annotations

import ipaddress
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from pydantic import model_validator

from messages.ground.metrics import PHASES, Phases
from messages.ground.settings import Settings

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = structlog.get_logger("metrics")

ANSWER_WITHIN = 5.0
"""Seconds that one scraper may take to ask and to read; the next one waits meanwhile, the service does not."""


class MetricsSettings(Settings):
    """`[metrics]` of site.toml and coordinator.toml.

    Attributes:
        listen: "127.0.0.1:9464" or "[::1]:9464"; absent: no endpoint.
        allow_remote: that the address may be one that other machines reach.
    """

    listen: str | None = None
    allow_remote: bool = False

    @model_validator(mode="after")
    def _stays_here(self) -> Self:
        if self.listen is None:
            return self
        host, _ = self.address
        if not ipaddress.ip_address(host).is_loopback and not self.allow_remote:
            raise ValueError(
                f"listen = {self.listen!r}: other machines could read the figures, unencrypted: "
                "use 127.0.0.1, or write allow_remote = true beside it"
            )
        return self

    @property
    def address(self) -> tuple[str, int]:
        """IP address and port; ValueError where `listen` is none. Port 0: any free one (the log names it)."""
        host, _, port = (self.listen or "").rpartition(":")
        try:
            number = int(port)
            found = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
        except ValueError:
            number, found = -1, None
        if found is None or not 0 <= number <= 65535 or ("[" in host) != (found.version == 6):
            raise ValueError(f'listen = {self.listen!r}: write an address and a port, as in "127.0.0.1:9464"')
        return str(found), number


@dataclass(frozen=True, slots=True)
class Reading:
    """One metric as it stands now.

    Attributes:
        name: as Prometheus names it; a counter's ends in _total.
        samples: (labels, value); the labels' names are the same for all.
    """

    name: str
    kind: Literal["counter", "gauge"]
    meaning: str
    samples: tuple[tuple[Mapping[str, str], float], ...]


def make_counter(name: str, meaning: str, values: Mapping[str, float] | float, label: str = "") -> Reading:
    """A count since the service started; by the values of one label, or alone."""
    return Reading(name, "counter", meaning, _make_samples(values, label))


def make_gauge(name: str, meaning: str, values: Mapping[str, float] | float, label: str = "") -> Reading:
    """What is so now; by the values of one label, or alone."""
    return Reading(name, "gauge", meaning, _make_samples(values, label))


def _make_samples(values: Mapping[str, float] | float, label: str) -> tuple[tuple[Mapping[str, str], float], ...]:
    if isinstance(values, Mapping):
        return tuple(({label: str(key)}, float(value)) for key, value in values.items())
    return (({}, float(values)),)


def party_readings(certificate_ends: float | None) -> Iterator[Reading]:
    """Which version runs here, and until when its certificate is good.

    Args:
        certificate_ends: seconds since 1970; None where the party logs in without one.
    """
    yield make_gauge("konsil_build_info", "1: the version that runs here.", {version("konsil"): 1.0}, "version")
    if certificate_ends is not None:
        yield make_gauge(
            "konsil_certificate_end_timestamp_seconds", "When our certificate ends, since 1970.", certificate_ends
        )


def phase_readings(phases: Phases = PHASES) -> Iterator[Reading]:
    """Where the time of this process goes."""
    spent = phases.take_snapshot()

    def by_phase(what: str) -> dict[str, float]:
        return {name: getattr(one, what) for name, one in spent.items()}

    yield make_counter("konsil_phase_calls_total", "Stretches of work by phase.", by_phase("count"), "phase")
    yield make_counter("konsil_phase_seconds_total", "Wall time by phase; phases nest.", by_phase("seconds"), "phase")
    yield make_counter("konsil_phase_cpu_seconds_total", "CPU time by phase.", by_phase("cpu_seconds"), "phase")
    yield make_counter("konsil_phase_bytes_total", "Bytes that went through a phase.", by_phase("bytes"), "phase")


class Endpoint:
    """Serves readings over HTTP until closed.

    An address that cannot be taken is a warning, and the service goes on without: rounds are worth more than figures
    of them, and a scraper reports by itself that nobody answers.

    Args:
        read: called on the endpoint's thread at each scrape.
    """

    def __init__(self, settings: MetricsSettings, read: Callable[[], Iterable[Reading]]) -> None:
        self.port: int | None = None
        self._server: _Server | None = None
        if settings.listen is None:
            return
        from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(read))
        ProcessCollector(registry=registry)
        host, port = settings.address
        try:
            self._server = _Server((host, port), ipv6=":" in host)
        except OSError as error:
            log.warning(
                "no metrics: the address cannot be taken", listen=settings.listen, why=error.strerror,
                advice="Name another port in [metrics] and restart; everything else works",
            )  # fmt: skip
            return
        self._server.set_app(_guard_app(make_wsgi_app(registry)))
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()
        log.info("metrics are served", listen=settings.listen, port=self.port)

    def close(self) -> None:
        """Stop serving. Idempotent."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            self._thread.join(ANSWER_WITHIN + 1)


def _guard_app(app: Callable[..., Any]) -> Callable[..., Any]:
    """A defect in a reading is one line that names its type: the server's own traceback would not be structured."""

    def guarded(environ: Mapping[str, Any], start_response: Callable[..., Any]) -> Any:
        try:
            return app(environ, start_response)
        except Exception as error:  # noqa: BLE001 (whatever it is, the endpoint stays up)
            log.error("a scrape failed", error=type(error).__name__)
            start_response("500 Internal Server Error", [])
            return [b""]

    return guarded


class _Collector:
    def __init__(self, read: Callable[[], Iterable[Reading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for one in self._read():
            labels = list(one.samples[0][0]) if one.samples else []
            family = (CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily)(
                one.name, one.meaning, labels=labels
            )
            for values, value in one.samples:
                family.add_metric([values[label] for label in labels], value)
            yield family


class _Handler(WSGIRequestHandler):
    timeout = ANSWER_WITHIN

    def log_message(self, format: str, *args: Any) -> None:
        """A scrape is no news."""


class _Server(WSGIServer):
    """One request at a time: a flood of scrapers costs a service one thread."""

    def __init__(self, address: tuple[str, int], *, ipv6: bool) -> None:
        self.address_family = socket.AF_INET6 if ipv6 else socket.AF_INET
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without the look-up of this machine's name in the DNS that the base class does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that goes away is none of the service's troubles."""
        log.debug("a scraper went away")
