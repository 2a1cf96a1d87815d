"""What the operator writes under [trainers], and what preflight and status tell of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import date
from hashlib import sha256
from pathlib import Path
from typing import Any

import external_rig as rig
import pytest

from deploy.demo.toml import write_toml
from messages.ground.clock import SystemClock
from messages.ground.errors import ConfigError
from messages.ground.settings import parse_settings
from messages.reasons import Reason
from site_agent.config import SiteConfig, read_config
from site_agent.desk.allowances import check_policy
from site_agent.desk.checks import Check, Grade
from site_agent.desk.programs import check_programs
from site_agent.desk.trainer_trial import try_trainer
from site_agent.loop.rules import Rules


def site(folder: Path, trainer: dict[str, Any], **sections: Any) -> SiteConfig:
    state = folder / "state"
    state.mkdir(exist_ok=True)
    plain = rig.site_plain("site-a", state, rig.write_table(folder / "data", 1), {"linear": trainer}, **sections)
    return parse_settings(plain, SiteConfig, "site.toml")


def by_grade(checks: Iterator[Check]) -> list[tuple[Grade, str]]:
    return [(one.grade, one.what) for one in checks]


def test_paths_of_a_program_are_taken_from_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    plain = rig.site_plain("site-a", Path("state"), Path("data"), {})
    said = {"command": ["env/bin/python", "own/fit.py", "--fast"], "program": "own/fit.py", "sha256": "0" * 64}
    plain["trainers"] = {"a": said | {"reads": ["lib"]}, "b": said | {"command": ["python", "own/fit.py"]}}
    (tmp_path / "site.toml").write_text(write_toml(plain))
    found = read_config(tmp_path / "site.toml").trainers
    assert found["a"].command == (str(tmp_path / "env/bin/python"), str(tmp_path / "own/fit.py"), "--fast")
    assert found["a"].file == tmp_path / "own" / "fit.py"
    assert found["a"].reads == (tmp_path / "lib",)
    assert found["b"].command == ("python", str(tmp_path / "own/fit.py"))


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("linear", {"program": "/elsewhere"}, "no word of the command"),
        ("linear", {"sha256": "abc"}, "sha256"),
        ("linear", {"sandbox": "chroot"}, "sandbox"),
        ("linear", {"command": []}, "command"),
        ("linear", {"command": ["tool"], "program": None}, "with a path"),
        ("konsil", {}, "reserved"),
    ],
)
def test_a_mistake_is_named_in_one_line(name: str, change: dict[str, Any], words: str, tmp_path: Path) -> None:
    plain = rig.site_plain("site-a", tmp_path, tmp_path, {name: rig.register(tmp_path) | change})
    with pytest.raises(ConfigError, match=words):
        parse_settings(plain, SiteConfig, "site.toml")


def test_preflight_tells_of_each_program_whether_it_could_be_run(tmp_path: Path) -> None:
    good = rig.register(tmp_path / "programs")
    assert by_grade(check_programs(site(tmp_path, good))) == [
        (Grade.OK, f"{good['program']} has its hash, and runs in a sandbox without network")
    ]
    (found,) = check_programs(site(tmp_path, good | {"sha256": "0" * 64}))
    assert (found.grade, found.name) == (Grade.FAIL, "trainer linear")
    assert sha256(rig.LINEAR.encode()).hexdigest() in found.what
    (found,) = check_programs(site(tmp_path, good | {"sandbox": "none"}))
    assert (found.grade, "without a sandbox" in found.what) == (Grade.WARN, True)
    (found,) = check_programs(site(tmp_path, good | {"command": ["/nowhere/python", good["program"]]}))
    assert (found.grade, "/nowhere/python" in found.what) == (Grade.FAIL, True)
    _, found = check_programs(site(tmp_path, good | {"datasets": ["clinic", "other"]}))
    assert (found.grade, "'other'" in found.what) == (Grade.FAIL, True)


def test_preflight_says_why_this_machine_makes_no_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "unshare").write_text("#!/bin/sh\necho 'unshare: Operation not permitted' >&2\nexit 1\n")
    (tmp_path / "bin" / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    (found,) = check_programs(site(tmp_path, rig.register(tmp_path / "programs")))
    assert (found.grade, "Operation not permitted" in found.what) == (Grade.FAIL, True)


def test_preflight_has_the_program_train_a_step_on_invented_numbers(tmp_path: Path) -> None:
    config = site(tmp_path, rig.register(tmp_path / "programs"))
    (found,) = try_trainer(config, rig.experiment())
    assert (found.grade, found.what[:29]) == (Grade.OK, "one step on invented data in "), found
    (found,) = try_trainer(config, rig.experiment(training={"trainer": "other"}))
    assert (found.grade, found.what) == (Grade.FAIL, "site.toml registers no 'other'")


def test_a_rule_that_names_no_registered_trainer_is_told(tmp_path: Path) -> None:
    rules = {"approval": "auto", "allow": [{"trainers": ["lineal"]}]}
    config = site(tmp_path, rig.register(tmp_path / "programs"), policy=rules)
    told = [one.what for one in check_policy(config, date(2026, 5, 1), rig.experiment())]
    assert any("'lineal' is not described in site.toml" in one for one in told)
    assert any("no [[policy.allow]] rule can fit" in one for one in told)


def test_the_agent_judges_by_what_site_toml_registers(tmp_path: Path) -> None:
    rules = Rules(site(tmp_path, rig.register(tmp_path / "programs")), SystemClock())
    assert rules.judge_experiment(rig.experiment().as_plain(), "dr-a").reason is None
    other = rig.experiment(training={"trainer": "other"}).as_plain()
    assert rules.judge_experiment(other, "dr-a").reason is Reason.UNSUPPORTED
