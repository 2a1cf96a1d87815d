"""`konsil` wherever it is started: consoles of any encoding, outputs that are closed or full, readers that go."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from brokers import PATIENCE

ODD = os.fsdecode(b"/nowhere/\xff-caf\xc3\xa9.toml")
KONSIL = (sys.executable, "-m", "deploy.cli")


def run(*arguments: str, shell: str = '"$@"', **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command, within a line of the shell that may turn its output elsewhere."""
    command = ["bash", "-c", f"set -o pipefail; {shell}", "bash", *KONSIL, *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))}
    return subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False, env={**kept, **environment})


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"PYTHONIOENCODING": "utf-8:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
    ],
    ids=["ascii", "latin-1", "utf-8", "C"],
)
def test_a_name_of_any_bytes_is_told_on_a_console_of_any_encoding(environment: dict[str, str]) -> None:
    done = run("site", "preflight", "--config", ODD, **environment)
    assert done.returncode == 2
    assert b"cannot be read (No such file" in done.stderr
    assert b"defect" not in done.stderr

    told = run("site", "preflight", "--json", "--config", ODD, **environment)
    assert told.returncode == 2
    assert json.loads(told.stdout.decode("utf-8"))["error"]["kind"] == "ConfigError"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_descriptors_end_nothing(closed: str) -> None:
    assert run("--version", shell=f'"$@" {closed}').returncode == 0
    assert run("site", "status", "--config", ODD, shell=f'"$@" {closed}').returncode == 2


def test_a_reader_that_goes_is_no_failure() -> None:
    done = run("--help", shell='"$@" | head -1')
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_under_the_result_is_told_and_is_a_failure() -> None:
    done = run("--version", shell='"$@" >/dev/full')
    assert done.returncode == 1
    assert done.stderr == b"konsil: the result could not be written to standard output (No space left on device)\n"


def test_nothing_that_is_full_or_closed_hides_what_went_wrong() -> None:
    done = run("site", "status", "--config", ODD, shell='"$@" >/dev/full')
    assert done.returncode == 2
    assert b"cannot be read" in done.stderr
    assert run("site", "status", "--config", ODD, shell='"$@" 2>/dev/full').returncode == 2


DEFECT = """
import sys
from deploy.cli import command
from messages.ground import starting
starting.settle_process()
def fails(*_):
    raise ZeroDivisionError("caf\\udcc3\\u00e9")
command.build_parser = fails
sys.exit(command.run_command(sys.argv[1:]))
"""


@pytest.mark.parametrize("missing", ["home", "all"])
def test_a_defect_is_told_where_no_home_and_no_folder_takes_its_traceback(missing: str, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone" / "\n")
    code = DEFECT
    if missing == "all":  # no /tmp either: whoever runs this may write there
        code = "import tempfile\ntempfile.tempdir = '/dev/null'\n" + code
    environment = {"HOME": "/dev/null", "XDG_STATE_HOME": "/dev/null/state", "TMPDIR": gone}
    command = [sys.executable, "-c", code, "site", ODD]
    done = subprocess.run(
        command, capture_output=True, timeout=PATIENCE, check=False, env={**os.environ, **environment}, cwd=Path.cwd()
    )
    assert done.returncode == 1
    assert done.stderr.startswith(b"konsil: unexpected ZeroDivisionError; this is a defect: ")
    if missing == "all":
        assert b"Traceback" in done.stderr
    else:
        log = Path(done.stderr.split(b"see ")[1].strip().decode())
        assert "ZeroDivisionError" in log.read_text(encoding="utf-8")
        log.unlink()
