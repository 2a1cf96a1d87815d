"""The comparison with peers: what it counts, what it ends, and what it says where the package index is away."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from brokers import PATIENCE, eventually
from places import ROOT

from benchmarks.peers import environment
from benchmarks.peers.deployment import Deployment, Watched, free_ports, watch
from benchmarks.peers.ratios import Row, table
from benchmarks.peers.run import SYSTEMS
from benchmarks.peers.work import Memory, Work, seconds_per_round
from messages.ground.errors import Unreachable, WorkFailed

CHILD = "import time; held = bytearray(b'x') * 50_000_000; print(flush=True); time.sleep(600)"
PARENT = f"""
import pathlib, subprocess, sys, time
command = [sys.executable, "-c", {CHILD!r}]
child = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
child.stdout.readline()
pathlib.Path("child").write_text(str(child.pid))
time.sleep(600)
"""
BENCHMARK = f"""
import pathlib, sys, time
sys.path.insert(0, {str(ROOT)!r})
from benchmarks.peers.deployment import Deployment
from benchmarks.peers.run import guarded, say

def work():
    deployment = Deployment(pathlib.Path(), {{}})
    try:
        deployment.start("server", [sys.executable, "-c", "import time; time.sleep(600)"])
        say(f"started {{deployment.trees()['server'][0].pid}}")
        time.sleep(600)
    finally:
        deployment.end()

raise SystemExit(guarded(work))
"""
LISTENER = """
import pathlib, socket, sys, time
one = socket.create_server(("127.0.0.1", int(sys.argv[1])))
pathlib.Path("ready").touch()
time.sleep(600)
"""


def stamped(path: Path, *lines: tuple[float, float]) -> Path:
    """A stamps file: (at, added) of each round."""
    rows = [json.dumps({"round": k, "at": at, "added": added}) for k, (at, added) in enumerate(lines, 1)]
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_round_is_the_time_between_two_completions_and_the_first_one_is_left_out(tmp_path: Path) -> None:
    stamps = stamped(tmp_path / "stamps", (100.0, 2.0), (101.5, 4.0), (102.0, 6.0), (105.0, 8.0))
    spread = seconds_per_round(stamps, Work(1, rounds=4))
    assert spread.all == (1.5, 0.5, 3.0)
    assert (spread.median, spread.min, spread.max) == (1.5, 0.5, 3.0)


def test_rounds_that_did_not_happen_are_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match="2 of 3 rounds"):
        seconds_per_round(stamped(tmp_path / "stamps", (1.0, 2.0), (2.0, 4.0)), Work(1, rounds=3))
    with pytest.raises(WorkFailed, match="0 of 3 rounds"):
        seconds_per_round(tmp_path / "none", Work(1, rounds=3))


def test_a_model_that_did_not_grow_by_the_clients_constants_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match=r"after round 2 the model grew by 2\.0"):
        seconds_per_round(stamped(tmp_path / "stamps", (1.0, 2.0), (2.0, 2.0)), Work(1, rounds=2))


def test_a_megabyte_is_a_million_bytes_in_twenty_equal_float32_tensors() -> None:
    assert Work(30, 2).numbers * 20 * 4 == 30_000_000
    assert Work(240, 2).numbers * 20 * 4 == 240_000_000


def test_what_a_process_starts_counts_with_it_and_ends_with_it_even_in_a_session_of_its_own(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, {"PATH": ""})
    child = tmp_path / "child"
    try:
        deployment.start("server", [sys.executable, "-c", PARENT])
        deployment.wait(lambda: child.exists() and child.read_text() != "", "child", PATIENCE)
        assert deployment.sizes()["server"] > 50_000_000
    finally:
        deployment.end()
    eventually(lambda: not psutil.pid_exists(int(child.read_text())), what="its end")


def test_a_benchmark_that_is_terminated_ends_what_it_started(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BENCHMARK], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as benchmark:
        assert benchmark.stderr is not None
        started = int(benchmark.stderr.readline().rpartition(" ")[2])
        assert psutil.pid_exists(started)
        benchmark.terminate()
        assert benchmark.wait(PATIENCE) == 128 + signal.SIGTERM
        assert "interrupted" in benchmark.stderr.read()
    eventually(lambda: not psutil.pid_exists(started), what="its end")


def test_a_process_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, {"PATH": ""})
    deployment.start("server", [sys.executable, "-c", "raise SystemExit('no certificate')"])
    with pytest.raises(WorkFailed, match=r"(?s)server ended while waiting for a port.*no certificate"):
        deployment.wait(lambda: False, "a port", PATIENCE)
    deployment.end()


def test_where_a_system_listens_is_seen_while_it_settles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.peers.deployment.LISTENERS_EVERY", 0.0)
    (port,) = free_ports(1)
    deployment = Deployment(tmp_path, {"PATH": ""})
    try:
        deployment.start("server", [sys.executable, "-c", LISTENER, str(port)])
        deployment.wait((tmp_path / "ready").exists, "listener", PATIENCE)
        with watch(deployment, lambda: 0) as watched:
            deployment.wait(lambda: f"127.0.0.1:{port}" in watched.listens, "sighting", PATIENCE)
        assert watched.largest["server"] > 0
    finally:
        deployment.end()
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))


def test_a_package_index_that_cannot_be_reached_is_told_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    for name, value in {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": f"http://127.0.0.1:{port}/simple",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(environment, "ROOM", tmp_path)
    said: list[str] = []
    with pytest.raises(Unreachable, match="nvflare could not be installed from the package index"):
        environment.prepare("flare", said.append)
    assert len(said) == 1
    assert not (tmp_path / "flare" / "installed").exists()


def test_an_environment_that_fits_its_pins_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(environment, "ROOM", tmp_path)
    monkeypatch.setattr(environment, "_run", lambda command, *_: commands.append(command))
    (tmp_path / "flower").mkdir()
    first = environment.prepare("flower", lambda _: None)
    made = len(commands)
    assert made > 0
    assert environment.prepare("flower", lambda _: None) == first
    assert len(commands) == made


def test_cpu_time_of_a_round_leaves_out_what_came_before_the_first_one_ended() -> None:
    assert Watched({}, cpu={0: 3.0, 1: 10.0, 2: 12.0, 4: 19.0}).cpu_per_round() == 3.0
    assert Watched({}, cpu={0: 3.0, 1: 10.0}).cpu_per_round() == 0.0


def test_cpu_time_counts_what_a_process_started_and_saw_end(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, {"PATH": ""})
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    child = f"subprocess.run([sys.executable, '-c', {busy!r}])"
    parent = f"import subprocess, sys, time; {child}; open('done', 'x'); time.sleep(600)"
    rounds = [0]
    try:
        deployment.start("server", [sys.executable, "-c", parent])
        with watch(deployment, lambda: rounds[0]) as watched:
            deployment.wait(lambda: 0 in watched.cpu, "first sample", PATIENCE)
            deployment.wait((tmp_path / "done").exists, "end of the child", PATIENCE)
            rounds[0] = 1
            deployment.wait(lambda: 1 in watched.cpu, "last sample", PATIENCE)
    finally:
        deployment.end()
    assert watched.cpu[1] >= 0.5


def test_each_row_stands_beside_its_ratio_to_each_peer_of_the_same_size() -> None:
    rows = [
        Row("Konsil float32, TLS", 30, 0.9, 0.8, 1.0, 2, 1, 1),
        Row("flare 2.9.0", 30, 1.2, 1.1, 1.3, 2, 1, 1),
        Row("flare-stock 2.9.0", 30, 3.6, 3.5, 3.7, 2, 1, 1),
        Row("Konsil float32, TLS", 240, 5.0, 5.0, 5.0, 2, 1, 1),
        Row("flare 2.9.0", 240, 10.0, 9.0, 11.0, 2, 1, 1),
    ]
    shown = table(rows, ["flare", "flare-stock"])
    assert list(shown.columns[-2].cells) == ["0.75", "1.00", "3.00", "0.50", "1.00"]
    assert list(shown.columns[-1].cells) == ["0.25", "0.33", "1.00", "–", "–"]


def test_memory_is_the_servers_and_that_of_the_largest_client() -> None:
    assert Memory.of({"server": 9, "site-1": 3, "site-2": 5}, ["site-1", "site-2"]) == Memory(9, 5)


@pytest.mark.parametrize("system", sorted({name.partition("-")[0] for name in SYSTEMS}))
def test_every_package_of_a_peer_is_pinned_to_one_version(system: str) -> None:
    lines = (environment.HERE / "pins" / f"{system}.txt").read_text().splitlines()
    assert environment.version(system) in " ".join(lines)
    assert all(line.count("==") == 1 and " " not in line for line in lines)
