"""A real squid on loopback that asks for a login, for tests of ways out of a hospital. (Debian's package squid.)"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from brokers import eventually

from deploy.local.ports import hold_free_port

HELPER = Path("/usr/lib/squid/basic_ncsa_auth")
USER, PASSWORD = "hospital", "way-out"


class Squid:
    """Lets its one user CONNECT to one port of this machine, and nobody to anything else."""

    def __init__(self, allowed_port: int) -> None:
        if shutil.which("squid") is None or not HELPER.exists():
            pytest.skip("squid (Debian) is not here")
        held = hold_free_port("127.0.0.1")
        self.port = int(held.getsockname()[1])
        held.close()
        # it gives up root at its start, so its folder lies where everybody may pass
        self._folder = folder = Path(tempfile.mkdtemp(prefix="konsil-squid-"))
        user = "proxy" if os.geteuid() == 0 else getpass.getuser()
        users = folder / "users"
        hashed = subprocess.run(
            ["openssl", "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True
        ).stdout.strip()
        users.write_text(f"{USER}:{hashed}\n")
        configuration = folder / "squid.conf"
        configuration.write_text(
            "\n".join(
                (
                    f"http_port 127.0.0.1:{self.port}",
                    f"auth_param basic program {HELPER} {users}",
                    "auth_param basic children 1",
                    "acl known proxy_auth REQUIRED",
                    f"acl broker port {allowed_port}",
                    "http_access deny !broker",
                    "http_access allow CONNECT known",
                    "http_access deny all",
                    f"pid_filename {folder / 'squid.pid'}",
                    "cache_log /dev/null",
                    "memory_cache_shared off",
                    "access_log none",
                    "cache deny all",
                    f"coredump_dir {folder}",
                    f"cache_effective_user {user}",
                    "shutdown_lifetime 0 seconds",
                    "pinger_enable off",
                )
            )
            + "\n"
        )
        if os.geteuid() == 0:
            for path in (folder, users, configuration):
                shutil.chown(path, user)
        command = ["squid", "-N", "-n", f"konsil{self.port}", "-f", str(configuration)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self._answers, what="squid to listen")

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(60)
        shutil.rmtree(self._folder)
