"""Agent and command on machines that lack something: a home, rights in the state folder, a whole secret."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nameless
import pytest
from brokers import PATIENCE


def run(*arguments: str, before: tuple[str, ...] = (), **environment: str) -> tuple[int, str]:
    """Exit status, and the last line on standard error that is not the log's."""
    done = subprocess.run(
        [*before, sys.executable, "-m", "deploy.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        env={**os.environ, **environment},
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("konsil: ")]
    return done.returncode, said[-1] if said else ""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site.toml, and its state folder."""
    path = tmp_path / "site.toml"
    path.write_text('schema = 1\n[site]\nname = "site-a"\nconsortium = "test"\nstate = "state"\n[broker]\nport = 1\n')
    (tmp_path / "state").mkdir(mode=0o700)
    return path


@pytest.mark.parametrize("content", [b"", b"short"])
def test_an_agent_whose_secret_is_not_whole_does_not_start(content: bytes, site: Path) -> None:
    secret = site.parent / "state" / "secret"
    secret.write_bytes(content)
    status, said = run("site", "run", "--config", str(site))
    assert (status, f"has {len(content)} bytes, not 32" in said) == (2, True)
    assert secret.read_bytes() == content


def test_an_agent_that_may_not_write_its_spool_says_whose_it_has_to_be(site: Path) -> None:
    nameless.need_nameless()
    assert run("site", "run", "--config", str(site), before=nameless.COMMAND)[0] == 3  # no broker: all else is right
    for path in (site.parent / "state").glob("spool.sqlite*"):
        path.chmod(0o400)
    status, said = run("site", "run", "--config", str(site), before=nameless.COMMAND)
    assert status == 2
    assert "spool.sqlite: the spool cannot be written" in said
    assert "agent's user" in said


def test_a_folder_of_the_state_that_cannot_be_made_is_named(site: Path) -> None:
    (site.parent / "state" / "logs").write_text("a file")
    status, said = run("site", "run", "--config", str(site))
    assert (status, "state/logs: cannot be written" in said) == (2, True)


def test_what_the_machine_refuses_is_a_line_and_no_defect() -> None:
    status, said = run("broker", "up", XDG_STATE_HOME="/dev/null/state")
    assert (status, said.startswith("konsil: /dev/null/state/konsil/broker: Not a directory. Check")) == (1, True)


def test_whoever_has_no_home_is_told_what_to_set() -> None:
    nameless.need_nameless()
    home = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    assert "XDG_STATE_HOME" not in home
    assert run("broker", "status", before=nameless.COMMAND) == (
        2,
        "konsil: this user has no home folder. Set XDG_STATE_HOME to a folder of its own",
    )
    status, said = run("experiment", "list", before=nameless.COMMAND)
    assert (status, "there is no profile" in said) == (2, True)
