"""The prepared cases of one data set on disk, and the sets made of them; safe against a kill at any point.

`STATE/datasets/NAME/` holds `cases/CASE.DIGEST/`, a folder a case and content in BraTS layout; `sets/FINGERPRINT/`, a
folder of links to them: one state of the data set, which stays as it is while newer ones come; `manifest.json`, the
newest state as counts; `index.sqlite`, `spool/` and `lock`. Everything appears under another name and is renamed
when it is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from messages.ground import crash
from messages.ground.durable import sync_to_disk
from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.dicom.base import Accounting, LabelMap, Volume

KEPT_SECONDS = 30 * 86400.0
"""How long a case that no set uses is kept, where `disk` does not ask for less."""
ENDINGS = {"T1": "t1n", "T1c": "t1c", "T2": "t2w", "FLAIR": "t2f"}
PATIENT_ID = r"^(p[0-9a-f]{16})-case-[0-9a-f]{16}$"
"""Finds the patient's pseudonym in a case's name."""

Seal = Callable[[bytes], bytes]


def folder_of(state: Path, name: str) -> Path:
    """Where a data set's prepared cases lie under a site's state directory."""
    return state / "datasets" / name


def set_folder(state: Path, name: str, fingerprint: str) -> Path:
    """One state of the data set, laid out as `site_agent.datasets` reads "brats"."""
    return folder_of(state, name) / "sets" / fingerprint


def patient_of(case: str) -> str:
    """The patient's pseudonym in a case's name."""
    return case.partition("-")[0]


def study_of(case: str) -> str:
    """The study's pseudonym in the name of a case, or of its folder."""
    return case.partition("-")[2].partition(".")[0]


class Store:
    """One data set's folder.

    Raises:
        DataError: it cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cases, self.sets = folder / "cases", folder / "sets"
        try:
            for one in (folder, self.cases, self.sets):
                one.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"cannot be written ({error.strerror})",
                where=str(folder),
                advice="Give the agent's user write access to the state directory",
            ) from None

    @contextlib.contextmanager
    def lock(self, waiting: Callable[[], None]) -> Iterator[None]:
        """One preparation at a time; `waiting` is called now and then while another one works."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waiting()
                    time.sleep(0.2)
            self._sweep_leftovers()
            yield
        finally:
            os.close(descriptor)

    def place_of(self, case: str, digest: str) -> Path:
        """Where a case of this content lies."""
        return self.cases / f"{case}.{digest}"

    def holds_case(self, case: str, digest: str) -> bool:
        """Whether a case of this content is there, whole."""
        return bool(digest) and self.place_of(case, digest).is_dir()

    def put_case(
        self, case: str, digest: str, channels: Mapping[str, Volume], label: LabelMap, seal: Seal | None = None
    ) -> None:
        """Write a case; a no-op where it is there already. OSError where the disk is full.

        Args:
            channels: modality → volume, all on one grid.
            seal: encrypts a file's content.
        """
        final = self.place_of(case, digest)
        if final.exists():
            return
        beside = self.cases / f".{case}.{digest}.{os.getpid()}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(mode=0o700)
        try:
            affine = next(iter(channels.values())).affine
            for name, volume in channels.items():
                self._write_volume(beside / f"{case}-{ENDINGS[name]}.nii.gz", volume.voxels, affine, seal)
            self._write_volume(beside / f"{case}-seg.nii.gz", label.voxels, affine, seal)
            sync_to_disk(beside)
            crash.pass_step("dicom:storing")
            beside.rename(final)
            sync_to_disk(self.cases)
            crash.pass_step("dicom:stored")
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise

    @staticmethod
    def _write_volume(path: Path, voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64], seal: Seal | None) -> None:
        import nibabel as nib

        image = nib.Nifti1Image(voxels, None)
        image.set_sform(affine, code=1)
        image.header.set_xyzt_units("mm")
        # Level 1: float32 voxels hardly shrink further. mtime 0: the same bytes each time.
        content = gzip.compress(image.to_bytes(), 1, mtime=0)
        if seal is not None:
            path, content = path.with_name(path.name + ".enc"), seal(content)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def publish_state(self, fingerprint: str, members: Mapping[str, str], accounting: Accounting) -> None:
        """Make this the data set's newest state.

        Args:
            members: case → digest of its content.
        """
        final = self.sets / fingerprint
        if not final.is_dir():
            beside = self.sets / f".{fingerprint}.{os.getpid()}"
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(mode=0o700)
            for case, digest in members.items():
                (beside / case).symlink_to(Path("..", "..", "cases", f"{case}.{digest}"))
            sync_to_disk(beside)
            beside.rename(final)
            sync_to_disk(self.sets)
        for case, digest in members.items():
            os.utime(self.place_of(case, digest))
        manifest = self.folder / ".manifest.json"
        with manifest.open("w", encoding="utf-8") as file:
            json.dump(accounting_as_plain(accounting), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        crash.pass_step("dicom:publishing")
        manifest.replace(self.folder / "manifest.json")
        sync_to_disk(self.folder)
        crash.pass_step("dicom:published")

    def make_room(self, used: Collection[Path], most: int | None, now: float) -> int:
        """Remove cases that nothing uses, the longest unused first, until no more than `most` bytes are taken.

        Without `most`, those that nothing used for a month. Returns the bytes that are taken then.
        """
        sizes = {path: _folder_size(path) for path in self.list_cases()}
        unused = sorted((path.stat().st_mtime, path) for path in sizes if path not in used)
        total = sum(sizes.values())
        for touched, path in unused:
            if (total > most) if most is not None else (now - touched > KEPT_SECONDS):
                _remove_folder(path)
                total -= sizes[path]
        return total

    def drop_sets(self, kept: Collection[str]) -> None:
        """Forget the states that are not among `kept`; their cases stay until room is needed."""
        for path in self.sets.iterdir():
            if path.name not in kept:
                _remove_folder(path)

    def drop_cases(self, gone: Callable[[str, str], bool]) -> None:
        """Remove every case of which `gone` says so, by the pseudonyms of patient and study, whatever uses it."""
        for path in self.list_cases():
            if gone(patient_of(path.name), study_of(path.name)):
                _remove_folder(path)

    def drop_case(self, case: str) -> None:
        """Remove one case, whatever its content and whatever uses it."""
        for path in self.list_cases():
            if path.name.partition(".")[0] == case:
                _remove_folder(path)

    def drop_open(self, sealed: str, used: Collection[Path]) -> None:
        """Remove cases that lie unencrypted (their digest does not end with `sealed`) and are not used."""
        for path in self.list_cases():
            if not path.name.endswith(sealed) and path not in used:
                _remove_folder(path)

    def cases_size(self) -> int:
        """Bytes that all cases take."""
        return sum(_folder_size(path) for path in self.list_cases())

    def size_of(self, case: str, digest: str) -> int:
        """Bytes that one case takes."""
        return _folder_size(self.place_of(case, digest))

    def remove_case(self, case: str, digest: str) -> None:
        """Remove one case."""
        _remove_folder(self.place_of(case, digest))

    def used_by(self, fingerprints: Collection[str]) -> set[Path]:
        """The cases that some states of the data set are made of."""
        links = (link for name in fingerprints for link in _list_folder(self.sets / name))
        return {self.cases / os.readlink(link).rpartition("/")[2] for link in links if link.is_symlink()}

    def state_members(self, fingerprint: str) -> dict[str, str]:
        """What a state of the data set is made of, be it there or not: case → digest of its content."""
        links = [link for link in _list_folder(self.sets / fingerprint) if link.is_symlink()]
        return {link.name: os.readlink(link).rpartition("/")[2].removeprefix(f"{link.name}.") for link in links}

    def list_cases(self) -> list[Path]:
        """The folders of all cases, used or not."""
        return [path for path in self.cases.iterdir() if not path.name.startswith(".")]

    def _sweep_leftovers(self) -> None:
        """Remove what a killed preparation left half-written; under the lock no other one is at work."""
        for folder in (self.cases, self.sets):
            for path in folder.iterdir():
                if path.name.startswith("."):
                    shutil.rmtree(path, ignore_errors=True)


def count_whole_cases(folder: Path) -> int | None:
    """How many cases a state of the data set has; None where it is gone or lacks one of them."""
    links = [path for path in _list_folder(folder) if path.is_symlink()]
    return len(links) if folder.is_dir() and all(path.is_dir() for path in links) else None


def list_cases(folder: Path) -> list[str]:
    """Names of the cases of a state of the data set, be they there or not."""
    return [path.name for path in _list_folder(folder) if path.is_symlink()]


def accounting_as_plain(accounting: Accounting) -> dict[str, Any]:
    """As the manifest holds it: counts, and the fingerprint."""
    return {
        "schema": 1,
        "found": accounting.found,
        "used": accounting.used,
        "left_out": _by_code(accounting.left_out),
        "series_left_out": _by_code(accounting.series_left_out),
        "extent_unverified": accounting.extent_unverified,
        "fingerprint": accounting.fingerprint,
    } | ({} if accounting.as_of is None else {"as_of": accounting.as_of})


def accounting_from_plain(content: Mapping[str, Any]) -> Accounting:
    """What `accounting_as_plain` wrote; raises ValueError, KeyError or TypeError for anything else."""
    return Accounting(
        found=int(content["found"]),
        used=int(content["used"]),
        left_out=Counter({Reason(key): int(count) for key, count in content["left_out"].items()}),
        series_left_out=Counter({Reason(key): int(count) for key, count in content["series_left_out"].items()}),
        extent_unverified=int(content["extent_unverified"]),
        fingerprint=str(content["fingerprint"]),
        as_of=float(content["as_of"]) if "as_of" in content else None,
    )


def read_manifest(state: Path, name: str) -> Accounting | None:
    """The newest state of a data set; None where none was prepared."""
    try:
        return accounting_from_plain(json.loads((folder_of(state, name) / "manifest.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _by_code(counts: Mapping[Reason, int]) -> dict[str, int]:
    return {reason.value: count for reason, count in sorted(counts.items()) if count}


def _list_folder(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _folder_size(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.iterdir())


def _remove_folder(folder: Path) -> None:
    """Under another name first: a kill half-way leaves nothing that looks whole."""
    beside = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(beside, ignore_errors=True)
    folder.rename(beside)
    shutil.rmtree(beside, ignore_errors=True)
