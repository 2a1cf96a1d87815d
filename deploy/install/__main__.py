"""`python -m deploy.install site|coordinator`: install, upgrade, roll back, uninstall. See docs/install.md.

Behind deploy/install-site, install-coordinator, uninstall-site and uninstall-coordinator. Each step looks first whether
it is done already, so that it can be run again after whatever cut it off.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.install import machine
from deploy.install.machine import tell_person
from deploy.install.release import Releases, ReleaseSource, download_wheels
from deploy.install.service import SERVICES, Service
from messages.ground.errors import KonsilError, RequestError, WorkFailed

ROOT = Path("/opt/konsil")
COMMAND = Path("/usr/local/bin/konsil")
CHECKOUT = Path(__file__).parents[2]


def _parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="deploy/install-ROLE", description="Installs one of Konsil's services under systemd; docs/install.md."
    )
    parser.add_argument("role", choices=sorted(SERVICES))
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--download", type=Path, metavar="DIR", help="only fill DIR with wheels for --wheels (no root)")
    what.add_argument("--rollback", action="store_true", help="go back to the release before; state is kept")
    what.add_argument("--uninstall", action="store_true", help="remove service and releases; state is kept")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="install from this folder, without any network")
    parser.add_argument(
        "--torch", choices=("cpu", "cuda"), help="build of torch (default: cuda where a GPU is visible)"
    )
    parser.add_argument("--torch-index", default=os.environ.get("KONSIL_TORCH_INDEX", ""), help="index that holds it")
    parser.add_argument("--config", type=Path, metavar="FILE", help="taken as configuration where there is none yet")
    parser.add_argument(
        "--skip-preflight", action="store_true", help="switch and start whatever the preflight would say"
    )
    parser.add_argument("--no-start", action="store_true", help="do not start a service that does not run yet")
    parser.add_argument("--purge", action="store_true", help="with --uninstall: configuration, state and user go too")
    return parser.parse_args(words)


def _find_source(asked: argparse.Namespace) -> ReleaseSource:
    if not (CHECKOUT / "pyproject.toml").exists():
        raise RequestError("the sources are not here", where=str(CHECKOUT), advice="Run deploy/install-* of a checkout")
    for path in (asked.wheels, asked.config):
        if path is not None and not path.exists():
            raise RequestError("does not exist", where=str(path))
    torch = asked.torch or os.environ.get("KONSIL_TORCH") or ("cuda" if machine.gpu_visible() else "cpu")
    if torch not in machine.NEEDED:
        raise RequestError(f"KONSIL_TORCH={torch} is not known", advice="Use cpu or cuda")
    return ReleaseSource(CHECKOUT, torch, asked.torch_index, asked.wheels and asked.wheels.absolute())


def install_service(service: Service, asked: argparse.Namespace, releases: Releases) -> int:
    """Install or upgrade; the exit status."""
    source = _find_source(asked)
    systemd = machine.need_systemd()
    fresh = service.prepare_machine(asked.config, CHECKOUT / "deploy" / "systemd")
    release = releases.install_release(source)
    if fresh:
        releases.switch_to(release)
        service.install_unit(release, systemd)
        _link_command()
        tell_person(
            f"next: fill in {service.config}, put the broker's password into {service.credentials}/broker-password"
        )
        tell_person(f"then run deploy/install-{service.role} again: it checks, and starts the service")
        return 0
    ran, before = service.active, releases.current
    if ran and before != release:
        service.stop()  # before the switch: training processes start from `current`, and must be the agent's release
    releases.switch_to(release)
    changed = service.install_unit(release, systemd) or before != release
    _link_command()
    if service.role == "site" and not asked.skip_preflight and (status := service.run_preflight()):
        return _go_back(service, releases, before, systemd, status, ran=ran)
    if (changed and ran) or not (ran or asked.no_start):
        service.start()
    elif ran:
        tell_person(f"{service.name} runs already: {service.read_property('StatusText')}")
    releases.prune_releases()
    return 0


def _go_back(service: Service, releases: Releases, before: Path | None, systemd: int, status: int, *, ran: bool) -> int:
    """After a failed preflight: what ran before runs again, what did not run stays off."""
    if ran and before is not None:
        releases.switch_to(before)
        service.install_unit(before, systemd)
        service.start()
        tell_person(f"the preflight failed: {before.name} goes on. Put right what it names, and run this again")
    else:
        tell_person("the preflight failed: not started. Put right what it names, and run this again")
    return status


def roll_back(service: Service, releases: Releases) -> None:
    """Switch to the release before, and start the service again where it ran.

    Raises:
        RequestError: there is none.
    """
    systemd = machine.need_systemd()
    previous = releases.previous
    if previous is None:
        raise RequestError("there is no earlier release to go back to", where=str(releases.root))
    ran = service.active
    if ran:
        service.stop()
    releases.switch_to(previous)
    service.install_unit(previous, systemd)
    if ran:
        service.start()


def uninstall_service(service: Service, releases: Releases, *, purge: bool) -> None:
    """Remove the service, and the releases where no other service of ours needs them."""
    machine.need_systemd()
    service.remove_service(purge=purge)
    if any(other.unit.exists() for other in SERVICES.values()):
        tell_person(f"{releases.root} stays: another of Konsil's services uses it")
        return
    if COMMAND.is_symlink() and str(COMMAND.readlink()).startswith(str(releases.root)):
        COMMAND.unlink()
    if releases.root.exists():
        shutil.rmtree(releases.root)
        tell_person(f"removed {releases.root}")
    if not purge:
        tell_person(f"kept {service.config}, {service.credentials} and {service.state} (--purge removes them)")


def _link_command() -> None:
    """`konsil` on everybody's path, unless something else has that name."""
    if not (COMMAND.exists() or COMMAND.is_symlink()):
        COMMAND.symlink_to(ROOT / "current" / "bin" / "konsil")


def main(words: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 failed, 2 the request was wrong, 3 something needed is missing."""
    asked = _parse_arguments(words)
    service, releases = SERVICES[asked.role], Releases(ROOT)
    os.umask(0o022)  # the service's user reads what root installs
    try:
        if asked.download:
            download_wheels(_find_source(asked), asked.download_wheels.absolute())
            return 0
        machine.need_root()
        if asked.rollback:
            roll_back(service, releases)
        elif asked.uninstall:
            uninstall_service(service, releases, purge=asked.purge)
        else:
            return install_service(service, asked, releases)
    except KonsilError as error:
        sys.stderr.write(f"konsil: {error}\n")
        return error.exit_status
    except OSError as error:
        failed = WorkFailed(f"{error.strerror or error}", where=str(error.filename or ""))
        sys.stderr.write(f"konsil: {failed}\n")
        return failed.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("konsil: interrupted; run it again to go on\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
