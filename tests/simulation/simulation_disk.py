"""What a power cut leaves of a folder: what was synced, and of the rest a part that a seed decides.

Own files: fsync(2) promises the content of a file that was synced, and a name once its folder was. The rest may be
there, torn, or as it was. SQLite (https://sqlite.org/pragma.html#pragma_synchronous): with FULL every commit stays in
WAL mode. With less, what is in the write-ahead log may be lost. Folders stay: journaling file systems commit them
along.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

DATABASES = ("spool.sqlite", "journal.sqlite", "lineage.sqlite")
LEFT = ("agent.sock", "lock", "journal.lock")
SYNC = os.fsync
"""The machine's own, before a world takes its place."""
SECTOR = 512
"""A file so small is written whole or not at all."""


class Disk:
    """Every machine's disk: what was synced of it."""

    def __init__(self) -> None:
        self._files: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}

    def note_sync(self, descriptor: int) -> None:
        """Instead of `os.fsync`."""
        SYNC(descriptor)
        found = os.fstat(descriptor)
        path = f"/proc/self/fd/{descriptor}"
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                self._names[found.st_ino] = {one.name: one.inode() for one in entries}
        else:
            with open(path, "rb") as file:
                self._files[found.st_ino] = file.read()

    def is_durable(self, path: Path) -> bool:
        """Whether a file, and its name, would survive a power cut now."""
        if not path.is_file():
            return False
        number = path.stat().st_ino
        named = self._names.get(path.parent.stat().st_ino, {}).get(path.name) == number
        return named and self._files.get(number) == path.read_bytes()

    def copy_after_kill(self, source: Path, target: Path) -> None:
        """What another process finds after a SIGKILL: all that was written, synced or not."""
        shutil.copytree(source, target, ignore=_left_behind)
        for folder, _folders, files in os.walk(target):
            there, here = Path(folder), source / Path(folder).relative_to(target)
            names = self._names.get(here.stat().st_ino, {})
            kept = self._names[there.stat().st_ino] = {}
            for name in files:
                before, after = (here / name).stat().st_ino, (there / name).stat().st_ino
                if before in self._files:
                    self._files[after] = self._files[before]
                if names.get(name) == before:
                    kept[name] = after

    def copy_after_power_cut(self, source: Path, target: Path, draw: random.Random, *, full: bool) -> None:
        """What is found after a power cut.

        Args:
            full: whether the folder's databases were written with `synchronous` FULL.
        """
        shutil.copytree(source, target, ignore=_left_behind)
        for folder, _folders, files in sorted(os.walk(source)):
            here = Path(folder)
            there = target / here.relative_to(source)
            names = self._names.get(os.stat(folder).st_ino, {})
            for name in sorted({*files, *names}):
                if name.startswith(DATABASES) or name in LEFT or (here / name).is_dir():
                    continue
                self._cut_file(here / name, there / name, names.get(name), draw)
        if not full:
            for base in DATABASES:
                (target / f"{base}-wal").unlink(missing_ok=True)
        for folder, _folders, files in os.walk(target):  # what is found on a disk is on it
            there = Path(folder)
            self._names[there.stat().st_ino] = {name: (there / name).stat().st_ino for name in files}
            for name in files:
                self._files[(there / name).stat().st_ino] = (there / name).read_bytes()

    def _cut_file(self, path: Path, copy: Path, named: int | None, draw: random.Random) -> None:
        now = path.stat().st_ino if path.exists() else None
        if now != named and draw.random() < 0.5:  # the folder is as it was when it was synced last
            copy.unlink(missing_ok=True)
            if named is None:
                return
            now = named
        if now is None:
            return
        synced = self._files.get(now)
        content = path.read_bytes() if path.exists() and path.stat().st_ino == now else synced
        if content is None or (content == synced and path.exists() and path.stat().st_ino == now):
            return
        if content != synced and draw.random() < 0.6:
            content = _tear(content, synced or b"", draw)
        copy.write_bytes(content)


def _tear(content: bytes, before: bytes, draw: random.Random) -> bytes:
    if len(content) <= SECTOR or draw.random() < 0.3:
        return before
    cut = draw.randrange(0, len(content), SECTOR)
    return content[:cut] + (b"" if draw.random() < 0.5 else bytes(len(content) - cut))


def _left_behind(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in LEFT or name.endswith("-shm")]
