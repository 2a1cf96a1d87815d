"""A program of the site's own under the service's own hardening: a real systemd starts it, in a machine of its own.

The machine is this one's /usr and nothing else (`systemd-nspawn --volatile=yes`): it boots in seconds.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from brokers import PATIENCE
from nspawn_machine import need_nspawn
from places import ROOT

from deploy.install.units import preflight_unit
from site_agent.config import ExternalTrainer
from site_agent.external import inside
from site_agent.external.sandbox import Places, start_command

pytestmark = [pytest.mark.nspawn]
SYSTEMD = ROOT / "deploy" / "systemd"
PROGRAM = """
import json, os, socket
found = {"rights": [line.split()[1] for line in open("/proc/self/status") if line.startswith("CapEff")]}
try:
    socket.create_connection(("127.0.0.1", 9), 5)
except OSError as error:
    found["network"] = error.strerror
found["seen"] = sorted(os.listdir("/"))
json.dump(found, open("found.json", "w"))
"""
START = """
import json, os, subprocess, shutil
command = json.load(open("/shared/command.json"))
plan = json.loads(command[-1]) | {"parent": os.getpid()}
for name in ("work", "scratch", "root", "library"):
    os.makedirs(f"/var/lib/konsil/run/{name}")
shutil.copy("/shared/program.py", "/var/lib/konsil/run/program")
view = plan["view"]  # as the test's machine has it, and this one has no /etc
view["read"] = [one for one in view["read"] if os.path.exists(one[0])]
status = subprocess.run([*command[:-1], json.dumps(plan)], stderr=subprocess.STDOUT).returncode
if status == 0:
    print(open("/var/lib/konsil/run/work/found.json").read())
print("status", status)
"""


def run_in_unit(folder: Path, *, allowed: bool) -> str:
    """What is said of the sandbox, which a unit with the service's restrictions starts."""
    shared = folder / "shared"
    shared.mkdir()
    (shared / "program.py").write_text(PROGRAM)
    (shared / "start.py").write_text(START)
    (shared / "said").touch()
    (shared / "inside.py").write_text(Path(inside.__file__).read_text())
    trainer = ExternalTrainer(
        command=("/usr/bin/python3", "/shared/program.py"), program="/shared/program.py", sha256="0" * 64
    )
    places = Places.under(Path("/var/lib/konsil/run"))
    command = start_command(trainer, places, shown=(), hidden=(), threads=1, gpus=(), ram=None)
    started = ["/usr/bin/python3", "-I", "/shared/inside.py", *command[3:]]
    (shared / "command.json").write_text(json.dumps(started))
    for one in (shared, *shared.iterdir()):
        one.chmod(0o777)
    unit = preflight_unit((SYSTEMD / "konsil-site.service").read_text())
    lines = [
        line for line in unit.splitlines() if not line.startswith(("LoadCredential", "User=", "Group=", "ExecStart"))
    ]
    own = "User=nobody\nExecStart=/usr/bin/python3 /shared/start.py\nStandardOutput=append:/shared/said"
    lines.insert(lines.index("[Service]") + 1, own)
    (folder / "trial.service").write_text("\n".join(lines) + "\n")
    binds = [f"--bind={shared}:/shared", f"--bind-ro={folder}/trial.service:/etc/systemd/system/trial.service"]
    if allowed:
        drop_in = "/etc/systemd/system/trial.service.d/trainers.conf"
        binds.append(f"--bind-ro={SYSTEMD / 'konsil-site-trainers.conf'}:{drop_in}")
    nspawn = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--directory=/", "--volatile=yes"]
    asked = ["systemd.firstboot=no", "systemd.unit=basic.target", "systemd.wants=trial.service"]
    with (folder / "log").open("wb") as words:
        machine = subprocess.Popen([*nspawn, *binds, *asked], stdin=subprocess.DEVNULL, stdout=words, stderr=words)
    try:
        deadline = time.monotonic() + PATIENCE
        while "status" not in (said := (shared / "said").read_text()):
            assert machine.poll() is None, (folder / "log").read_text(errors="replace")
            assert time.monotonic() < deadline, (folder / "log").read_text(errors="replace")
            time.sleep(0.1)
        return said
    finally:
        machine.send_signal(signal.SIGTERM)
        try:
            machine.wait(30)
        except subprocess.TimeoutExpired:
            machine.kill()
            machine.wait()


def test_a_program_runs_in_its_sandbox_under_the_service_with_its_drop_in(tmp_path: Path) -> None:
    need_nspawn()
    first, last = run_in_unit(tmp_path, allowed=True).strip().splitlines()
    assert last == "status 0"
    found = json.loads(first)
    assert found["network"] == "Network is unreachable"
    assert found["rights"] == ["0" * 16]
    assert not {"var", "root", "home", "run"} & set(found["seen"])


def test_without_the_drop_in_the_service_makes_no_namespaces(tmp_path: Path) -> None:
    need_nspawn()
    *why, last = run_in_unit(tmp_path, allowed=False).strip().splitlines()
    assert last == "status 1"
    assert "Operation not permitted" in why[-1]
