"""A bare Debian machine of the tests' own: debootstrap's minimal root, booted with its own systemd by systemd-nspawn.

Shares the host's network (so a broker on the host's loopback can be reached) and nothing else. What takes long is
kept between runs, in $KONSIL_NSPAWN_CACHE or ~/.cache/konsil/nspawn: the root, and the wheels that are installed from.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from needs import need_chaos

CHECKOUT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
PYTHON = (3, 11)
"""What that release of Debian has: the wheels are fetched by the host's Python, which must be the same."""
PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-venv"
TOOLS = ("systemd-nspawn", "debootstrap", "nsenter", "setpriv")
CLEAN = ("env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")


def need_nspawn() -> None:
    """Skip, with the reason, where no such machine can be had or nobody asked for one."""
    need_chaos("boots a machine, which takes minutes")
    if os.geteuid() != 0:
        pytest.skip("systemd-nspawn needs root")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: systemd-container, debootstrap, util-linux)")
    if sys.version_info[:2] != PYTHON:
        pytest.skip(f"wheels are fetched by this Python, and Debian's {SUITE} has {PYTHON[0]}.{PYTHON[1]}")


def cache() -> Path:
    """Where roots and wheels are kept."""
    named = os.environ.get("KONSIL_NSPAWN_CACHE")
    folder = Path(named) if named else Path.home() / ".cache" / "konsil" / "nspawn"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """One process at a time fills a part of the cache (flock(2): freed by the kernel, whatever happens)."""
    with (cache() / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def base_root(suite: str = SUITE, packages: str = PACKAGES) -> Path:
    """A minimal Debian root, made once; never booted itself."""
    name = f"{suite}-{hashlib.sha256(packages.encode()).hexdigest()[:8]}"
    root = cache() / name
    with _alone(name):
        if not (root / ".konsil-done").exists():
            shutil.rmtree(root, ignore_errors=True)
            command = ["debootstrap", "--variant=minbase", f"--include={packages}", suite, str(root)]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.fail(f"debootstrap failed: {done.stdout[-500:]}{done.stderr[-500:]}")
            (root / ".konsil-done").touch()
    return root


def wheels(source: Path) -> Path:
    """Everything that an installation without network takes, for these pins."""
    pins = b"".join((source / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    name = f"wheels-{hashlib.sha256(pins).hexdigest()[:8]}"
    folder = cache() / name
    with _alone(name):
        if not (folder / ".konsil-done").exists():
            command = [source / "deploy" / "install-site", "--torch", "cpu", "--download", folder]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.fail(f"the wheels could not be fetched: {done.stderr[-1000:]}")
            (folder / ".konsil-done").touch()
    return folder


class Machine:
    """One booted machine.

    Args:
        folder: its root and its console's output go there.
        binds: host's folders that it sees read-only, by their path in the machine.
    """

    def __init__(self, folder: Path, binds: dict[str, Path]) -> None:
        self.root = folder / "root"
        self._console = folder / "console.log"
        self._binds = binds
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        subprocess.run(["cp", "-a", "--reflink=auto", str(base_root()), str(self.root)], check=True)

    def boot(self, within: float = 60.0) -> None:
        """Start it, and wait until its systemd has started everything."""
        command = ["setpriv", "--pdeathsig", "KILL"]  # a test run that is killed leaves no machine behind
        command += ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", f"--directory={self.root}"]
        command += [f"--bind-ro={path}:{name}" for name, path in self._binds.items()]
        with self._console.open("wb") as console:
            self._nspawn = subprocess.Popen(
                [*command, f"--machine=konsil-{os.getpid()}"], stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        deadline = time.monotonic() + within
        while self._state() not in ("running", "degraded"):
            if self._nspawn.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the machine did not boot: {self._console.read_text(errors='replace')[-1000:]}")
            time.sleep(0.1)

    def _state(self) -> str:
        assert self._nspawn is not None
        pid = self._nspawn.pid
        with contextlib.suppress(OSError, ValueError, IndexError):
            self._leader = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
            return self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return ""

    def run(
        self, *words: str | Path, check: bool = True, within: float = 60.0, status: int = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine as root; fails where its exit status is another than `status`."""
        namespaces = ["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--root", "--wd"]
        command = ["nsenter", "--target", str(self._leader), *namespaces, "--", *CLEAN, *map(str, words)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=within, check=False
        )
        if check and done.returncode != status:
            pytest.fail(f"{words}: status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    def path(self, inside: str | Path) -> Path:
        """A path of the machine as the host sees it; not below /run and /tmp, which the machine mounts of its own."""
        return self.root / str(inside).lstrip("/")

    def show(self, unit: str, key: str) -> str:
        """One property out of `systemctl show`."""
        return self.run("systemctl", "show", "--value", "--property", key, unit).stdout.strip()

    def journal(self, unit: str, *more: str) -> list[str]:
        """A unit's messages, oldest first."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit, *more).stdout
        return lines.splitlines()

    def close(self) -> None:
        """Shut it down as its power button would, and remove it."""
        if self._nspawn is not None:
            self._nspawn.send_signal(signal.SIGTERM)  # systemd-nspawn(1): an orderly shutdown where --boot was given
            try:
                self._nspawn.wait(30)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.root)], check=True)
