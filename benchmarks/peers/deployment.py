"""Starting, watching and ending a peer's processes: each in a session of its own, with all that it starts."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks import memory
from benchmarks.peers.work import Memory, Outcome, Work
from benchmarks.spread import Spread
from messages.ground.errors import WorkFailed

INTERVAL = 0.05
LISTENERS_EVERY = 2.0


class Deployment:
    """Named long-running processes with all their descendants, their logs in one folder.

    Args:
        folder: of the run; logs are `NAME.log` in it.
        environment: of every process.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = dict(environment)
        self._roots: dict[str, psutil.Popen] = {}
        self._seen: dict[str, dict[int, psutil.Process]] = {}
        self._lock = threading.Lock()

    def start(self, name: str, command: list[str], cwd: Path | None = None) -> None:
        """Start `command` as `name`."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = psutil.Popen(
                command,
                cwd=cwd or self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with self._lock:
            self._roots[name] = process
            self._seen[name] = {}

    def once(self, name: str, command: list[str], within: float) -> str:
        """Run a command to its end; what it printed.

        Raises:
            WorkFailed: it failed or took longer.
        """
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=within,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise WorkFailed(f"{name} did not end within {within:.0f} s") from error
        (self.folder / f"{name}.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            raise WorkFailed(f"{name} failed", advice=self.tail(name))
        return done.stdout

    def tail(self, name: str, lines: int = 12) -> str:
        """The end of a log, for an error's advice."""
        text = (self.folder / f"{name}.log").read_text(errors="replace")
        return f"Its last words:\n{chr(10).join(text.splitlines()[-lines:])}"

    def wait(self, condition: Callable[[], bool], what: str, within: float) -> None:
        """Until `condition()`.

        Raises:
            WorkFailed: not in time, or a process has ended.
        """
        until = time.monotonic() + within
        while not condition():
            for name, process in self._roots.items():
                if process.poll() is not None:
                    raise WorkFailed(f"{name} ended while waiting for {what}", advice=self.tail(name))
            if time.monotonic() > until:
                last = "\n".join(self.tail(name, 6) for name in self._roots)
                raise WorkFailed(f"no {what} within {within:.0f} s", advice=last)
            time.sleep(0.1)

    def trees(self) -> dict[str, list[psutil.Process]]:
        """Each root with every descendant that was ever seen and still runs."""
        with self._lock:
            for name, root in self._roots.items():
                with contextlib.suppress(psutil.NoSuchProcess):
                    for pid in _descendants(root.pid):
                        if pid not in self._seen[name]:
                            with contextlib.suppress(psutil.NoSuchProcess):
                                self._seen[name][pid] = psutil.Process(pid)
            return {
                name: [root, *(process for process in self._seen[name].values() if process.is_running())]
                for name, root in self._roots.items()
            }

    def sizes(self) -> dict[str, int]:
        """Anonymous and shared memory of each tree in bytes."""
        return {name: sum(memory.resident(one.pid) for one in tree) for name, tree in self.trees().items()}

    def cpu_seconds(self) -> float:
        """CPU time of all trees so far, with that of descendants that ended and were waited for."""
        return sum(memory.cpu_seconds(one.pid) for tree in self.trees().values() for one in tree)

    def listens(self) -> tuple[str, ...]:
        """Addresses on which these processes accept TCP connections, for all to see."""
        found = set()
        for tree in self.trees().values():
            for process in tree:
                with contextlib.suppress(psutil.Error):
                    for one in process.net_connections("tcp"):
                        if one.status == psutil.CONN_LISTEN:
                            found.add(f"{one.laddr.ip}:{one.laddr.port}")
        return tuple(sorted(found))

    def end(self) -> None:
        """Ask all to end, then make them."""
        everyone = [process for tree in self.trees().values() for process in tree]
        for process in everyone:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        _, left = psutil.wait_procs(everyone, timeout=5)
        left += [process for tree in self.trees().values() for process in tree if process not in left]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)


@dataclass(slots=True)
class Watched:
    """What was seen: the largest size of each tree in bytes, addresses listened on, and CPU seconds of all together
    by the number of completed rounds at which they were first seen."""

    largest: dict[str, int]
    listens: tuple[str, ...] = ()
    cpu: dict[int, float] = field(default_factory=dict)

    def cpu_per_round(self) -> float:
        """CPU seconds of one round, the first left out; 0 where fewer than two were seen."""
        seen = sorted(number for number in self.cpu if number > 0)
        if len(seen) < 2:
            return 0.0
        return (self.cpu[seen[-1]] - self.cpu[seen[0]]) / (seen[-1] - seen[0])


@contextlib.contextmanager
def watch(deployment: Deployment, rounds: Callable[[], int]) -> Iterator[Watched]:
    """Sample sizes every 50 ms until the block ends, and CPU times whenever `rounds()`, those completed, grows.

    Listeners are looked for every 2 s until the first round is completed: looking costs time.
    """
    watched = Watched({})
    stop = threading.Event()

    def sample() -> None:
        looked = time.monotonic()
        while True:
            for name, size in deployment.sizes().items():
                watched.largest[name] = max(watched.largest.get(name, 0), size)
            completed = rounds()
            if completed not in watched.cpu:
                watched.cpu[completed] = deployment.cpu_seconds()
            if not completed and time.monotonic() - looked > LISTENERS_EVERY:
                watched.listens = deployment.listens()
                looked = time.monotonic()
            if stop.wait(INTERVAL):
                return

    thread = threading.Thread(target=sample, name="sampler", daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        stop.set()
        thread.join()


def outcome(
    work: Work,
    spread: Spread,
    idle: Mapping[str, int],
    watched: Watched,
    *,
    system: str,
    version: str,
    transport: str,
) -> Outcome:
    """What was measured of a system, whose trees are `server` and one for each client.

    Args:
        spread: seconds of a round.
        idle: sizes of the trees before the work, in bytes.
        watched: what was seen of them during it.
    """
    clients = [name for name in idle if name != "server"]
    return Outcome(
        system=system,
        version=version,
        transport=transport,
        megabytes=work.megabytes,
        rounds=work.rounds,
        seconds_per_round=spread,
        idle_rss=Memory.of(idle, clients),
        peak_rss=Memory.of(watched.largest, clients),
        cpu_seconds=round(watched.cpu_per_round(), 3),
        listens=watched.listens,
    )


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def environment(programs: Path, **more: str) -> dict[str, str]:
    """Of a peer's processes: its own programs first, one thread for NumPy, nothing of this virtual environment."""
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TMPDIR", "USER")}
    path = os.pathsep.join([str(programs), "/usr/local/bin", "/usr/bin", "/bin"])
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for child in memory.children(pid):
        found += [child, *_descendants(child)]
    return found
