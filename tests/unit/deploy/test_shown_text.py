"""What others say is shown, and never obeyed: no escape code and no forged line of theirs reaches a terminal."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import structlog
from coordinator_kit import plain, received
from hypothesis import given
from hypothesis import strategies as st

from coordinator.core import decisions as d
from coordinator.core.machine import decide
from coordinator.record.journal import STEP, Journal, open_readonly
from coordinator.record.recovery import step_body
from deploy.cli.live import draw_picture
from deploy.cli.replay import replay_log
from deploy.console import emit_json, note_line, one_line, print_table, say_line
from deploy.story.story import ExperimentStory
from messages import kinds
from messages.ground import logs
from messages.ground.errors import RequestError
from messages.ground.naming import NO_EXPERIMENT
from messages.ground.shown import escape_controls, escape_json

NASTY = "\x1b]0;pwned\x07\x1b[2J\x9b31m\u202egnp\x7f"


def is_harmless(shown: str) -> bool:
    return all(one.isprintable() or one == "\n" for one in shown)


@given(st.text())
def test_an_escaped_text_is_printable_and_what_is_printable_stays(text: str) -> None:
    assert escape_controls(text).isprintable()
    assert escape_controls(text) == text or not text.isprintable()
    assert json.loads(escape_json(json.dumps(text, ensure_ascii=False))) == text


def test_whatever_the_command_prints_holds_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    say_line(f"a {NASTY}")
    note_line(f"b {NASTY}")
    note_line(one_line(RequestError("wrong", where=NASTY)))
    print_table(["key"], [[NASTY], ["[red]x"]])
    emit_json({NASTY: NASTY})
    told = capsys.readouterr()
    assert is_harmless(told.out + told.err)
    assert "\\x1b]0;pwned" in told.out
    assert json.loads(told.out.splitlines()[-1]) == {NASTY: NASTY}


def test_keys_of_an_invalid_file_are_shown_and_not_obeyed_in_a_replay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = f"{NASTY}\n    2  2026-01-01 00:00:00Z  coordinator: experiment complete"
    task = {"kind": "segmentation", "channels": ["T1"], "regions": {forged: ["ED"]}}
    start = received("experiment-start", kinds.ExperimentStart(experiment=plain(task=task)), "dr-a", 1.0)
    (refused,) = [one for one in decide(None, start) if isinstance(one, d.StartRefused)]
    assert is_harmless(refused.mistakes)
    older = refused.model_copy(update={"mistakes": f"task.regions.{forged}: string should match"})
    journal = Journal(tmp_path)
    for one in (refused, older):
        settled = d.Settled(event=start.event.id, sender="dr-a")
        journal.append_entry(NO_EXPERIMENT, STEP, step_body(start, (one, settled)), time=1.0)
    journal.close()
    verdict = replay_log(open_readonly(tmp_path), None, say_line)
    said = capsys.readouterr().out
    assert verdict.agrees
    assert "pwned" in said
    assert is_harmless(said)
    assert not [line for line in said.splitlines() if line.strip().startswith("2  2026")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_picture_and_a_log_in_a_terminal_hold_none_of_it_either(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    drawn = io.StringIO()
    Console(file=drawn, width=200).print(draw_picture(ExperimentStory(id=NASTY), 0.0))
    assert "pwned" in drawn.getvalue()
    assert is_harmless(drawn.getvalue())
    before, screen = structlog.get_config(), Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    try:
        logs.configure_log("coordinator")
        structlog.get_logger().warning("broker", detail=NASTY)
    finally:
        monkeypatch.undo()
        structlog.configure(**before)
    assert "pwned" in screen.getvalue()
    assert "]0;pwned\x07" not in screen.getvalue()
    assert "\u202e" not in screen.getvalue()
