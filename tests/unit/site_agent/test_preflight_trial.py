"""`konsil site preflight` starts the trainer, reads the policy and writes to each folder: as an operator calls it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nameless
import own_trainer
import pytest
from class_task import class_experiment

from deploy.demo.experiments import glioma_demo
from deploy.demo.toml import write_toml
from messages.experiment import read_experiment
from messages.ground.errors import BrokerUnreachable
from site_agent.config import read_config
from site_agent.desk.preflight import run_checks

WITHIN = 300
pytestmark = [pytest.mark.timeout(2 * WITHIN)]
ALLOWS = '[[policy.allow]]\nresearchers = ["dr-a"]\n'


def write_site(folder: Path, more: str = ALLOWS) -> Path:
    """A site whose broker answers nobody."""
    path = folder / "site.toml"
    path.write_text(
        f'schema = 1\n[site]\nname = "site-a"\nconsortium = "test"\nstate = "state"\n[broker]\nport = 1\n{more}'
    )
    return path


def preflight(path: Path, *options: str, before: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """The command's checks by name; of several of one name the worst."""
    command = [*before, sys.executable, "-m", "deploy.cli", "site", "preflight", "--json", "--config", str(path)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=WITHIN, check=False)
    assert "defect" not in done.stderr, done.stderr
    return by_name(json.loads(done.stdout)["checks"])


def by_name(checks: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    order = ("ok", "warn", "fail")
    return {check["name"]: check for check in sorted(checks, key=lambda check: order.index(check["grade"]))}


def look(path: Path, experiment: str | None = None) -> dict[str, dict[str, Any]]:
    """The same without the trainer's step, and without waiting for a broker."""

    def refuse(*_: Any) -> Any:
        raise BrokerUnreachable("nothing answers")

    wanted = read_experiment(Path(experiment)) if experiment is not None else None
    return by_name([asdict(check) for check in run_checks(read_config(path), refuse, experiment=wanted, file=path)])


def command_of(*words: str) -> str:
    return f"[training]\ncommand = {json.dumps(words)}\n"


NULL = command_of(sys.executable, "-m", "site_agent.training.null")


@pytest.fixture
def rehearsal(tmp_path: Path) -> str:
    """An experiment whose net is made without torch."""
    plain = glioma_demo(1, 1, ["site-a"]) | {"net": {"name": "Rehearsal"}}
    plain["training"] |= {"patch": [16, 16, 16]}
    file = tmp_path / "rehearsal.toml"
    file.write_text(write_toml(plain))
    return str(file)


@pytest.mark.torch
@pytest.mark.slow
def test_the_trainer_does_one_step_also_for_a_user_without_a_name(tmp_path: Path) -> None:
    nameless.need_nameless()
    found = preflight(write_site(tmp_path), before=nameless.COMMAND)
    assert found["trainer"]["grade"] == "ok", found["trainer"]
    assert "one step on invented data" in found["trainer"]["what"]
    assert found["state"]["grade"] == "ok"
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["logs", "secret"]


@pytest.mark.torch
@pytest.mark.slow
def test_an_experiments_own_net_patch_and_policy_are_tried(tmp_path: Path) -> None:
    plain = glioma_demo(3, 1, ["site-a", "site-b"])
    plain["net"] |= {"channels": [4, 8], "strides": [2]}
    plain["training"] |= {"patch": [16, 24, 16]}
    file = tmp_path / "experiment.toml"
    file.write_text(write_toml(plain))
    described = f'[datasets.glioma]\nsource = "brats"\npath = "{tmp_path}"\nlabels = {{1="NCR", 2="ED", 3="ET"}}\n'
    found = preflight(write_site(tmp_path, ALLOWS + described), "--experiment", str(file))
    assert "patch 16 × 24 × 16" in found["trainer"]["what"]
    assert found["trainer"]["grade"] == "ok", found["trainer"]
    assert found["experiment"]["grade"] == "ok", found["experiment"]


def test_an_experiment_that_the_policy_would_decline_is_told(tmp_path: Path, rehearsal: str) -> None:
    described = f'[datasets.glioma]\nsource = "brats"\npath = "{tmp_path}"\nlabels = {{1="NCR", 2="ED", 3="ET"}}\n'
    path = write_site(tmp_path, '[[policy.allow]]\nnets = ["VNet"]\n' + described + NULL)
    refused = look(path, rehearsal)["experiment"]
    assert (refused["grade"], "net-not-allowed" in refused["what"]) == ("fail", True)


def test_a_trainer_that_ends_is_told_with_its_last_words(tmp_path: Path, rehearsal: str) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "import socket, sys\nfrom site_agent.training.protocol import greeting, read_frame\n"
        "line = socket.socket(fileno=int(sys.argv[sys.argv.index('--fd') + 1]))\nline.sendall(greeting())\n"
        "if read_frame(line)[-4:] != b'stop': raise SystemExit('libcuda.so.1: cannot open shared object file')\n"
    )
    path = write_site(tmp_path, ALLOWS + command_of(sys.executable, str(own)))
    found = preflight(path, "--experiment", rehearsal)["trainer"]
    assert found["grade"] == "fail"
    assert "ended with status 1: libcuda.so.1: cannot open shared object file" in found["what"]
    assert "preflight.trainer.log" in found["advice"]


def test_an_own_trainer_goes_through_the_same_step(tmp_path: Path, rehearsal: str) -> None:
    found = preflight(write_site(tmp_path, ALLOWS + NULL), "--experiment", rehearsal)["trainer"]
    assert found["grade"] == "ok", found
    foreign = preflight(write_site(tmp_path, ALLOWS + command_of(*own_trainer.command("2.0"))))["trainer"]
    assert (foreign["grade"], "2.0" in foreign["what"]) == ("fail", True)


POLICIES = {
    "none": ("", "every experiment is declined"),
    "over": ("[[policy.allow]]\nuntil = 2020-01-01\n", "every experiment is declined"),
    "empty list": ("[[policy.allow]]\nresearchers = []\n", "every experiment is declined"),
    "unknown data set": (
        ALLOWS + '[[policy.allow]]\ndatasets = ["gliom"]\n',
        "'gliom' is not described",
    ),
    "unknown net": ('[[policy.allow]]\nnets = ["Unett"]\n', "every experiment is declined"),
    "floor": (ALLOWS + "[policy.floors]\nsecure_aggregation = true\n", "every experiment is declined"),
    "a mode that is not there": (
        ALLOWS + '[policy.floors]\nsecure_aggregation = ["bfv"]\n',
        "every experiment is declined",
    ),
}


@pytest.mark.parametrize("case", POLICIES)
def test_a_policy_that_lets_nothing_in_fails_with_what_to_mend(case: str, tmp_path: Path) -> None:
    policy, words = POLICIES[case]
    found = look(write_site(tmp_path, policy + NULL))["policy"]
    assert found["grade"] == "fail"
    assert words in found["what"]
    assert found["advice"]


def test_a_full_disk_fails(tmp_path: Path) -> None:
    tight = look(write_site(tmp_path, ALLOWS + NULL + '[limits]\ndisk = "3MiB"\n'))["disk"]
    assert (tight["grade"], "too little for any round" in tight["what"]) == ("fail", True)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33], ids=["empty", "short", "long"])
def test_a_secret_that_is_not_whole_is_told_and_never_replaced(content: bytes, tmp_path: Path) -> None:
    path = write_site(tmp_path, ALLOWS + NULL)
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "secret").write_bytes(content)
    found = look(path)["state"]
    assert (found["grade"], f"has {len(content)} bytes, not 32" in found["what"]) == ("fail", True)
    assert "backup" in found["advice"]
    assert (tmp_path / "state" / "secret").read_bytes() == content


@pytest.mark.parametrize(("mode", "grade"), [(0o755, "warn"), (0o777, "fail"), (0o770, "fail"), (0o700, "ok")])
def test_a_state_folder_that_others_may_enter_is_told(mode: int, grade: str, tmp_path: Path) -> None:
    path = write_site(tmp_path, ALLOWS + NULL)
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    assert look(path)["state"]["grade"] == grade


def test_a_state_folder_or_a_folder_in_it_that_is_anothers_is_named(tmp_path: Path) -> None:
    path = write_site(tmp_path, ALLOWS + NULL)
    (tmp_path / "state").write_text("a file")
    assert "state: cannot be written" in look(path)["state"]["what"]
    (tmp_path / "state").unlink()
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "cache").write_text("a file")
    assert "cache: cannot be written" in look(path)["state"]["what"]


def test_a_temporary_folder_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    monkeypatch.setattr(tempfile, "tempdir", None)  # as in a process that starts
    found = look(write_site(tmp_path, ALLOWS + NULL))["temporary"]
    assert (found["grade"], "gone, which cannot be used" in found["what"]) == ("warn", True)


def test_whole_pictures_with_a_table_are_tried_too(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    one = class_experiment(net={"name": "CNN", "channels": [4]}, sites=["site-a"])
    file.write_text(write_toml(one.as_plain()))
    found = preflight(write_site(tmp_path), "--experiment", str(file))["trainer"]
    assert found["grade"] == "ok", found
    assert "one step on invented data" in found["what"]
