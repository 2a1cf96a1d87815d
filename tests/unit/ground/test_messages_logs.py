"""A service's log, from a process of its own: JSON, bound to what it concerns, without the words of an exception."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from typing import Any

from brokers import PATIENCE

from messages.ground.errors import ConfigError
from messages.ground.logs import describe_error

BEGIN = """
import logging, sys, threading, warnings
import structlog
from messages.ground import logs
from messages.ground.errors import ConfigError
logs.configure_log("site")
log = structlog.get_logger()
"""


def lines(program: str, status: int = 0) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_says_who_and_what_it_concerns() -> None:
    first, second, third = lines(
        """
log.info("before")
logs.identify_service(site="site-a")
with logs.bind_experiment("try", 3):
    log.warning("within", level_of="water")
with logs.bind_experiment("none", 0):
    log.info("after")
"""
    )
    assert (first["service"], first.get("site")) == ("site", None)
    assert (second["site"], second["experiment"], second["round"], second["level"]) == ("site-a", "try", 3, "warning")
    assert "experiment" not in third
    assert "round" not in third


def test_an_exception_is_told_by_type_and_place_and_never_by_its_message() -> None:
    (line,) = lines(
        """
def read():
    try:
        {}["BraTS-GLI-00042-000"]
    except KeyError as error:
        raise ValueError("case BraTS-GLI-00042-000") from error
try:
    read()
except ValueError:
    log.exception("an event is set aside")
"""
    )
    assert line["exception"] == "ValueError from KeyError"
    assert line["at"][-1].endswith(" read")
    assert "BraTS" not in json.dumps(line)


def test_what_ends_a_process_or_a_thread_is_a_line_too() -> None:
    program = """
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise RuntimeError("/data/patient")
"""
    in_thread, at_end = lines(program, status=1)
    assert in_thread["exception"] == "ZeroDivisionError"
    assert at_end["exception"] == "RuntimeError"
    assert "patient" not in json.dumps([in_thread, at_end])


def test_libraries_and_warnings_speak_json_too_and_not_the_words_of_an_exception() -> None:
    program = """
logging.getLogger("library").error("hello")
warnings.warn("old", UserWarning)
try:
    raise ValueError("/data/patient")
except ValueError:
    logging.getLogger("library").exception("failed")
"""
    library, warning, failed = lines(program)
    assert (library["event"], library["logger"], library["service"]) == ("hello", "library", "site")
    assert "old" in warning["event"]
    assert failed["exception"] == "ValueError"
    assert "patient" not in json.dumps(failed)


def test_the_last_word_is_plain_by_hand_and_a_line_in_the_systems_journal() -> None:
    program = BEGIN + 'sys.exit(logs.last_word(ConfigError("is wrong", where="site.toml")))'
    by_hand = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert by_hand.stderr == f"konsil: {ConfigError('is wrong', where='site.toml')}\n"
    receive, send = os.pipe()
    status = os.fstat(send)
    subprocess.run(
        [sys.executable, "-c", program],
        stderr=send, timeout=PATIENCE, check=False,
        env={**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
    )  # fmt: skip
    os.close(send)
    with os.fdopen(receive) as journal:
        line = json.loads(journal.read())
    assert (line["event"], line["level"]) == ("ended", "critical")
    assert "is wrong" in line["error"]


def test_a_terminal_gets_lines_for_a_person() -> None:
    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", BEGIN + 'log.info("hello", site="site-a")'], stderr=theirs)
    os.close(theirs)
    said = bytearray()

    def read() -> None:
        while True:
            try:
                more = os.read(ours, 4096)
            except OSError:  # the terminal's other end is closed (EIO)
                return
            if not more:
                return
            said.extend(more)

    reader = threading.Thread(target=read)
    reader.start()
    assert child.wait(PATIENCE) == 0
    reader.join(PATIENCE)
    os.close(ours)
    assert b"hello" in said
    assert b"site-a" in said
    assert not said.lstrip().startswith(b"{")


def test_a_cause_without_end_is_cut() -> None:
    error: Exception = ValueError()
    for _ in range(50):
        try:
            raise ValueError from error
        except ValueError as next_one:
            error = next_one
    assert describe_error(error)["exception"].count("ValueError") == 8
