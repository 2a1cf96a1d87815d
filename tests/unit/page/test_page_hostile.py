"""What outsiders, other pages and other people's words can make the live page do: nothing."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from httpx2 import InvalidURL
from page_rig import HOST, ORIGIN, Browser, Hospital, Ticking, job_of, open_browser, operator, researcher

from deploy.demo.experiments import glioma_demo
from deploy.page.gate import ORDER_SECONDS, PAUSE_AFTER, Gate, add_login, read_logins
from deploy.page.sheet import Section, Sheet
from deploy.page.web import COOKIE, POLICY, WebSettings
from messages.ground.errors import ConfigError, RequestError

EVIL = "<script>alert(1)</script>\u202e\u2066\x1b[2J\"'&lt;"
FUZZED = int(os.environ.get("KONSIL_FUZZ_PAGE", "300"))


def asked_for(purpose: str = "To confirm") -> dict[str, object]:
    return {**glioma_demo(3, 1, ["site-a"]), "id": "exp-1", "purpose": purpose, "approval": purpose}


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    made = Hospital(tmp_path, job_of(asked_for(EVIL)))
    made.look()
    yield made
    made.close()


@pytest.fixture
def clerk(hospital: Hospital) -> Browser:
    """A browser at a site's page that takes orders."""
    return open_browser(hospital.face, desk=hospital.desk)


def token_of(page: str, field: str = "token") -> str:
    return page.split(f'name="{field}" value="', 1)[1].split('"', 1)[0]


def propose(clerk: Browser, **changes: str) -> tuple[dict[str, str], str]:
    """The first click of `approve`, and what comes of it."""
    page = clerk.get("/").text
    order = {"do": "approve", "experiment": "exp-1", "digest": token_of(page, "digest"), "token": token_of(page)}
    return order, clerk.post("/order", {**order, **changes}).text


def test_an_order_takes_two_clicks_and_is_given_once_with_the_login(hospital: Hospital, clerk: Browser) -> None:
    order, asked = propose(clerk)
    assert hospital.ordered == []
    again = {"order": token_of(asked, "order"), "token": order["token"]}
    assert clerk.post("/order/confirm", again).status_code == 200
    assert hospital.ordered == [{"do": "approve", "by": "dr-a", "experiment": "exp-1"}]
    assert clerk.post("/order/confirm", again).status_code == 400
    assert len(hospital.ordered) == 1


@pytest.mark.parametrize("what", ["decline", "pause", "drain"])
def test_each_order_reaches_the_agent(hospital: Hospital, clerk: Browser, what: str) -> None:
    order, asked = propose(clerk, do=what)
    clerk.post("/order/confirm", {"order": token_of(asked, "order"), "token": order["token"]})
    assert [one["do"] for one in hospital.ordered] == [what]


@pytest.mark.parametrize(
    "changes",
    [
        {"token": ""},
        {"token": "x" * 43},
        {"do": "shutdown"},
        {"do": "status"},
        {"experiment": "exp-2"},
        {"digest": "0" * 64},
        {"experiment": EVIL},
    ],
)
def test_an_order_that_is_none_is_not_even_put_to_the_second_click(
    hospital: Hospital, clerk: Browser, changes: dict[str, str]
) -> None:
    _order, said = propose(clerk, **changes)
    assert 'name="order"' not in said
    assert hospital.ordered == []


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "", f"https://{HOST}", "http://127.0.0.1:9999", None]
)
def test_an_order_from_another_page_is_not_heard(hospital: Hospital, clerk: Browser, origin: str | None) -> None:
    order, _asked = propose(clerk)
    headers = {"host": HOST} | ({} if origin is None else {"origin": origin})
    assert clerk.client.post("/order", data=order, headers=headers).status_code == 403
    assert hospital.ordered == []


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8470", "127.0.0.1", f"{HOST}.evil.example", "[::1]"])
def test_a_forged_host_sees_nothing(clerk: Browser, host: str) -> None:
    answer = clerk.client.get("/", headers={"host": host})
    assert (answer.status_code, "exp-1" in answer.text) == (421, False)


def test_a_link_lets_in_once(hospital: Hospital) -> None:
    first = open_browser(hospital.face, enter=False)
    link = first.web._gate.link
    assert first.get("/").status_code == 403
    assert first.get(f"/open/{link}").status_code == 200
    assert first.get("/").status_code == 200
    first.client.cookies.clear()
    assert first.get(f"/open/{link}").status_code == 403
    assert first.get("/").status_code == 403


def test_the_cookie_is_for_this_page_alone_and_no_script_reads_it(hospital: Hospital) -> None:
    browser = open_browser(hospital.face, enter=False)
    said = browser.get(f"/open/{browser.web._gate.link}").headers["set-cookie"].lower()
    assert "httponly" in said
    assert "samesite=strict" in said


def test_without_being_let_in_nothing_is_told_at_any_address(hospital: Hospital) -> None:
    browser = open_browser(hospital.face, desk=hospital.desk, enter=False)
    for path in ("/", "/request/exp-1", "/stream/", "/file/report/try", "/nowhere"):
        answer = browser.get(path)
        assert answer.status_code == 403
        assert "exp-1" not in answer.text
    assert browser.post("/order", {"do": "drain"}).status_code == 403
    assert hospital.ordered == []


def test_a_page_that_only_shows_takes_no_order(hospital: Hospital) -> None:
    browser = open_browser(hospital.face)
    assert "<form" not in browser.get("/").text
    assert browser.post("/order", {"do": "drain", "token": ""}).status_code == 403
    assert hospital.ordered == []


def test_an_order_that_waited_too_long_for_its_second_click_is_void(hospital: Hospital) -> None:
    clock = Ticking()
    clerk = open_browser(hospital.face, clock, hospital.desk)
    order, asked = propose(clerk)
    clock.now += ORDER_SECONDS + 1
    clerk.post("/order/confirm", {"order": token_of(asked, "order"), "token": order["token"]})
    assert hospital.ordered == []


def test_another_browser_cannot_give_the_second_click(hospital: Hospital, clerk: Browser) -> None:
    _order, asked = propose(clerk)
    other = open_browser(hospital.face, desk=hospital.desk)
    taken = {"order": token_of(asked, "order"), "token": token_of(other.get("/").text)}
    assert other.post("/order/confirm", taken).status_code == 400
    assert hospital.ordered == []


def test_others_words_stay_words(hospital: Hospital, clerk: Browser) -> None:
    for path in ("/", "/request/exp-1"):
        page = clerk.get(path).text
        assert "<script>alert" not in page
        assert not any(character in page for character in "\u202e\u2066\x1b")
        assert "&lt;script&gt;alert" in page


def test_every_text_of_a_sheet_is_tamed() -> None:
    class Evil:
        name = EVIL

        def find_sheet(self, path: str, chosen: object, now: float) -> Sheet:
            return Sheet(EVIL, EVIL, (Section("Words", "said \u202e"),), now, (EVIL,), (("/", EVIL),))

        def find_file(self, path: str) -> None:
            return None

    page = open_browser(Evil()).get("/").text
    assert "<script>alert" not in page
    assert not any(character in page for character in "\u202e\u2066\x1b")


def test_nothing_inline_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    face, journal = operator(tmp_path)
    face._journal.look_once()
    try:
        for browser, path in ((open_browser(researcher()), "/experiment/try"), (open_browser(face), "/")):
            answer = browser.get(path)
            assert answer.headers["content-security-policy"] == POLICY
            assert "unsafe" not in POLICY
            for told in (" style=", "<style", " onclick", "javascript:", 'src="http', 'href="http'):
                assert told not in answer.text
            assert answer.text.count("<script") == 1
    finally:
        journal.close()


def test_fuzzed_requests_bring_no_order_and_no_fault(hospital: Hospital, clerk: Browser) -> None:
    dice = random.Random(17)
    page = clerk.get("/").text
    token, digest = token_of(page), token_of(page, "digest")
    words = [
        "", "/", "..", "%2e%2e", "order", "confirm", "open", "request", "exp-1", "stream", "static", "file", "report",
        "%00", "\u202e", EVIL, "a" * 5000, "?id=", "id=x&id=y", "login", token[:10], "page.css", "*", ";", "compare",
    ]  # fmt: skip
    methods = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "PROPFIND"]
    fields = ["do", "token", "order", "experiment", "digest", "name", "password", ""]
    values = [
        "approve",
        "drain",
        "pause",
        token[:-1],
        digest,
        EVIL,
        "",
        "exp-1",
        "x" * 9000,
        "\udcff".encode("utf-8", "replace").decode(),
    ]
    for _ in range(FUZZED):
        path = "/" + "/".join(dice.choice(words) for _ in range(dice.randint(0, 4)))
        path = path.replace("/stream", "/streams", 1) if path.startswith("/stream") else path  # that has no end
        headers = {"host": dice.choice([HOST, HOST, HOST, "evil.example", ""])}
        if dice.random() < 0.7:
            headers["origin"] = dice.choice([ORIGIN, ORIGIN, "null", "http://evil.example"])
        if dice.random() < 0.2:
            headers["cookie"] = f"{COOKIE}={dice.choice(['x', 'é'.encode().decode('latin-1'), '=;=', 'a' * 3000])}"
        form = "&".join(f"{dice.choice(fields)}={dice.choice(values)}" for _ in range(dice.randint(0, 12)))
        body = dice.choice([form.encode("utf-8", "replace"), dice.randbytes(dice.randint(0, 200))])
        try:
            answer = clerk.client.request(
                dice.choice(methods), quote(path, safe="/%?=&;*"), content=body,
                headers={key: value.encode("utf-8", "replace") for key, value in headers.items()},
            )  # fmt: skip
        except (ValueError, TypeError, InvalidURL):  # the client itself refuses to write such a request
            continue
        assert answer.status_code < 500, path
    assert hospital.ordered == []


def test_a_password_is_asked_for_where_there_are_logins_and_guessing_is_slowed(tmp_path: Path) -> None:
    file, clock = tmp_path / "logins", Ticking(0.0)
    add_login(file, "it", "correct horse battery")
    assert "correct" not in file.read_text()
    gate = Gate("nobody", read_logins(file), clock)
    assert gate.link is None
    assert gate.try_password("it", "wrong") is None
    assert gate.try_password("nobody", "correct horse battery") is None
    assert gate.find_visit(gate.try_password("it", "correct horse battery")).login == "it"  # type: ignore[union-attr]
    for _ in range(PAUSE_AFTER):
        gate.try_password("it", "wrong")
    assert gate.try_password("it", "correct horse battery") is None
    clock.now += 60.0
    assert gate.try_password("it", "correct horse battery") is not None


def test_a_file_of_logins_that_others_may_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "logins"
    add_login(file, "it", "correct horse battery")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        read_logins(file)
    file.chmod(0o600)
    file.write_text("it:secret\n")
    with pytest.raises(ConfigError, match="line 1 is no login"):
        read_logins(file)
    with pytest.raises(RequestError, match="too short"):
        add_login(tmp_path / "other", "it", "short")


def test_guesses_at_once_are_slowed_as_those_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, checked = tmp_path / "logins", []
    add_login(file, "it", "correct horse battery")
    gate = Gate("nobody", read_logins(file), Ticking(0.0))
    together = threading.Barrier(4 * PAUSE_AFTER)

    def check(line: str, password: str) -> bool:
        checked.append(password)
        time.sleep(0.01)  # as scrypt lets others run
        return False

    monkeypatch.setattr("deploy.page.gate.check_password", check)

    def guess() -> None:
        together.wait()
        gate.try_password("it", "wrong")

    threads = [threading.Thread(target=guess) for _ in range(together.parties)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(checked) == PAUSE_AFTER


def test_two_pages_of_one_machine_have_a_cookie_each() -> None:
    hosts = frozenset({HOST})
    assert WebSettings(hosts, port=8470).cookie != WebSettings(hosts, port=8471).cookie
