"""What an operator's program can reach in its sandbox: no network, nothing to write but its own."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import external_rig as rig
import pytest
from brokers import PATIENCE, eventually

from site_agent.config import ExternalTrainer
from site_agent.external import inside
from site_agent.external.program import ProgressLine, run_program
from site_agent.external.sandbox import Places, TrainerUnfit, read_program, start_command
from site_agent.external.work import ProgramFailed
from site_agent.trainers.processes import EXTERNAL
from site_agent.training.client import TrainerProcess
from site_agent.training.protocol import Failed, Progress, Reply

LOOK = """
import json, os, socket, sys
found = {}
def attempt(name, do):
    try:
        found[name] = do()
    except Exception as error:
        found[name] = type(error).__name__
def write(path):
    with open(path, "a") as file:
        file.write("x")
    return "written"
"""


def look(
    folder: Path, text: str, *, shown: tuple[Path, ...] = (), hidden: tuple[Path, ...] = (), **more: Any
) -> dict[str, Any]:
    """What a program finds; it leaves `found` as JSON."""
    program = f"{LOOK}\n{text}\njson.dump(found, open('found.json', 'w'))\n"
    trainer = ExternalTrainer.model_validate(rig.register(folder / "programs", program, **more))
    places = Places.under(folder / "state" / "run")
    places.make_anew(read_program(trainer))
    command = start_command(trainer, places, shown=shown, hidden=hidden, threads=1, gpus=(), ram=None)
    run_program(trainer, places, command, lambda _line: None)
    found: dict[str, Any] = json.loads((places.work / "found.json").read_text())
    return found


def test_a_program_reaches_no_server_of_this_machine_and_none_outside(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as hidden:
        hidden.bind("\0konsil-test-" + str(os.getpid()))
        hidden.listen()
        port, abstract = server.getsockname()[1], "\\0konsil-test-" + str(os.getpid())
        text = f"""
attempt("loopback", lambda: socket.create_connection(("127.0.0.1", {port}), 5) and "reached")
attempt("outside", lambda: socket.create_connection(("192.0.2.1", 80), 5) and "reached")
attempt("abstract", lambda: socket.socket(socket.AF_UNIX).connect("{abstract}") or "reached")
found["links"] = [name for _, name in socket.if_nameindex()]
"""
        assert look(tmp_path, text, sandbox="none")["loopback"] == "reached"
        found = look(tmp_path, text)
    assert found["links"] == ["lo"]
    assert {name: found[name] for name in ("loopback", "outside")} == {"loopback": "OSError", "outside": "OSError"}
    assert found["abstract"] == "ConnectionRefusedError"


def test_a_program_sees_nothing_of_the_site_and_writes_nothing_but_its_own(tmp_path: Path) -> None:
    data, state = tmp_path / "data", tmp_path / "state"
    (data / "more").mkdir(parents=True)
    (data / "more" / "image.nii").write_text("voxels")
    (data / "labels.csv").write_text("who\nMiller\n")
    (data / "link.txt").symlink_to(tmp_path / "secret")
    (tmp_path / "secret").write_text("password")
    state.mkdir()
    (state / "site.secret").write_text("secret")
    text = f"""
attempt("image", lambda: open("{data}/more/image.nii").read())
attempt("table", lambda: open("{data}/labels.csv").read())
attempt("link", lambda: open("{data}/link.txt").read())
attempt("secret", lambda: open("{tmp_path}/secret").read())
attempt("state", lambda: os.listdir("{state}"))
attempt("state's", lambda: open("{state}/site.secret").read())
attempt("passwd", lambda: open("/etc/shadow").read())
attempt("new", lambda: write("{data}/new"))
attempt("over", lambda: write("{data}/more/image.nii"))
attempt("remove", lambda: os.unlink("{data}/more/image.nii"))
attempt("system", lambda: write("/usr/new"))
attempt("root", lambda: write("/new"))
attempt("program", lambda: write(__file__))
attempt("interpreter", lambda: write(os.path.join(sys.prefix, "new")))
attempt("kernel", lambda: write("/proc/sys/kernel/core_pattern"))
attempt("own", lambda: write("own"))
attempt("temporary", lambda: write("/tmp/own"))
attempt("remount", lambda: __import__("ctypes").CDLL(None).mount(b"none", b"{data}", None, 32 | 4096, None))
found["others"] = [one for one in os.listdir("/proc") if one.isdigit() and int(one) > 3]
found["rights"] = [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "CapBnd"))]
found["environment"] = sorted(os.environ)
"""
    found = look(tmp_path, text, shown=(data,), hidden=(state, data / "labels.csv"))
    assert found["image"] == "voxels"
    denied = {"link", "secret", "state", "state's", "passwd", "new", "over", "remove", "system", "root", "kernel"}
    denied |= {"program", "interpreter", "table"}
    assert {
        name: found[name] for name in denied if found[name] not in ("FileNotFoundError", "OSError", "PermissionError")
    } == {}
    assert (found["own"], found["temporary"]) == ("written", "written")
    assert found["remount"] == -1
    assert found["rights"] == ["0" * 16] * 2
    assert found["others"] == []
    assert not {"CREDENTIALS_DIRECTORY", "KONSIL_TRAINER_PROTOCOL"} & set(found["environment"])
    assert (data / "more" / "image.nii").read_text() == "voxels"


def test_a_state_folder_within_the_data_is_hidden(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "state").mkdir(parents=True)
    (data / "state" / "site.secret").write_text("secret")
    found = look(
        tmp_path, f'attempt("state", lambda: os.listdir("{data}/state"))', shown=(data,), hidden=(data / "state",)
    )
    assert found["state"] == []


def test_what_a_program_starts_ends_with_it(tmp_path: Path) -> None:
    """A process that would write for ever: were it left, its file would still grow."""
    text = """
import time
if os.fork() == 0:
    os.setsid()
    while True:
        write("/tmp/grows")
        time.sleep(0.01)
while not os.path.exists("/tmp/grows"):
    time.sleep(0.01)
"""
    look(tmp_path, text)
    grown = tmp_path / "state" / "run" / "scratch" / "grows"
    before = grown.stat().st_size
    assert before > 0
    look(tmp_path, "pass")  # as long as it takes to start another one
    assert not grown.exists() or grown.stat().st_size == before


def test_a_program_that_asks_for_more_memory_than_it_may_gets_none(tmp_path: Path) -> None:
    trainer = ExternalTrainer.model_validate(rig.register(tmp_path / "programs", "bytearray(2**30)"))
    places = Places.under(tmp_path / "run")
    places.make_anew(read_program(trainer))
    command = start_command(trainer, places, shown=(), hidden=(), threads=1, gpus=(), ram=2**28)
    with pytest.raises(ProgramFailed, match="status 1"):
        run_program(trainer, places, command, lambda _line: None)


def test_what_it_says_is_progress_or_goes_to_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """
print('{"step": 3, "of": 10, "loss": 0.5}', flush=True)
print('{"step": -1, "of": 10}')
print('{"step": 1, "of": 10, "loss": NaN}')
print('{"step": 1, "of": 10, "loss": 1e300}')
print('{"step": 1e999, "of": 10}')
print('{"step"')
print('plain \\x1b[31mwords')
print('x' * 100_000)
"""
    program = "import sys" + text
    trainer = ExternalTrainer.model_validate(rig.register(tmp_path / "programs", program))
    places = Places.under(tmp_path / "run")
    places.make_anew(read_program(trainer))
    heard: list[ProgressLine] = []
    command = start_command(trainer, places, shown=(), hidden=(), threads=1, gpus=(), ram=None)
    run_program(trainer, places, command, heard.append)
    assert heard == [ProgressLine(step=3, of=10, loss=0.5)]
    assert "words" in capsys.readouterr().err


def test_a_machine_without_namespaces_runs_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()

    (tools / "unshare").write_text("#!/bin/sh\necho 'unshare: unshare failed: Operation not permitted' >&2\nexit 1\n")
    (tools / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    program = rig.register(tmp_path / "programs", python=sys.executable)
    from site_agent.external.session import ExternalSession

    with pytest.raises(TrainerUnfit, match="Operation not permitted"):
        ExternalSession(rig.preparation(tmp_path, program), lambda _reply: None)
    ExternalSession(rig.preparation(tmp_path, program | {"sandbox": "none"}), lambda _reply: None)


@pytest.mark.parametrize(("sandbox", "whom"), [("namespaces", "the trainer alone"), ("none", "its group")])
def test_a_program_ends_with_the_trainer_that_runs_it(whom: str, sandbox: str, tmp_path: Path) -> None:
    mark = f"konsil-test-{tmp_path}"
    text = 'import time; print(\'{"step": 1, "of": 9}\', flush=True); time.sleep(600)'
    given = rig.register(tmp_path / "programs", text, sandbox=sandbox)
    given["command"] = [*given["command"], mark]
    said: queue.Queue[Reply] = queue.Queue()
    process = TrainerProcess(said.put, lambda _status: None, program=EXTERNAL)
    try:
        process.send_request(rig.preparation(tmp_path, given))
        process.send_request(rig.training(tmp_path))
        while not (
            isinstance(reply := said.get(timeout=PATIENCE), Progress) and (reply.phase, reply.done) == ("training", 1)
        ):
            assert not isinstance(reply, Failed), reply
        assert running(mark)
        if whom == "the trainer alone":
            os.kill(process.pid, signal.SIGKILL)
        else:
            process.kill()
        eventually(lambda: not running(mark), what="the program's end")
    finally:
        process.kill()
        process.wait(PATIENCE)


LOCKED = """
import os, sys
from pathlib import Path
from site_agent.external.sandbox import Places
places = Places.under(Path(sys.argv[1]))
places.make_anew(b"")
(places.scratch / "mine").mkdir()
(places.work / "link").symlink_to(sys.argv[2])
for name, mode in (("read-only", 0o555), ("closed", 0o000), ("blind", 0o300)):
    folder = places.work / name
    folder.mkdir()
    (folder / "written").write_bytes(bytes(1000))
    folder.chmod(mode)
places.scratch.chmod(0)
print(places.count_bytes() >= 3000)
for folder in places.work.iterdir():
    folder.is_symlink() or folder.chmod(0)
places.work.chmod(0o500)
places.make_anew(b"")
print(os.listdir(places.work))
print(oct(os.stat(sys.argv[2]).st_mode & 0o777))
"""


def test_folders_of_any_mode_are_counted_and_removed_and_links_not_followed(tmp_path: Path) -> None:
    """In a process without capabilities, since root may read and remove all."""
    (tmp_path / "outside").mkdir(mode=0o500)
    found = subprocess.run(
        [sys.executable, "-c", LOCKED, str(tmp_path / "run"), str(tmp_path / "outside")],
        preexec_fn=inside.give_up_rights, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (found.stdout.split("\n"), found.stderr) == (["True", "[]", "0o500", ""], "")


def running(mark: str) -> list[str]:
    """Ids of processes whose last argument is this."""
    found = []
    for one in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if one.name.isdigit() and (one / "cmdline").read_bytes().split(b"\0")[-2:-1] == [mark.encode()]:
                found.append(one.name)
    return found
