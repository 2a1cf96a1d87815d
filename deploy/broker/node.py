"""A private RabbitMQ node of this user's, on loopback: for the demo, for trying, and for tests.

Needs no root, touches no system service, and leaves no process behind (see `keeper`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from deploy.broker import keeper
from deploy.broker.definitions import Definitions
from messages.errors import RequestError, Unreachable, WorkFailed

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
"""What a client sends first (AMQP 0-9-1, section 4.2.2); a server that is up answers with connection.start."""

SERVER_ROOTS = (Path("/usr/lib/rabbitmq"), Path("/usr/local/lib/rabbitmq"), Path("/opt/rabbitmq"))

INSTALL_ADVICE = (
    "Install it: on Debian or Ubuntu 'sudo apt-get install rabbitmq-server' (and, so that the system's own node "
    "stays off, 'sudo systemctl disable --now rabbitmq-server'); on Fedora 'sudo dnf install rabbitmq-server'; "
    "elsewhere see https://www.rabbitmq.com/docs/download"
)


@dataclass(frozen=True, slots=True)
class Ports:
    """The three ports of a node, all on 127.0.0.1."""

    amqp: int
    distribution: int
    epmd: int


class PrivateNode:
    """One RabbitMQ server whose whole state lives in `directory`.

    Args:
        directory: made if missing; logs, database and configuration go there.
        port: AMQP port; 0 picks a free one, which is kept over restarts.
        definitions: what the node loads at boot; None keeps what an earlier start wrote.
        detached: let the node outlive this process (`konsil broker up`); otherwise it ends with it, even on SIGKILL.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        definitions: Definitions | None = None,
        detached: bool = False,
    ) -> None:
        self.directory = directory.absolute()
        self._definitions = definitions
        self._detached = detached
        self._wanted_port = port
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The AMQP port (known after the first start)."""
        return self._ports().amqp

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.directory / "log" / "rabbit.log"

    @property
    def pid(self) -> int | None:
        """Process id of the keeper, None while nothing runs."""
        if self._keeper is not None:
            return self._keeper.pid if self._keeper.poll() is None else None
        try:
            pid = int((self.directory / "keeper.pid").read_text())
            arguments = Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self.directory) in arguments else None

    def start(self, timeout: float = 60.0) -> None:
        """Start, and wait until the port answers AMQP.

        Raises:
            RequestError: the port is in use, or the node runs already.
            Unreachable: RabbitMQ is not installed.
            WorkFailed: the server ended or did not answer in time.
        """
        server, epmd = find_server(), find_epmd()
        if self.pid is not None:
            raise RequestError(
                "a private broker already runs here",
                where=str(self.directory),
                advice="Stop it with 'konsil broker down'",
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        ports = self._choose_ports()
        self._write_configuration(ports, server, epmd)
        command = [sys.executable, "-I", "-S", keeper.__file__, str(self.directory)]
        if not self._detached:
            command.append(str(os.getpid()))
        self._keeper = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the foreground; the owner decides when the broker ends
        )
        (self.directory / "keeper.pid").write_text(str(self._keeper.pid))
        deadline = time.monotonic() + timeout
        while not answers(self.host, ports.amqp):
            if self._keeper.poll() is not None:
                raise WorkFailed(
                    "the private broker ended while starting", where=str(self.log), advice=self._last_words()
                )
            if time.monotonic() > deadline:
                self.kill()
                raise WorkFailed(
                    f"the private broker did not answer within {timeout:.0f} s",
                    where=str(self.log),
                    advice="Read its log, or try again on a less busy machine",
                )
            time.sleep(0.05)

    def stop(self, timeout: float = 30.0) -> None:
        """End the node in order; idempotent."""
        self._end(signal.SIGTERM, timeout)

    def kill(self) -> None:
        """End the node the hard way: SIGKILL for the server, as a power cut would; idempotent."""
        pid = self.pid
        if pid is None:
            return
        for child in keeper.descendants(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._end(signal.SIGTERM, 15.0)

    def restart(self, *, hard: bool = False) -> None:
        """Stop (or, `hard`, kill) and start again on the same ports with the same data."""
        if hard:
            self.kill()
        else:
            self.stop()
        self.start()

    def wipe(self) -> None:
        """Forget every message (the node must be stopped); ports and definitions stay."""
        if self.pid is not None:
            raise RequestError("a running broker cannot be wiped", where=str(self.directory), advice="Stop it first")
        shutil.rmtree(self.directory / "data", ignore_errors=True)

    def __enter__(self) -> PrivateNode:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end(self, number: signal.Signals, timeout: float) -> None:
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + timeout
            while self.pid is not None:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                    break
                time.sleep(0.02)
        if self._keeper is not None:
            self._keeper.wait()
            self._keeper = None
        (self.directory / "keeper.pid").unlink(missing_ok=True)

    def _ports(self) -> Ports:
        try:
            return Ports(**json.loads((self.directory / "ports.json").read_text()))
        except (OSError, ValueError, TypeError):
            raise RequestError("this private broker was never started", where=str(self.directory)) from None

    def _choose_ports(self) -> Ports:
        """The ports of the last start where they fit, else free ones; each is tried before the server needs it."""
        with contextlib.suppress(RequestError):
            ports = self._ports()
            if self._wanted_port in (0, ports.amqp):
                for port in asdict(ports).values():
                    _claim(port).close()
                return ports
        held = [_claim(self._wanted_port), _claim(0), _claim(0)]
        ports = Ports(*(sock.getsockname()[1] for sock in held))
        for sock in held:
            sock.close()
        (self.directory / "ports.json").write_text(json.dumps(asdict(ports)))
        return ports

    def _write_configuration(self, ports: Ports, server: Path, epmd: Path) -> None:
        home = self.directory
        for folder in ("data", "log", "home"):
            (home / folder).mkdir(exist_ok=True)
        (home / "conf-env").write_text("")
        (home / "enabled_plugins").write_text("[].\n")
        # A bare machine may have no /etc/hosts, so no "localhost" (ERTS user's guide, "Inet configuration").
        (home / "inetrc").write_text('{host, {127,0,0,1}, ["localhost"]}.\n{lookup, [file, native]}.\n')
        definitions = home / "definitions.json"
        if self._definitions is not None:
            _write_private(definitions, json.dumps(self._definitions))
        lines = [
            f"listeners.tcp.1 = {self.host}:{ports.amqp}",
            "disk_free_limit.absolute = 200MB",
            "tcp_listen_options.backlog = 128",
            "tcp_listen_options.nodelay = true",
            "tcp_listen_options.sndbuf = 1048576",
            "tcp_listen_options.recbuf = 1048576",
            "log.console = false",
            "log.file.level = info",
        ]
        if definitions.exists():
            lines.append(f"load_definitions = {definitions}")
        (home / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        environment = {
            "PATH": f"{epmd.parent}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(home / "home"),
            "ERL_EPMD_PORT": str(ports.epmd),
            "ERL_EPMD_ADDRESS": self.host,
            "ERL_INETRC": str(home / "inetrc"),
            # run the VM in place of the shell, so that one process id stands for the server
            "RABBITMQ_ALLOW_INPUT": "true",
            "RABBITMQ_NODENAME": f"konsil-{ports.amqp}@localhost",
            "RABBITMQ_DIST_PORT": str(ports.distribution),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(home / "conf-env"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_LOGS": str(self.log),
            "RABBITMQ_PID_FILE": str(home / "data" / "server.pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "-noinput +B i +S 2:2 +SDcpu 1:1 +SDio 4 +sbwt none +sbwtdcpu none +sbwtdio none "
                "-kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }
        plan = {
            "epmd": [str(epmd), "-port", str(ports.epmd), "-address", self.host],
            "server": [str(server)],
            "environment": environment,
        }
        _write_private(home / "keeper.json", json.dumps(plan, indent=1))

    def _last_words(self) -> str:
        for path in (self.log, self.directory / "server.out"):
            with contextlib.suppress(OSError):
                lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
                if errors := [line for line in lines if "error" in line.lower()]:
                    return errors[-1][:300]
        return "Read its log"


def find_server() -> Path:
    """The server's own start script below the package's lib folder.

    The wrapper in /usr/sbin insists on root or the user rabbitmq, so it will not do.

    Raises:
        Unreachable: RabbitMQ is not installed.
    """
    roots = list(SERVER_ROOTS)
    if custom := os.environ.get("RABBITMQ_HOME"):
        roots.insert(0, Path(custom))
    for root in roots:
        found = [*root.glob("sbin/rabbitmq-server"), *root.glob("lib/rabbitmq_server-*/sbin/rabbitmq-server")]
        if found:
            return max(found, key=_version)
    raise Unreachable("RabbitMQ is not installed on this machine", advice=INSTALL_ADVICE)


def find_epmd() -> Path:
    """Erlang's port mapper; raises Unreachable where Erlang is not installed."""
    if found := shutil.which("epmd"):
        return Path(found)
    for path in sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd")):
        return path
    raise Unreachable("Erlang's epmd is not installed on this machine", advice=INSTALL_ADVICE)


def answers(host: str, port: int) -> bool:
    """Whether an AMQP 0-9-1 server speaks on this port."""
    try:
        with socket.create_connection((host, port), timeout=2.0) as sock:
            sock.sendall(PROTOCOL_HEADER)
            return sock.recv(7)[:1] == b"\x01"  # a method frame: connection.start
    except OSError:
        return False


def _version(path: Path) -> tuple[int, ...]:
    words = path.parent.parent.name.rpartition("-")[2].split(".")
    return tuple(int(word) for word in words if word.isdigit())


def _claim(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((PrivateNode.host, port))
    except OSError as error:
        sock.close()
        raise RequestError(
            f"port {port} cannot be used ({error.strerror})",
            where=f"{PrivateNode.host}:{port}",
            advice="Choose another port with --port, or end what listens there",
        ) from None
    return sock


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
