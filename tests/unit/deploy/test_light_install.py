"""`pip install konsil` brings no torch: what works without the extras, and what names the extra that it needs."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from storytelling import complete

from deploy.extras import EXTRAS
from messages.chain import write_export

ROOT = Path(__file__).parents[3]
HIDDEN = [module for modules in EXTRAS.values() for module in modules]
"""A module that is None in `sys.modules` cannot be imported nor found, as if it were not installed."""
RUN = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))
import konsil
from deploy.cli.command import run_command
told = []
for arguments in json.loads(sys.argv[2]):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run_command(arguments)
    told.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""


def run_light(*commands: list[str]) -> list[tuple[int, str, str]]:
    """Status, standard output and error of each command, all in one process without the extras."""
    given = [sys.executable, "-c", RUN, json.dumps(HIDDEN), json.dumps(commands)]
    done = subprocess.run(given, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [(status, out, err) for status, out, err in json.loads(done.stdout.splitlines()[-1])]


def test_what_a_researcher_and_an_auditor_do_needs_no_extra(tmp_path: Path) -> None:
    log, told = tmp_path / "try.konsil", str(tmp_path / "told")
    write_export(log, complete().entries)
    other = tmp_path / "again.konsil"
    other.write_bytes(log.read_bytes())
    done = run_light(
        ["--help"],
        ["experiment", "watch", "--help"],
        ["demo", "--help"],
        ["experiment", "new", "--from", "segmentation", str(tmp_path / "new.toml")],
        ["experiment", "compare", str(log), str(other), "--out", f"{told}.html"],
        ["experiment", "export", str(log), "--csv", told],
        ["audit", "verify", str(log)],
        ["audit", "replay", "try", str(log)],
        ["init", "researcher", "--name", "dr-a", "--out", f"{told}.toml"],
    )
    assert [(status, err) for status, _, err in done if status] == []


def test_a_command_that_needs_an_extra_says_in_one_line_which(tmp_path: Path) -> None:
    config = str(tmp_path / "none.toml")
    said = run_light(
        ["demo"],
        ["predict", "model.safetensors", "image.nii.gz"],
        ["site", "run", "--config", config],
        ["coordinator", "run", "--config", config],
    )
    extras = ("site", "site", "site", "coordinator")
    for (status, out, err), extra in zip(said, extras, strict=True):
        assert (status, out) == (2, "")
        assert err.count("\n") == 1
        assert f"needs torch, which is not installed. pip install 'konsil[{extra}]'" in err


def test_a_check_without_torch_says_what_it_skipped(tmp_path: Path) -> None:
    file = str(ROOT / "experiments" / "andreux-2020.toml")
    ((status, out, _err),) = run_light(["experiment", "check", file, "--offline"])
    assert status == 0
    assert "measuring the net needs torch, which is not installed. pip install 'konsil[site]'" in out


def test_every_module_of_an_extra_is_one_that_the_extra_lists() -> None:
    """A line of advice that does not help would be worse than none."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {"dp_accounting": "dp-accounting", "mlflow": "mlflow-skinny"}
    through = {"requests": "dicomweb-client"}
    extras = project["optional-dependencies"]
    for extra, modules in EXTRAS.items():
        listed = " ".join(extras[extra] + (extras["coordinator"] if extra == "site" else []))
        for module in modules:
            assert named.get(module, through.get(module, module.replace("_", "-"))) in listed, (extra, module)
        assert not set(modules) & {"numpy", "pika", "rich"}
