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
from dataclasses import asdict, replace
from pathlib import Path

from deploy.broker import configuration, keeper
from deploy.broker.certificates import Authority
from deploy.broker.configuration import Ports, Tls
from deploy.broker.definitions import Definitions
from deploy.local import ports as spare_ports
from deploy.local.startup import wait_for_server
from messages.ground.durable import open_private_folder
from messages.ground.errors import RequestError, Unreachable, WorkFailed

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
"""What a client sends first (AMQP 0-9-1, section 4.2.2); a server that is up answers with connection.start."""

SERVER_ROOTS = (Path("/usr/lib/rabbitmq"), Path("/usr/local/lib/rabbitmq"), Path("/opt/rabbitmq"))

INSTALL_ADVICE = (
    "Install it: on Debian or Ubuntu 'sudo apt-get install rabbitmq-server' (and, so that the system's own node "
    "stays off, 'sudo systemctl disable --now rabbitmq-server'); on Fedora 'sudo dnf install rabbitmq-server'; "
    "elsewhere see https://www.rabbitmq.com/docs/download"
)


class PrivateNode:
    """One RabbitMQ server whose whole state lives in `directory`.

    Args:
        directory: made if missing; logs, database and configuration go there.
        port: AMQP port; 0 picks a free one, which is kept over restarts.
        definitions: what the node loads at boot; None keeps what an earlier start wrote.
        detached: let the node outlive this process (`konsil broker up`); otherwise it ends with it, even on SIGKILL.
        tls: serve TLS on a second port (`tls_port`), under an authority of the node's own (`ca`).
        client_certificates: on the TLS port, let only clients in that show a certificate of the same authority;
            they log in with their password all the same.
        certificate_logins: speak TLS alone, on the AMQP port, and know clients by their certificates alone.
        secured: the same with an authority that is kept elsewhere: what the node shows, and how clients log in.
    """

    host = configuration.HOST

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        definitions: Definitions | None = None,
        detached: bool = False,
        tls: bool = False,
        client_certificates: bool = False,
        certificate_logins: bool = False,
        secured: Tls | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self._alone = certificate_logins or secured is not None
        self._tls = tls or self._alone
        self._client_certificates = client_certificates
        self._secured = secured
        self.definitions = definitions
        self._detached = detached
        self._wanted_port = port
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The AMQP port (known after the first start)."""
        return self._pick_ports().amqp

    @property
    def tls_port(self) -> int:
        """The port that speaks TLS (known after the first start); raises RequestError where the node has none."""
        if port := self._pick_ports().tls:
            return port
        raise RequestError("this private broker speaks no TLS", where=str(self.directory), advice="Start it with TLS")

    @property
    def speaks_tls(self) -> bool:
        """Whether the node, as it was last started, has a TLS port; False where it was never started."""
        with contextlib.suppress(RequestError):
            return self._pick_ports().tls != 0
        return False

    @property
    def speaks_tls_alone(self) -> bool:
        """Whether the node, as it was last started, speaks nothing but TLS, with logins by certificate."""
        with contextlib.suppress(RequestError):
            ports = self._pick_ports()
            return ports.tls == ports.amqp
        return False

    @property
    def ca(self) -> Path:
        """PEM of the authority by which clients know the node (there after the first start with TLS)."""
        return self.directory / "tls" / "ca.pem" if self._secured is None else self._secured.ca

    def make_authority(self) -> Authority:
        """The node's own certificate authority, to sign clients' certificates with; made if missing."""
        return Authority(self.directory / "tls", f"Konsil private broker {self.directory.name}")

    @property
    def answers(self) -> bool:
        """Whether its ports answer; on one that speaks TLS it is enough that it takes connections."""
        ports = self._pick_ports()
        plain = ports.amqp == ports.tls or answers_amqp(self.host, ports.amqp)
        return plain and (not ports.tls or _takes_connections(self.host, ports.tls))

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
        open_private_folder(self.directory)
        ports = self._choose_ports()
        tls = self._secured
        if ports.tls and tls is None:
            identity = self.make_authority().issue_server_identity(("localhost", self.host))
            tls = Tls(self.ca, identity, self._client_certificates, "certificate" if self._alone else "password")
        configuration.write_configuration(
            self.directory, ports, server, epmd, definitions=self.definitions, log=self.log, tls=tls
        )
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
        started = self._keeper

        def ended() -> WorkFailed | None:
            if started.poll() is None:
                return None
            return WorkFailed("the private broker ended while starting", where=str(self.log), advice=self._last_words())

        if not wait_for_server(lambda: self.answers, ended, timeout):
            self.kill_node()
            raise WorkFailed(
                f"the private broker did not answer within {timeout:.0f} s",
                where=str(self.log),
                advice="Read its log, or try again on a less busy machine",
            )

    def stop(self, timeout: float = 30.0) -> None:
        """End the node in order; idempotent."""
        self._end_keeper(signal.SIGTERM, timeout)

    def kill_node(self) -> None:
        """End the node the hard way: SIGKILL for the server, as a power cut would; idempotent."""
        pid = self.pid
        if pid is None:
            return
        for child in keeper.list_descendants(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._end_keeper(signal.SIGTERM, 15.0)

    def restart(self, *, hard: bool = False) -> None:
        """Stop (or, `hard`, kill) and start again on the same ports with the same data."""
        if hard:
            self.kill_node()
        else:
            self.stop()
        self.start()

    def wipe_messages(self) -> None:
        """Forget every message (the node must be stopped); ports and definitions stay."""
        if self.pid is not None:
            raise RequestError("a running broker cannot be wiped", where=str(self.directory), advice="Stop it first")
        shutil.rmtree(self.directory / "data", ignore_errors=True)

    def __enter__(self) -> PrivateNode:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end_keeper(self, number: signal.Signals, timeout: float) -> None:
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

    def _pick_ports(self) -> Ports:
        try:
            return Ports(**json.loads((self.directory / "ports.json").read_text()))
        except (OSError, ValueError, TypeError):
            raise RequestError("this private broker was never started", where=str(self.directory)) from None

    def _choose_ports(self) -> Ports:
        """The ports of the last start where they fit, else free ones; each is tried before the server needs it."""
        wanted = self._wanted_port
        with contextlib.suppress(RequestError):
            ports = self._pick_ports()
            if self._wanted_port in (0, ports.amqp) and (self._tls, self._alone) == (
                ports.tls != 0,
                ports.tls == ports.amqp,
            ):
                for port in asdict(ports).values():
                    _claim_port(port).close()
                return ports
            if self._wanted_port in (0, ports.amqp):
                wanted = ports.amqp
        held = [_claim_port(wanted) if wanted else spare_ports.hold_free_port(self.host)]
        held += [spare_ports.hold_free_port(self.host) for _ in range(3 if self._tls and not self._alone else 2)]
        ports = Ports(*(sock.getsockname()[1] for sock in held))
        if self._alone:
            ports = replace(ports, tls=ports.amqp)
        for sock in held:
            sock.close()
        (self.directory / "ports.json").write_text(json.dumps(asdict(ports)))
        return ports

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
            return max(found, key=configuration.version_of)
    raise Unreachable("RabbitMQ is not installed on this machine", advice=INSTALL_ADVICE)


def find_epmd() -> Path:
    """Erlang's port mapper; raises Unreachable where Erlang is not installed."""
    if found := shutil.which("epmd"):
        return Path(found)
    for path in sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd")):
        return path
    raise Unreachable("Erlang's epmd is not installed on this machine", advice=INSTALL_ADVICE)


def answers_amqp(host: str, port: int) -> bool:
    """Whether an AMQP 0-9-1 server speaks on this port."""
    try:
        with socket.create_connection((host, port), timeout=2.0) as sock:
            sock.sendall(PROTOCOL_HEADER)
            return sock.recv(7)[:1] == b"\x01"  # a method frame: connection.start
    except OSError:
        return False


def _takes_connections(host: str, port: int) -> bool:
    """Whether anything takes connections here."""
    try:
        socket.create_connection((host, port), timeout=2.0).close()
    except OSError:
        return False
    return True


def _claim_port(port: int) -> socket.socket:
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
