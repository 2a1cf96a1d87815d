"""Installing under systemd, as far as it goes without one: releases, unit texts, templates, refusals.

What only a real systemd can show is in tests/chaos/test_systemd_nspawn.py.
"""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path

import pytest
from places import ROOT

from coordinator.config import CoordinatorConfig
from deploy.install import machine, units
from deploy.install.release import MARK, Releases, ReleaseSource
from messages.ground import settings
from messages.ground.errors import ConfigError, RequestError, WorkFailed
from site_agent.config import SiteConfig

UNITS = ROOT / "deploy" / "systemd"


def a_release(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("")
    (folder / MARK).write_text("")
    return folder


def a_source(folder: Path) -> ReleaseSource:
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "konsil.py"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / "messages").mkdir()
    (folder / "messages" / "a.py").write_text("a = 1\n")
    return ReleaseSource(folder, "cpu")


def test_switching_remembers_the_release_before_and_switching_back_swaps_the_two(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    first, second = a_release(tmp_path, "1-a"), a_release(tmp_path, "2-b")
    assert (releases.current, releases.previous) == (None, None)
    releases.switch_to(first)
    assert (releases.current, releases.previous) == (first, None)
    releases.switch_to(second)
    releases.switch_to(second)
    assert (releases.current, releases.previous) == (second, first)
    releases.switch_to(first)
    assert (releases.current, releases.previous) == (first, second)


def test_pruning_leaves_the_current_and_the_previous_release_and_what_is_no_release(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    for name in ("1-a", "2-b", "3-c"):
        releases.switch_to(a_release(tmp_path, name))
    (tmp_path / "notes").mkdir()
    releases.prune_releases()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-b", "3-c", "current", "notes", "previous"]


def test_the_same_sources_are_the_same_release_and_any_change_is_another(tmp_path: Path) -> None:
    source = a_source(tmp_path / "source")
    name = source.name
    (tmp_path / "source" / "messages" / "__pycache__").mkdir()
    (tmp_path / "source" / "messages" / "__pycache__" / "a.pyc").write_bytes(b"0")
    assert source.name == name
    assert ReleaseSource(source.folder, "cuda").name != name
    (tmp_path / "source" / "messages" / "a.py").write_text("a = 2\n")
    assert source.name != name
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert name.startswith(f"{version}-")


def test_a_release_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    source = a_source(tmp_path / "source")
    there = a_release(tmp_path / "opt", source.name)
    assert Releases(tmp_path / "opt").install_release(source) == there


def test_torch_is_asked_for_in_the_pinned_version_and_cuda_takes_no_local_cpu_build(tmp_path: Path) -> None:
    source = a_source(tmp_path / "source")
    pinned = source.torch_requirement()
    assert pinned in (ROOT / "constraints.txt").read_text().splitlines()
    assert ReleaseSource(source.folder, "cuda").torch_requirement() == pinned.replace("==", "===")


def test_without_network_nothing_that_pip_is_configured_with_is_asked(tmp_path: Path) -> None:
    source = ReleaseSource(tmp_path, "cpu", "https://index.example.org", tmp_path / "wheels")
    assert source.pip_options() == ["--no-index", "--find-links", str(tmp_path / "wheels")]
    assert source.pip_environment()["PIP_NO_INDEX"] == "1"


def test_the_preflights_unit_has_the_services_user_sandbox_and_credentials_and_runs_once() -> None:
    service = _parsed((UNITS / "konsil-site.service").read_text())
    preflight = _parsed(units.preflight_unit((UNITS / "konsil-site.service").read_text()))
    kept = dict(service["Service"])
    made = dict(preflight["Service"])
    assert made.pop("Type") == ["oneshot"]
    assert made.pop("TimeoutStartSec") == ["900"]
    assert made.pop("ExecStart") == [
        "/opt/konsil/current/bin/konsil site preflight --config /etc/konsil/site.toml",
    ]
    for key in (
        "Type",
        "NotifyAccess",
        "ExecStart",
        "Restart",
        "RestartPreventExitStatus",
        "RestartSec",
        "WatchdogSec",
    ):
        kept.pop(key)
    for key in ("TimeoutStartSec", "TimeoutStopSec", "KillMode"):
        kept.pop(key)
    assert made == kept
    assert "Install" not in preflight


def _parsed(unit: str) -> dict[str, dict[str, list[str]]]:
    """Sections of a unit file; a key may stand in it several times (systemd.syntax(7))."""
    sections: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in unit.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
            sections[section] = {}
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            sections[section].setdefault(key, []).append(value)
    return sections


@pytest.mark.parametrize(("role", "model"), [("site", SiteConfig), ("coordinator", CoordinatorConfig)])
def test_a_template_lacks_nothing_but_what_only_the_operator_knows(role: str, model: type) -> None:
    text = (UNITS / f"{role}.toml").read_text()
    with pytest.raises(ConfigError) as caught:
        settings.parse_settings(tomllib.loads(text), model, role)
    assert "unknown" not in str(caught.value)
    assert "missing" not in str(caught.value)
    filled = tomllib.loads(text.replace('= ""', '= "glioma"').replace("= []", '= ["site-a"]'))
    settings.parse_settings(filled, model, role)


@pytest.mark.parametrize("role", ["site", "coordinator"])
def test_every_commented_key_of_a_template_is_a_key_that_is_known(role: str) -> None:
    lines = []
    for line in (UNITS / f"{role}.toml").read_text().splitlines():
        bare = line.removeprefix("# ")
        lines.append(bare if bare.startswith("[") or (" = " in bare and bare[:1].islower()) else line)
    text = "\n".join(lines).replace('= ""', '= "glioma"').replace("= []", '= ["site-a"]')
    settings.parse_settings(tomllib.loads(text), SiteConfig if role == "site" else CoordinatorConfig, role)


def test_systemds_version_is_read_from_what_it_prints() -> None:
    assert machine.systemd_version("systemd 252 (252.39-1~deb12u2)\n+PAM +AUDIT\n") == 252
    assert machine.systemd_version("not systemd") == 0


def test_a_command_that_fails_is_one_line_with_its_last_words() -> None:
    with pytest.raises(WorkFailed, match=r"the file could not be read \(.*No such file"):
        machine.run_quietly(["cat", "/nowhere/at/all"], "the file could not be read", env={"LC_ALL": "C"})
    with pytest.raises(WorkFailed, match="no-such-command-at-all"):
        machine.run_quietly(["no-such-command-at-all"], "it could not be run")


def test_no_space_is_said_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine.NEEDED, "cpu", 1e18)
    with pytest.raises(WorkFailed, match="GB are free"):
        Releases(tmp_path / "opt").install_release(a_source(tmp_path / "source"))
    assert not (tmp_path / "opt").exists()


def test_only_root_installs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "geteuid", lambda: 1000)
    with pytest.raises(RequestError, match="needs root"):
        machine.need_root()


def test_what_does_not_exist_is_named_before_anything_is_done() -> None:
    done = subprocess.run(
        [ROOT / "deploy" / "install-site", "--wheels", "/nowhere", "--download", "/nowhere-else"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "konsil: /nowhere: does not exist\n"
