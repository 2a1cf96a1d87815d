"""A shell asks the command itself how a line goes on; only the part that is asked for is imported."""

from __future__ import annotations

import pytest

from deploy.cli.command import run_command


def complete(line: str, shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("_KONSIL_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    run_command([])
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("konsil exp", ["experiment"]),
        ("konsil experiment wa", ["watch"]),
        ("konsil experiment export x --ten", ["--tensorboard"]),
        ("konsil audit ver", ["verify", "verifier"]),
    ],
)
def test_a_line_goes_on_with_commands_and_options(
    line: str, words: list[str], shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    told = complete(line, shell, monkeypatch, capsys)
    assert all(word in told for word in words)
    assert "provision" not in told


def test_the_script_for_a_shell_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert run_command(["--show-completion", "bash"]) == 0
    assert "_KONSIL_COMPLETE=complete_bash" in capsys.readouterr().out
