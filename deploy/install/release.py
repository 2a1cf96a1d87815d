"""Releases: one folder each under /opt/konsil, and `current`, which names the one that runs. Standard library only.

/opt/konsil/<version>-<digest>/   a virtual environment with Konsil and its pinned dependencies
/opt/konsil/current -> one of them     /opt/konsil/previous -> the one before, for rolling back

The digest is of the sources and of what they are built for: the same sources are the same release, and are not
installed twice. A folder without its mark is one whose installation was cut off, and is made anew.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from deploy.install.machine import need_space, run_quietly, tell_person
from messages.ground.errors import RequestError, WorkFailed

PACKAGES = ("messages", "nets", "site_agent", "coordinator", "deploy")
FILES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "konsil.py")
MARK = ".konsil-installed"
BUILD = "setuptools>=77"
"""What builds our own wheel: `[build-system]` in pyproject.toml."""


@dataclass(frozen=True, slots=True)
class ReleaseSource:
    """The sources that are installed, and how.

    Attributes:
        folder: a checkout, or the same files unpacked.
        torch: cpu or cuda.
        index: a package index that holds that build of torch, beside pip's own configuration; "": none.
        wheels: a folder of wheels to install from instead, without any network.
    """

    folder: Path
    torch: str
    index: str = ""
    wheels: Path | None = None

    def list_files(self) -> Iterator[Path]:
        """What makes a release, relative to the folder, in a fixed order."""
        yield from map(Path, FILES)
        for package in PACKAGES:
            for path in sorted((self.folder / package).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    yield path.relative_to(self.folder)

    @property
    def name(self) -> str:
        """version-digest, the release's folder."""
        digest = sha256(f"{self.torch} {sys.version_info.major}.{sys.version_info.minor}".encode())
        for path in self.list_files():
            digest.update(f"\n{path}\0".encode())
            digest.update((self.folder / path).read_bytes())
        version = tomllib.loads((self.folder / "pyproject.toml").read_text())["project"]["version"]
        return f"{version}-{digest.hexdigest()[:8]}"

    def torch_requirement(self) -> str:
        """As deploy/bootstrap/environment.sh has it: '===' takes no "+cpu" build that a wheel folder may offer."""
        for line in (self.folder / "constraints.txt").read_text().splitlines():
            if line.startswith("torch=="):
                version = line.removeprefix("torch==").strip()
                return f"torch==={version}" if self.torch == "cuda" else f"torch=={version}"
        raise RequestError("torch is not pinned", where=str(self.folder / "constraints.txt"))

    def copy_to(self, target: Path) -> Path:
        """The files in a folder of their own: building leaves its traces there and not in the checkout."""
        for path in self.list_files():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.folder / path, target / path)
        return target

    def pip_options(self) -> list[str]:
        """Where pip takes wheels from."""
        if self.wheels is not None:
            return ["--no-index", "--find-links", str(self.wheels)]
        return ["--extra-index-url", self.index] if self.index else []

    def pip_environment(self) -> dict[str, str]:
        """Without the network nothing that pip is configured with may lead it there."""
        if self.wheels is None:
            return {"PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        # PIP_*: building our own wheel is a pip of its own, which takes no options of ours
        return {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }


def download_wheels(source: ReleaseSource, folder: Path) -> None:
    """Fill a folder with every wheel that an installation without network takes.

    Run it on a machine with the same Python and processor as the one that is installed on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    constraints = source.folder / "constraints.txt"
    tell_person(
        f"fetching wheels into {folder} (torch for {source.torch} is the largest part; this may take some minutes)"
    )
    with tempfile.TemporaryDirectory(prefix="konsil-") as scratch:
        python = _virtual_environment(Path(scratch, "venv"))
        # the sources themselves are needed for their list of dependencies; their wheel is made at the installation
        copy = source.copy_to(Path(scratch, "source"))
        wheel: list[str | Path] = [
            python,
            "-m",
            "pip",
            "wheel",
            "-qq",
            "--wheel-dir",
            folder,
            "--constraint",
            constraints,
        ]
        wheel += [*source.pip_options(), source.torch_requirement(), f"{copy}[site]", BUILD]
        run_quietly(wheel, "the wheels could not be fetched", advice="Check the network", aloud=True)
    for own in folder.glob("konsil-*.whl"):
        own.unlink()


@dataclass(frozen=True, slots=True)
class Releases:
    """The folder that holds them, /opt/konsil."""

    root: Path

    @property
    def current(self) -> Path | None:
        """The release that `current` names; None before the first installation."""
        return self._release_of("current")

    @property
    def previous(self) -> Path | None:
        """The one before it; None where there is none."""
        return self._release_of("previous")

    def install_release(self, source: ReleaseSource) -> Path:
        """Make the release's folder, or find it made. Does not switch to it.

        Raises:
            WorkFailed: no space, or pip failed; nothing of the half-made folder is ever switched to.
        """
        release = self.root / source.name
        if (release / MARK).exists():
            tell_person(f"release {release.name} is already there")
            return release
        need_space(self.root, source.torch)
        shutil.rmtree(release, ignore_errors=True)
        self.root.mkdir(parents=True, exist_ok=True)
        tell_person(f"making release {release.name} (torch for {source.torch}; this may take some minutes)")
        python = _virtual_environment(release)
        advice = "Fill the folder with --download on a machine with network" if source.wheels else "Check the network"
        with tempfile.TemporaryDirectory(prefix="konsil-") as scratch:
            copy = source.copy_to(Path(scratch))
            constraints = copy / "constraints.txt"
            command: list[str | Path] = [
                python,
                "-m",
                "pip",
                "install",
                "-qq",
                "--constraint",
                constraints,
                *source.pip_options(),
            ]
            command += [source.torch_requirement(), f"{copy}[site]"]
            environment = source.pip_environment()
            try:
                run_quietly(command, "the release could not be installed", env=environment, advice=advice, aloud=True)
            except WorkFailed:
                shutil.rmtree(release, ignore_errors=True)
                raise
        (release / MARK).write_text(f"{source.name}\n")
        return release

    def switch_to(self, release: Path) -> None:
        """Make a release the one that runs at the service's next start, and remember the one before."""
        before = self.current
        if before == release:
            return
        if before is not None:
            self._name_release("previous", before)
        self._name_release("current", release)
        tell_person(f"switched from {before.name} to {release.name}" if before else f"switched to {release.name}")

    def prune_releases(self) -> None:
        """Remove every release but the current and the previous one."""
        kept = {self.current, self.previous}
        for folder in self.root.iterdir():
            if folder.is_dir() and not folder.is_symlink() and (folder / "pyvenv.cfg").exists() and folder not in kept:
                tell_person(f"removing the older release {folder.name}")
                shutil.rmtree(folder)

    def _release_of(self, link: str) -> Path | None:
        path = self.root / link
        return self.root / os.readlink(path) if path.is_symlink() and path.exists() else None

    def _name_release(self, link: str, release: Path) -> None:
        """Atomically: a link is made beside and renamed over the old one (rename(2))."""
        beside = self.root / f".{link}.new"
        beside.unlink(missing_ok=True)
        beside.symlink_to(release.name)
        beside.rename(self.root / link)


def _virtual_environment(folder: Path) -> Path:
    run_quietly(
        [sys.executable, "-m", "venv", folder], "the virtual environment could not be made", advice="Is the disk full?"
    )
    return folder / "bin" / "python"
