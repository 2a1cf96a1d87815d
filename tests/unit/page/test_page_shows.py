"""What each role's page shows, and that it never looks alive when what it tells of is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import PARTIES, PATIENCE, consortium_definitions
from page_rig import Hospital, Ticking, job_of, open_browser, operator, researcher

from deploy.cli.command import run_command
from deploy.demo.experiments import glioma_demo
from deploy.page.charts import MOST_LINES, MOST_POINTS, move_styles, pick_lines, thin_out
from deploy.page.consortium import ConsortiumFollower
from deploy.page.sheet import STALE_AFTER, Section, Sheet
from deploy.page.web import LOOK_EVERY
from deploy.session.connection import BrokerSession
from deploy.session.profile import Profile
from messages import kinds
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author

FILE = {**glioma_demo(3, 1, ["site-a"]), "id": "exp-1", "purpose": "To confirm"}


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    made = Hospital(tmp_path, job_of(FILE))
    made.look()
    yield made
    made.close()


def test_a_page_is_grey_twenty_seconds_after_the_last_news_and_says_of_when_it_is() -> None:
    sheet = Sheet("t", "l", (), 1_764_000_000.0)
    assert sheet.is_fresh(1_764_000_019.0)
    assert not sheet.is_fresh(1_764_000_000.0 + STALE_AFTER)
    assert sheet.tell_age(1_764_000_030.0) == "as of 16:00:00Z"
    assert not Sheet("t", "l", (), None).is_fresh(0.0)


def test_a_researchers_page_without_news_is_grey_though_the_server_answers() -> None:
    clock = Ticking(1_764_000_000.0)
    browser = open_browser(researcher(clock=clock), clock)
    assert '<body class="fresh">' in browser.get("/experiment/try").text
    clock.now += STALE_AFTER + 1
    page = browser.get("/experiment/try").text
    assert '<body class="stale">' in page
    assert "as of 16:00:00Z" in page


def test_a_sites_page_ages_from_when_its_agent_stops_and_says_why(hospital: Hospital) -> None:
    clock = Ticking()
    browser = open_browser(hospital.face, clock)
    assert '<body class="fresh">' in browser.get("/").text
    hospital.stop_agent()
    clock.now += STALE_AFTER + LOOK_EVERY
    hospital.look()
    page = browser.get("/").text
    assert '<body class="stale">' in page
    assert "The agent does not answer" in page
    assert "when it was last heard: idle" in page


def test_an_operators_page_ages_from_when_the_coordinator_lets_go_of_its_journal(tmp_path: Path) -> None:
    face, journal = operator(tmp_path)
    clock = Ticking()
    face._journal.look_once()
    browser = open_browser(face, clock)
    assert '<body class="fresh">' in browser.get("/").text
    journal.close()
    clock.now += STALE_AFTER + LOOK_EVERY
    face._journal.look_once()
    page = browser.get("/").text
    assert '<body class="stale">' in page
    assert "No coordinator works on this journal" in page


def test_without_script_a_page_loads_itself_again_and_the_reader_misses_nothing() -> None:
    page = open_browser(researcher()).get("/experiment/try").text
    assert '<noscript><meta http-equiv="refresh"' in page
    for told in ("site-a", "1 no-label", "complete", "Test scores", "<svg", "Events", "Report (an HTML file)"):
        assert told in page


def test_a_researcher_lists_and_compares_experiments_and_takes_their_report() -> None:
    browser = open_browser(researcher())
    assert 'href="/experiment/try"' in browser.get("/").text
    assert "Each experiment" in browser.get("/compare?id=try&id=second").text
    report = browser.get("/file/report/try")
    assert report.headers["content-disposition"].startswith("attachment")
    assert browser.get("/experiment/none").status_code == 404


def test_an_operator_sees_an_admitted_site_that_never_wrote(tmp_path: Path) -> None:
    face, journal = operator(tmp_path)
    face._journal.look_once()
    page = open_browser(face).get("/").text
    journal.close()
    assert "site-never</th><td" in page
    assert ">never<" in page


def test_an_operators_page_does_not_call_calm_what_it_cannot_see(tmp_path: Path) -> None:
    face, journal = operator(tmp_path)
    face._journal.look_once()
    page = open_browser(face).get("/").text
    journal.close()
    assert "Of sites and broker nothing is known" in page
    assert "No alarm is open" not in page


def test_a_site_shows_what_awaits_approval_as_its_command_says_it(hospital: Hospital) -> None:
    browser = open_browser(hospital.face)
    page = browser.get("/").text
    for told in ("exp-1", "To confirm", "read out", "number 1 of [[policy.allow]] allows it", "by password"):
        assert told in page
    assert "The whole file" in browser.get("/request/exp-1").text


def test_a_stream_tells_a_change_and_a_sign_of_life() -> None:
    """Read by hand: the test client waits for a stream's end."""
    import asyncio

    face = researcher()
    browser = open_browser(face)
    visit = next(iter(browser.web._gate._visits.values()))

    async def read() -> list[str]:
        stream = browser.web._tell_changes("/", (), visit, "/stream/")
        first = await anext(stream)
        face._follower.stories.pop("second")
        browser.web._drawn.clear()
        told = [first, await anext(stream)]
        await stream.aclose()  # type: ignore[attr-defined]
        return told

    pulse, sheet = asyncio.run(read())
    assert json.loads(pulse.split("data: ", 1)[1])["fresh"] is True
    assert sheet.startswith("event: sheet")
    assert "second" not in json.loads(sheet.split("data: ", 1)[1])


def live_follower(role: str, clock: Ticking) -> tuple[ConsortiumFollower, MemoryBus]:
    broker = MemoryBroker(consortium_definitions(PARTIES))
    name = {"researcher": "dr-a", "viewer": "viewer", "auditor": "auditor"}[role]
    session = BrokerSession(MemoryBus(broker, name), Profile(name=name, role=role, consortium="test"))  # type: ignore[arg-type]
    follower = ConsortiumFollower(session, clock)
    follower.listen_from_start()
    return follower, MemoryBus(broker, "coordinator")


@pytest.mark.parametrize("role", ["researcher", "viewer"])
def test_a_sign_of_the_coordinator_is_news_and_tells_how_far_apart_the_clocks_are(role: str) -> None:
    clock = Ticking(1_764_000_000.0)
    follower, bus = live_follower(role, clock)
    author = Author("test", "coordinator", incarnation=1, term=1)
    event = author.write_event("alive", kinds.Alive(state="idle"), time=clock.now + 3600.0, attempt="1")
    bus.publish(event.key, event.raw)
    assert follower.hear_next(5.0)
    assert follower.heard_at == clock.now
    assert follower.clock_ahead == pytest.approx(3600.0)


def test_an_hour_between_the_clocks_is_one_line() -> None:
    face = researcher()
    face._follower.clock_ahead = 3600.0
    page = open_browser(face).get("/").text
    assert "The coordinator&#39;s clock is 1:00:00 ahead of this machine&#39;s" in page


def test_many_sites_and_rounds_stay_few_lines_and_points() -> None:
    known = {f"site-{number:03}": [(1, 0.5), (2, number / 100)] for number in range(100)}
    assert len(pick_lines(known)) <= MOST_LINES
    assert {"site-000", "site-099"} <= {one.label for one in pick_lines(known)}
    thin = thin_out([(number, 0.0) for number in range(500)])
    assert (len(thin), thin[0][0], thin[-1][0]) == (MOST_POINTS, 0, 499)


def test_a_chart_keeps_its_looks_without_a_style() -> None:
    drawn = '<path style="fill: none; stroke: #fff"/><text style="font: 9px sans-serif">x</text>'
    svg = f"<svg ><style>*{{}}</style>{drawn}</svg>"
    made = move_styles(svg)
    assert "style" not in made
    assert 'fill="none" stroke="#fff"' in made
    assert 'font-size="9px" font-family="sans-serif"' in made


def test_sections_without_content_are_left_out() -> None:
    shown = Sheet("t", "l", (Section("One", ""), Section("The Other", "x")), None).shown_sections()
    assert [one.id for one in shown] == ["the-other"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--listen", "0.0.0.0"], "other machines could read this page"),
        (["--listen", "here"], "is no IP address"),
        (["--cert", "c.pem"], "a certificate and its key come together"),
        (["--add-login", "it"], "no file takes the login"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    hospital: Hospital, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    assert run_command(["site", "page", "--config", str(tmp_path / "site.toml"), "--port", "0", *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.strip().splitlines()) == 1


def test_a_port_that_is_taken_is_one_line(
    hospital: Hospital, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run_command(["site", "page", "--config", str(tmp_path / "site.toml"), "--port", str(port)]) == 2
    assert f"127.0.0.1:{port}: cannot be listened on" in capsys.readouterr().err


def test_the_coordinators_own_profile_opens_no_researchers_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "profile.toml"
    file.write_text('name = "coordinator"\nrole = "coordinator"\nconsortium = "c"\n[broker]\npassword = "x"\n')
    assert run_command(["page", "--profile", str(file), "--port", "0"]) == 2
    assert "--coordinator coordinator.toml" in capsys.readouterr().err


def test_a_stream_ends_when_its_visit_does() -> None:
    import asyncio

    clock = Ticking()
    browser = open_browser(researcher(clock=clock), clock)
    visit = next(iter(browser.web._gate._visits.values()))

    async def read() -> list[str]:
        stream = browser.web._tell_changes("/", (), visit, "/stream/")
        told = [await anext(stream)]
        clock.now = visit.until
        return told + [one async for one in stream]

    assert len(asyncio.run(asyncio.wait_for(read(), PATIENCE))) == 1


def test_a_clock_that_was_set_back_makes_nothing_fresh() -> None:
    sheet = Sheet("t", "l", (), heard_at=10_000.0)
    assert sheet.is_fresh(10_001.0)
    assert not sheet.is_fresh(6_400.0)


def test_orders_that_cannot_be_read_are_told(hospital: Hospital) -> None:
    hospital.face._ordered.trouble = "no such table"
    assert "no such table" in open_browser(hospital.face).get("/").text
