"""`konsil doctor`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from deploy.console import note_line
from deploy.findings import emit_findings, show_finding
from deploy.session import profile as profiles
from messages.ground.errors import ConfigError, RequestError
from messages.ground.units import human_bytes
from messages.ground.written.documents import read_toml
from site_agent.desk.checks import Check, exit_status

SITE, COORDINATOR = Path("/etc/konsil/site.toml"), Path("/etc/konsil/coordinator.toml")
LOG_WITHIN = 20.0
"""Seconds that journalctl may take."""


@dataclass(frozen=True, slots=True)
class Patient:
    """Who is looked at: the kind of party, its file, what the file says, and the unit that runs it."""

    kind: str
    path: Path
    settings: BaseModel
    unit: str = ""


def doctor(
    file: Annotated[
        Path | None,
        typer.Argument(help="site.toml, coordinator.toml or a profile; else whichever lies in its usual place."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", help="Write what a human may send for help (ZIP); it is shown first.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="The service's log (JSON lines), where it is not in the journal.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Write the bundle without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Find what is wrong with a party, where, and what to do. Works while its service runs, and changes nothing.

    A site's trainer is tried by `konsil site preflight`.

    Examples:

    konsil doctor /etc/konsil/coordinator.toml

    konsil doctor ~/.config/konsil/profile.toml --bundle help.zip
    """
    found = recognise_party(file)
    note_line(f"looking at the {found.kind} of {found.path}; that may take a minute ...")
    checks: list[Check] = []
    for check in run_checks(found):
        checks.append(check)
        if not as_json:
            show_finding(check)
    status = exit_status(checks)
    if as_json:
        emit_findings(checks, {"party": found.kind})
    if bundle is not None:
        _offer_bundle(bundle, checks, found, log, yes=yes)
    raise typer.Exit(status)


def recognise_party(file: Path | None) -> Patient:
    """Read the file that was named, or the one that is there. ConfigError: none, several, or none of ours."""
    if file is None:
        there = [path for path in (SITE, COORDINATOR) if path.exists()]
        if profiles.profile_exists(None):
            there.append(profiles.locate_profile(None))
        if len(there) != 1:
            what = "there is no configuration in the usual places" if not there else "there are several parties here"
            raise ConfigError(
                what,
                where=", ".join(str(path) for path in there or (SITE, COORDINATOR, profiles.default_path())),
                advice="Name the file: konsil doctor FILE",
            )
        file = there[0]
    tables = read_toml(file)
    if "site" in tables:
        from site_agent.config import read_config as read_site

        return Patient("site", file, read_site(file), "konsil-site")
    if "coordinator" in tables:
        from coordinator.config import read_config as read_coordinator

        return Patient("coordinator", file, read_coordinator(file), "konsil-coordinator")
    if "consortium" in tables:
        return Patient("person", file, profiles.load_profile(file))
    raise ConfigError(
        "this is neither site.toml nor coordinator.toml nor a profile",
        where=str(file),
        advice="`konsil init` writes one",
    )


def run_checks(found: Patient) -> Iterator[Check]:
    """The checks of this kind of party, as each is made."""
    from coordinator.config import CoordinatorConfig
    from deploy.doctor.coordinator import check_coordinator
    from deploy.doctor.person import check_person
    from site_agent.config import SiteConfig
    from site_agent.desk.preflight import run_checks as check_site

    settings = found.settings
    if isinstance(settings, SiteConfig):
        yield from check_site(settings, file=found.path)
    elif isinstance(settings, CoordinatorConfig):
        yield from check_coordinator(settings)
    elif isinstance(settings, profiles.Profile):
        yield from check_person(settings)


def _offer_bundle(path: Path, checks: list[Check], found: Patient, log: Path | None, *, yes: bool) -> None:
    from deploy.doctor.bundle import make_bundle, write_bundle

    if path.exists():
        raise RequestError("exists already", where=str(path), advice="Name a new file")
    content = make_bundle(checks, found.settings, _read_log(found.unit, log))
    for name, text in content.items():
        note_line(f"--- {name} ({human_bytes(len(text))})")
        note_line(text.rstrip("\n"))
    note_line("--- That is all. No name, path, address or free text is in it. Please look at it before you send it.")
    if not yes and not typer.confirm(f"Write it to {path}?", err=True):
        note_line("nothing was written")
        return
    write_bundle(path, content)
    note_line(f"written: {path}")


def _read_log(unit: str, log: Path | None) -> list[str]:
    """The last lines of a service's log; none where there is none to read."""
    from deploy.doctor.bundle import LINES

    if log is not None:
        try:
            return log.read_text(encoding="utf-8", errors="replace").splitlines()[-LINES:]
        except OSError as error:
            raise RequestError(f"cannot be read ({error.strerror})", where=str(log)) from None
    if not unit:
        return []
    try:
        told = subprocess.run(
            ["journalctl", "-u", unit, "-n", str(LINES), "-o", "cat", "--no-pager"],
            capture_output=True, text=True, errors="replace", timeout=LOG_WITHIN, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return []
    return told.stdout.splitlines()


app = doctor
