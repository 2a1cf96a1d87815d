"""The konsil command as a person meets it: exit statuses, one clear line, one JSON object."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import storytelling
from brokers import PATIENCE

from messages import chain, codec

EXPERIMENT = """
schema = 1
id = "try"
sites = ["site-a", "site-b"]
[task]
kind = "segmentation"
channels = ["T1"]
regions = { WT = ["ED"] }
[data]
dataset = "glioma"
[net]
name = "UNet"
channels = [8, 16]
strides = [2]
[training]
patch = [16, 16, 16]
[rounds]
count = 2
"""


@pytest.fixture
def konsil(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Run the command in an empty home; returns the finished process."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        home = {
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path),
            "XDG_STATE_HOME": str(tmp_path / "state"),
        }
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("KONSIL", "XDG"))}
        return subprocess.run(
            [sys.executable, "-m", "deploy.cli", *arguments],
            capture_output=True,
            text=True,
            env=kept | home | {"COLUMNS": "200"} | more,
            timeout=PATIENCE,
            check=False,
        )

    return run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.toml"
    path.write_text(EXPERIMENT)
    return path


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[Path]:
    """A researcher whose broker does not listen."""
    with socket.socket() as bound:  # and kept: no other process may take the port meanwhile
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        path = tmp_path / "profile.toml"
        path.write_text(f'name = "dr-a"\nconsortium = "test"\n[broker]\nport = {port}\npassword = "x"\n')
        yield path


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The last line on standard error, which is konsil's own."""
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_help_lists_the_commands(konsil) -> None:  # type: ignore[no-untyped-def]
    done = konsil("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("experiment", "audit", "coordinator", "Exit status"))


def test_version_is_printed(konsil) -> None:  # type: ignore[no-untyped-def]
    done = konsil("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "konsil")


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["experiment", "nonsense"], ["experiment", "start"], ["audit", "verify"], ["--nonsense"]],
)
def test_a_wrong_command_line_ends_with_2(konsil, arguments: list[str]) -> None:  # type: ignore[no-untyped-def]
    assert konsil(*arguments).returncode == 2


@pytest.mark.parametrize("command", ["check", "start"])
def test_a_missing_file_is_named(konsil, tmp_path: Path, command: str) -> None:  # type: ignore[no-untyped-def]
    done = konsil("experiment", command, str(tmp_path / "none.toml"))
    assert done.returncode == 2
    assert "none.toml: cannot be read (No such file or directory)" in said(done)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("count = 2", "count = 2\nextra = 1", "key 'rounds.extra' is unknown"),
        ("count = 2", "count = 0", "rounds.count = 0"),
        ("count = 2", "", "key 'rounds.count' is missing"),
        ('name = "UNet"', 'name = "NoNet"', "net 'NoNet' does not exist. Known nets: "),
        ("strides = [2]", "strides = [2, 2]", "strides needs 1 numbers"),
        ("[16, 16, 16]", "[16, 16, 17]", "each edge must be a multiple of 2"),
        ("[task]", "[task", "is not valid TOML"),
    ],
)
def test_each_mistake_in_the_file_is_one_line(konsil, file: Path, old: str, new: str, words: str) -> None:  # type: ignore[no-untyped-def]
    file.write_text(EXPERIMENT.replace(old, new))
    done = konsil("experiment", "check", "--offline", str(file))
    assert done.returncode == 2
    assert said(done).startswith("konsil: ")
    assert words in said(done)


def test_a_good_file_is_checked_without_a_broker(konsil, file: Path) -> None:  # type: ignore[no-untyped-def]
    done = konsil("experiment", "check", str(file), "--json")
    assert done.returncode == 0
    found = json.loads(done.stdout)
    assert (found["valid"], found["asked"], found["experiment"]) == (True, False, "try")
    assert found["estimate"]["model_bytes"] == 4 * found["estimate"]["parameters"]


def test_a_broker_that_is_down_ends_with_3(konsil, profile: Path) -> None:  # type: ignore[no-untyped-def]
    done = konsil("audit", "replay", "try", "--from-broker", "--profile", str(profile))
    assert done.returncode == 3
    assert said(done).startswith("konsil: ")


def test_a_failure_is_one_json_object_too(konsil, profile: Path) -> None:  # type: ignore[no-untyped-def]
    done = konsil("experiment", "list", "--json", "--profile", str(profile))
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["exit_status"], error["kind"]) == (3, 3, "BrokerUnreachable")


def test_without_a_profile_the_reader_learns_where_it_belongs(konsil) -> None:  # type: ignore[no-untyped-def]
    done = konsil("experiment", "list")
    assert done.returncode == 2
    assert "there is no profile" in said(done)
    assert "--profile" in said(done)


def test_a_profile_is_found_by_the_environment_and_its_mistakes_are_named(konsil, profile: Path) -> None:  # type: ignore[no-untyped-def]
    profile.write_text('name = "Dr A"\n')
    done = konsil("experiment", "list", KONSIL_PROFILE=str(profile))
    assert done.returncode == 2
    assert "name = 'Dr A'" in said(done)
    assert "key 'consortium' is missing" in said(done)


def test_an_id_outside_the_grammar_is_refused_before_connecting(konsil, profile: Path) -> None:  # type: ignore[no-untyped-def]
    done = konsil("experiment", "watch", "Not An Id", "--profile", str(profile))
    assert done.returncode == 2
    assert "is no experiment's id" in said(done)


def _log(path: Path) -> None:
    previous = chain.ZERO
    entries = []
    for index in (1, 2, 3):
        body = codec.pack({"input": {}, "decisions": []})
        entry = chain.Entry(
            index, index, "try", float(index), "step", body, previous=previous, before=previous
        ).with_hash()
        previous = entry.hash
        entries.append(entry)
    chain.write_export(path, entries)


def test_a_good_log_verifies(konsil, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _log(tmp_path / "log")
    done = konsil("audit", "verify", str(tmp_path / "log"), "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["entries"] == {"try": 3}


def test_a_changed_byte_in_a_log_is_named(konsil, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "log"
    _log(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    done = konsil("audit", "verify", str(path))
    assert done.returncode == 1
    assert "entry 2" in said(done)


def test_a_file_that_is_no_log_ends_with_2(konsil, file: Path) -> None:  # type: ignore[no-untyped-def]
    done = konsil("audit", "verify", str(file))
    assert (done.returncode, "is not an exported event log" in said(done)) == (2, True)


def test_a_replay_as_json_names_the_file_each_rounds_contributors_and_its_model(konsil, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "log"
    chain.write_export(path, storytelling.complete().entries)
    done = konsil("audit", "replay", "try", str(path), "--json")
    answer = json.loads(done.stdout)
    assert (done.returncode, answer["file"]) == (0, storytelling.EXPERIMENT.as_plain())
    assert answer["rounds"]["1"]["contributors"] == dict.fromkeys(storytelling.SITES, storytelling.CASES.train)
    assert len(answer["rounds"]["1"]["model_digest"]) == 64


@pytest.mark.parametrize("wrong", [["experiment", "start"], ["site", "ledger", "--since", "yesterday"]])
def test_arguments_that_are_wrong_are_one_json_object_too(konsil, wrong: list[str]) -> None:  # type: ignore[no-untyped-def]
    done = konsil(*wrong, "--json")
    told = json.loads(done.stdout)["error"]
    assert (done.returncode, told["exit_status"], told["kind"]) == (2, 2, "RequestError")


def test_two_sources_at_once_are_refused(konsil, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = konsil("audit", "replay", "try", "--from-broker", "--journal", str(tmp_path))
    assert (done.returncode, "more than one source" in said(done)) == (2, True)


def test_a_journal_that_is_not_there_is_refused(konsil, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = konsil("audit", "export", "try", "--journal", str(tmp_path), "--out", str(tmp_path / "out"))
    assert (done.returncode, "there is no journal" in said(done)) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_defect_is_one_line_and_its_traceback_lies_in_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from deploy.cli import command as cli

    def broken(arguments: object) -> object:
        raise ZeroDivisionError("secret words")

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(cli, "build_parser", broken)
    assert cli.run_command(["experiment", "list"]) == 1
    told = capsys.readouterr().err
    assert "this is a defect" in told
    assert "secret words" not in told
    (log,) = (tmp_path / "konsil").glob("defect-*.log")
    assert "secret words" in log.read_text()


def test_an_interrupt_ends_with_130_and_no_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from deploy.cli import command as cli

    def interrupted(arguments: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_parser", interrupted)
    assert cli.run_command([]) == 130
    assert capsys.readouterr() == ("", "")
