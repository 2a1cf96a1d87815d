"""Word when nobody looks: each matter once, over restarts, by mail and by a program."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.command import run_command
from deploy.install import units
from deploy.notify.memory import ToldNotices, read_told, write_told
from deploy.notify.notices import OF_AGENT, Notice, list_coordinator_notices, list_site_notices
from deploy.notify.sending import send_notice
from messages.ground.errors import KonsilError, Unreachable, WorkFailed
from messages.ground.operating.notify import MailSettings, NotifySettings

NOW, FREE = 1_764_000_000.0, 2**40
STATUS: dict[str, Any] = {"broker": "connected", "paused": False, "log": None, "experiments": []}


def of_site(**changes: Any) -> dict[str, Notice]:
    given = {"free": FREE, "disk_below": 2**30, "certificate_ends": None, "now": NOW, **changes}
    status = given.pop("status", STATUS)
    return {one.key: one for one in list_site_notices(status, "site-a", **given)}


def asked(phase: str, reason: str | None = None) -> dict[str, Any]:
    return {"experiment": "exp-1", "researcher": "dr-a", "phase": phase, "reason": reason, "advice": "Ask them"}


def test_a_site_that_is_well_has_no_word() -> None:
    assert of_site(certificate_ends=NOW + 31 * 86400.0) == {}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"status": None}, "silent"),
        ({"status": {**STATUS, "broker": "refused"}}, "broker"),
        ({"status": {**STATUS, "paused": True}}, "paused"),
        ({"status": {**STATUS, "log": {"forked": True}}}, "forked"),
        ({"status": {**STATUS, "experiments": [asked("awaiting")]}}, "awaits exp-1"),
        ({"status": {**STATUS, "experiments": [asked("ended", "aborted")]}}, "ended exp-1"),
        ({"free": 2**29}, "disk"),
        ({"certificate_ends": NOW + 29.5 * 86400.0}, "certificate 30"),
        ({"certificate_ends": NOW + 6.5 * 86400.0}, "certificate 7"),
        ({"certificate_ends": NOW - 1.0}, "certificate 1"),
    ],
)
def test_what_a_sites_operator_should_know_has_its_word(changes: dict[str, Any], key: str) -> None:
    assert list(of_site(**changes)) == [key]


def test_a_consortiums_operator_hears_of_ends_pauses_absence_and_a_broken_journal() -> None:
    overview = {
        "free_bytes": FREE,
        "problem": "it holds up to entry 7",
        "phases": {"exp-1": "complete", "exp-2": "paused", "exp-3": "running"},
        "experiments": {"exp-2": "exp-2: paused (disk-full)"},
    }
    given = {"absent_after": 60.0, "disk_below": 1, "certificate_ends": None, "now": NOW}
    found = {one.key: one for one in list_coordinator_notices(overview, {"a": "absent", "b": "idle"}, **given)}
    assert list(found) == ["journal", "complete exp-1", "paused exp-2", "absent a"]
    assert (found["absent a"].after, found["complete exp-1"].past) == (60.0, True)


def test_each_matter_is_told_once_and_again_when_it_comes_back(tmp_path: Path) -> None:
    disk = Notice("disk", "the disk is nearly full", "")
    told = ToldNotices({}, set())
    assert told.choose_due([disk], NOW) == [disk]
    told.note_told(disk)
    write_told(tmp_path, told)
    told = read_told(tmp_path)
    assert told.choose_due([disk], NOW + 1) == []
    assert told.choose_due([], NOW + 2) == []
    assert told.choose_due([disk], NOW + 3) == [disk]


def test_what_has_to_last_is_told_when_it_has_and_not_where_it_was_interrupted() -> None:
    absent = Notice("absent a", "a is absent", "", after=100.0)
    told = ToldNotices({}, set())
    assert [bool(told.choose_due([absent], NOW + at)) for at in (0, 99, 101)] == [False, False, True]
    told.choose_due([], NOW + 102)
    assert told.choose_due([absent], NOW + 103) == []


def test_where_word_is_new_what_is_past_is_not_told_and_what_lasts_is(tmp_path: Path) -> None:
    over, disk = Notice("ended exp-1", "", "", past=True), Notice("disk", "", "")
    assert read_told(tmp_path).choose_due([over, disk], NOW) == [disk]


def test_what_cannot_be_looked_at_for_a_while_is_not_told_again() -> None:
    over, awaits, silent = (
        Notice("ended exp-1", "", "", past=True),
        Notice("awaits exp-2", "", ""),
        Notice("silent", "", ""),
    )
    told = ToldNotices({}, set(), new=True)
    assert told.choose_due([silent], NOW, OF_AGENT) == [silent]
    assert told.choose_due([over, awaits], NOW + 1) == [awaits]  # the first sight of what is past
    told.note_told(awaits)
    told.choose_due([silent], NOW + 2, OF_AGENT)
    assert told.choose_due([over, awaits], NOW + 3) == []


class MailServer(socketserver.StreamRequestHandler):
    """Takes messages as RFC 5321 has it, and refuses those to nobody@."""

    taken: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline().decode().strip():
            if line.upper().startswith("RCPT") and "nobody@" in line:
                self.wfile.write(b"550 no such mailbox\r\n")
            elif line.upper() == "DATA":
                self.wfile.write(b"354 go on\r\n")
                text = b""
                while not text.endswith(b"\r\n.\r\n"):
                    text += self.rfile.readline()
                self.taken.append(text.decode())
                self.wfile.write(b"250 taken\r\n")
            elif line.upper() == "QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 well\r\n")


@pytest.fixture
def mails() -> Iterator[tuple[int, list[str]]]:
    taken: list[str] = []
    kind = type("Here", (MailServer,), {"taken": taken})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1], taken
        server.shutdown()
        thread.join()


def by_mail(port: int, to: str = "it@hospital.example") -> NotifySettings:
    mail = MailSettings(host="127.0.0.1", port=port, tls="none", sender="konsil@hospital.example", to=(to,))
    return NotifySettings(mail=mail)


def test_a_word_comes_by_mail(mails: tuple[int, list[str]]) -> None:
    port, taken = mails
    send_notice(by_mail(port), Notice("disk", "the disk is nearly full", "1 GiB is free"))
    assert "Subject: Konsil: the disk is nearly full" in taken[0]
    assert "1 GiB is free" in taken[0]


def test_a_mail_server_that_refuses_or_is_away_is_named(mails: tuple[int, list[str]]) -> None:
    port, _ = mails
    with pytest.raises(KonsilError, match="mail"):
        send_notice(by_mail(port, "nobody@hospital.example"), Notice("a", "b", "c"))
    with pytest.raises(Unreachable, match="not reachable"):
        send_notice(by_mail(1), Notice("a", "b", "c"))


def test_a_password_is_not_sent_over_an_open_line() -> None:
    with pytest.raises(ValueError, match="can be read by anybody"):
        MailSettings(host="a", tls="none", user="u", sender="a@b.c", to=("a@b.c",))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A site whose agent does not run, and whose operator has a program for words."""
    program = tmp_path / "word"
    program.write_text(f'#!/bin/sh\necho "$KONSIL_NOTICE" >> {tmp_path}/words\ncat >> {tmp_path}/words\n')
    program.chmod(0o700)
    (tmp_path / "state").mkdir()
    path = tmp_path / "site.toml"
    path.write_text(
        f'schema = 1\n[site]\nname = "site-a"\nconsortium = "c"\nstate = "{tmp_path}/state"\n'
        f'[broker]\npassword = "x"\n[notify]\ncommand = ["{program}"]\ndisk_below = "8000000TiB"\n'
    )
    return path


def test_a_program_gets_each_word_once(config: Path) -> None:
    for _ in range(2):
        assert run_command(["site", "notify", "--config", str(config)]) == 0
    words = (config.parent / "words").read_text()
    assert words.splitlines()[:2] == ["disk", "the disk is nearly full"]
    assert words.count("nearly full") == 1


def test_a_program_that_fails_is_named_and_asked_again(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "word").write_text("#!/bin/sh\nexit 7\n")
    for _ in range(2):
        assert run_command(["site", "notify", "--config", str(config)]) == WorkFailed.exit_status
        assert "ended with status 7" in capsys.readouterr().err


def test_without_anybody_to_tell_it_says_so(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text().partition("[notify]")[0])
    assert run_command(["site", "notify", "--config", str(config)]) == 2
    assert "Add [notify]" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["site", "coordinator"])
def test_the_unit_of_the_timer_runs_in_the_services_sandbox(role: str) -> None:
    service = (Path(units.__file__).parents[1] / "systemd" / f"konsil-{role}.service").read_text()
    unit = units.notify_unit(service)
    assert f" {role} notify --config /etc/konsil/{role}.toml" in unit
    assert "Type=oneshot" in unit
    assert "ProtectSystem=strict" in unit
    assert "[Install]" not in unit
