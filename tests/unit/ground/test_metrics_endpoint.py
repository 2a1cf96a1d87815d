"""The metrics endpoint: off by default, on loopback when on, and never in the way of the service."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from brokers import PATIENCE
from prometheus_client.parser import text_string_to_metric_families

from messages.ground import settings
from messages.ground.errors import ConfigError
from messages.ground.metrics import Phases
from messages.ground.operating import exposition
from messages.ground.operating.exposition import (
    Endpoint,
    MetricsSettings,
    Reading,
    make_counter,
    make_gauge,
    phase_readings,
)


def wanted(listen: str, **more: object) -> MetricsSettings:
    return settings.parse_settings({"listen": listen, **more}, MetricsSettings, "site.toml")


def scrape(endpoint: Endpoint) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_nothing_listens_unless_it_is_asked_for() -> None:
    assert Endpoint(MetricsSettings(), lambda: ()).port is None


@pytest.mark.parametrize("listen", ["127.0.0.1:9464", "[::1]:9464", "localhost:9464", "127.8.9.1:1"])
def test_loopback_needs_no_leave(listen: str) -> None:
    assert wanted(listen).address[1] in (9464, 1)


@pytest.mark.parametrize("listen", ["0.0.0.0:9464", "10.1.2.3:9464", "[::]:9464"])
def test_an_address_that_others_reach_needs_leave_in_writing(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"allow_remote = true"):
        wanted(listen)
    assert wanted(listen, allow_remote=True).address[1] == 9464


@pytest.mark.parametrize("listen", ["9464", "127.0.0.1", "127.0.0.1:70000", "host.example:1", "::1:9464", "", ":1"])
def test_what_is_no_address_is_refused_with_an_example(listen: str) -> None:
    with pytest.raises(ConfigError, match=r'as in "127\.0\.0\.1:9464"'):
        wanted(listen)


def test_readings_come_out_as_prometheus_reads_them_beside_the_process_itself() -> None:
    phases = Phases()
    phases.add_stretch("hash", 1.5, cpu=1.0, bytes=42)

    def read() -> Iterator[Reading]:
        yield make_counter("konsil_rounds_total", "Rounds.", {"complete": 3, "failed": 1}, "outcome")
        yield make_gauge("konsil_term", "Term.", 7)
        yield make_gauge("konsil_empty", "Nothing.", {}, "experiment")
        yield from phase_readings(phases)

    endpoint = Endpoint(wanted("127.0.0.1:0"), read)
    try:
        found = scrape(endpoint)
    finally:
        endpoint.close()
    assert found["konsil_rounds_total", (("outcome", "complete"),)] == 3
    assert found["konsil_term", ()] == 7
    assert found["konsil_phase_seconds_total", (("phase", "hash"),)] == 1.5
    assert found["konsil_phase_bytes_total", (("phase", "hash"),)] == 42
    assert found["process_resident_memory_bytes", ()] > 1e6
    assert found["process_open_fds", ()] > 2
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", endpoint.port or 0), timeout=PATIENCE)


def test_a_port_in_use_is_told_and_the_service_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    first = Endpoint(wanted("127.0.0.1:0"), lambda: ())
    try:
        second = Endpoint(wanted(f"127.0.0.1:{first.port}"), lambda: ())
        assert second.port is None
        second.close()
        assert "the address cannot be taken" in capsys.readouterr().out
        assert scrape(first)
    finally:
        first.close()


def test_a_reading_that_fails_is_one_line_and_leaves_the_endpoint_up(capfd: pytest.CaptureFixture[str]) -> None:
    answers = iter([False, True])

    def read() -> Iterator[Reading]:
        if not next(answers):
            raise RuntimeError("what a defect knows")
        yield make_gauge("konsil_term", "Term.", 7)

    endpoint = Endpoint(wanted("127.0.0.1:0"), read)
    try:
        with pytest.raises(urllib.error.HTTPError, match="500"):
            scrape(endpoint)
        assert scrape(endpoint)["konsil_term", ()] == 7
        told = "".join(capfd.readouterr())
        assert "a scrape failed" in told
        assert "what a defect knows" not in told
    finally:
        endpoint.close()


def test_a_scraper_that_says_nothing_holds_nobody_but_other_scrapers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exposition._Handler.timeout == exposition.ANSWER_WITHIN
    monkeypatch.setattr("messages.ground.operating.exposition._Handler.timeout", 0.2)
    endpoint = Endpoint(wanted("127.0.0.1:0"), lambda: [make_gauge("konsil_term", "Term.", 7)])
    try:
        with socket.create_connection(("127.0.0.1", endpoint.port or 0), timeout=PATIENCE):
            assert scrape(endpoint)["konsil_term", ()] == 7
    finally:
        endpoint.close()
