"""A service on this machine: its user, files under /etc, unit, and what systemd says of it. Standard library only."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.install import units
from deploy.install.machine import run_quietly, tell_person
from messages.ground.errors import WorkFailed

ETC = Path("/etc/konsil")
UNITS = Path("/etc/systemd/system")
SYSUSERS = Path("/etc/sysusers.d")


@dataclass(frozen=True, slots=True)
class Service:
    """One of Konsil's services.

    Attributes:
        role: site or coordinator.
        user: system user and group of its own. Fixed rather than DynamicUser=: images lie on shares whose rights name a
            user or a group, NFS knows numbers only, and these must be the same after an upgrade.
        state: kept by upgrade, rollback and uninstalling.
    """

    role: str
    user: str
    state: Path
    what: str

    @property
    def name(self) -> str:
        return f"konsil-{self.role}"

    @property
    def unit(self) -> Path:
        return UNITS / f"{self.name}.service"

    @property
    def config(self) -> Path:
        return ETC / f"{self.role}.toml"

    @property
    def credentials(self) -> Path:
        """Each file in it is a credential of that name (LoadCredential= in the unit); root's alone."""
        return ETC / "credentials" / self.role

    # ---- files

    def prepare_machine(self, config: Path | None, templates: Path) -> bool:
        """User, folders, configuration; what exists is left as it is. Whether the configuration still has to be filled.

        Args:
            config: a finished configuration to take, where there is none yet; None: the commented template.
        """
        users = SYSUSERS / f"{self.name}.conf"
        _write_changed(users, units.write_sysusers(self.user, str(self.state), self.what), 0o644)
        run_quietly(["systemd-sysusers", users], f"the system user {self.user} could not be made")
        ETC.mkdir(mode=0o755, exist_ok=True)
        for folder in (self.credentials.parent, self.credentials):
            folder.mkdir(exist_ok=True)
            folder.chmod(0o700)
        if self.config.exists():
            return False
        text = (config or templates / self.config.name).read_text()
        _write_changed(self.config, text, 0o640)
        shutil.chown(self.config, "root", self.user)
        tell_person(f"wrote {self.config}" + ("" if config else ": a template, to be filled in"))
        return config is None

    def install_unit(self, release: Path, systemd: int) -> bool:
        """The release's own unit (so a rollback brings the older one back); whether anything changed."""
        text = next(release.glob(f"lib/python3*/site-packages/deploy/systemd/{self.name}.service")).read_text()
        drop_ins = self.unit.with_name(f"{self.unit.name}.d")
        drop_ins.mkdir(exist_ok=True)
        changed = _write_changed(self.unit, text, 0o644)
        if systemd >= units.BACK_OFF_SINCE:
            changed |= _write_changed(drop_ins / "10-back-off.conf", units.BACK_OFF, 0o644)
        derived = {"notify": units.notify_unit(text)}
        if self.role == "site":
            derived["preflight"] = units.preflight_unit(text)
        for verb, unit in derived.items():
            beside = self.unit.with_name(f"{self.name}-{verb}.service")
            changed |= _write_changed(beside, unit, 0o644)
            # what the operator lets the service see (BindReadOnlyPaths=), these must see as well
            link = beside.with_name(f"{beside.name}.d")
            if not link.exists():
                link.symlink_to(drop_ins.name)
        timer = self.unit.with_name(f"{self.name}-notify.timer")
        changed |= _write_changed(timer, units.NOTIFY_TIMER.format(role=self.role), 0o644)
        if changed:
            tell_person(f"wrote {self.unit}")
        run_systemctl("daemon-reload")
        return changed

    def remove_service(self, *, purge: bool) -> None:
        """Stop it and take its unit away; with `purge` also configuration, credentials, state and user."""
        if self.unit.exists():
            timer = f"{self.name}-notify.timer"
            run_systemctl("disable", "--now", self.unit.name, *([timer] if (UNITS / timer).exists() else []))
        gone = [self.unit, SYSUSERS / f"{self.name}.conf"]
        gone += [UNITS / f"{self.name}-{verb}.service{end}" for verb in ("preflight", "notify") for end in ("", ".d")]
        gone += [UNITS / f"{self.name}-notify.timer"]
        gone += [UNITS / f"{self.unit.name}.d" / "10-back-off.conf"]
        if purge:
            gone += [UNITS / f"{self.unit.name}.d", self.config, self.credentials, self.state]
        for path in gone:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
                tell_person(f"removed {path}")
            elif path.is_symlink() or path.exists():
                path.unlink()
                tell_person(f"removed {path}")
        run_systemctl("daemon-reload")
        if purge:
            for folder in (self.credentials.parent, ETC):
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
            if run_quietly(["getent", "passwd"], "the system's users could not be listed").find(f"\n{self.user}:") >= 0:
                run_quietly(["userdel", self.user], f"the system user {self.user} could not be removed")
                tell_person(f"removed the system user {self.user}")

    # ---- what systemd does

    @property
    def active(self) -> bool:
        """Whether it runs, or is about to run again."""
        return self.unit.exists() and self.read_property("ActiveState") in ("active", "activating", "reloading")

    def read_property(self, key: str, unit: str = "") -> str:
        """One property out of `systemctl show`."""
        return run_systemctl("show", "--value", "--property", key, unit or self.unit.name).strip()

    def run_preflight(self) -> int:
        """Run the preflight in the service's sandbox and show what it says; its exit status."""
        name = f"{self.name}-preflight.service"
        unread = "the journal could not be read"
        tell_person("preflight, in the agent's own sandbox:")
        # A cursor, since systemd forgets the invocation of a unit that ended well; and the unit's own lines are picked
        # here, since systemd 252's journalctl loses the first line where a cursor is combined with a match.
        shown = run_quietly(["journalctl", "--quiet", "--lines=0", "--show-cursor", "--output=cat"], unread)
        _, found, cursor = shown.strip().rpartition("-- cursor: ")
        subprocess.run(["systemctl", "start", name], stdin=subprocess.DEVNULL, capture_output=True, check=False)
        run_quietly(["journalctl", "--sync"], unread)
        after = [f"--after-cursor={cursor}"] if found else []
        for line in run_quietly(["journalctl", "--quiet", "--no-pager", "--output=json", *after], unread).splitlines():
            entry = json.loads(line)
            # a message that is not text comes as a list of bytes (systemd's Journal Export Formats)
            if entry.get("_SYSTEMD_UNIT") == name and isinstance(entry.get("MESSAGE"), str):
                tell_person(f"  {entry['MESSAGE']}")
        status = int(self.read_property("ExecMainStatus", name) or 1)
        if self.read_property("Result", name) != "success":
            run_systemctl("reset-failed", name)
            status = status or 1
        return status

    def start(self) -> None:
        """Start it, or start it again, now and at each boot; returns once it says that it is ready.

        Raises:
            WorkFailed: it did not become ready.
        """
        run_systemctl("enable", self.unit.name)
        try:
            run_systemctl("restart", self.unit.name)
        except WorkFailed:
            raise WorkFailed(
                "did not become ready",
                where=self.unit.name,
                advice=f"Read why: journalctl -u {self.name} -n 20; systemd tries again by itself",
            ) from None
        tell_person(f"{self.name} runs: {self.read_property('StatusText') or 'ready'}")

    def stop(self) -> None:
        """Stop it and wait for its end."""
        run_systemctl("stop", self.unit.name)


SITE = Service("site", "konsil", Path("/var/lib/konsil"), "Konsil site agent")
COORDINATOR = Service("coordinator", "konsil-coordinator", Path("/var/lib/konsil-coordinator"), "Konsil coordinator")
SERVICES = {service.role: service for service in (SITE, COORDINATOR)}


def run_systemctl(*words: str) -> str:
    """What it prints; WorkFailed with its own words."""
    return run_quietly(["systemctl", *words], f"systemctl {words[0]} failed")


def _write_changed(path: Path, text: str, mode: int) -> bool:
    """Write what differs, never half of it; whether it did."""
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    beside.chmod(mode)
    os.replace(beside, path)
    return True
