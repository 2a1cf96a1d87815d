"""Models and updates as content-addressed files: named by their seal (SHA-256 over manifest and chunk digests).

The seal is what the wire names a transfer's content by, so no second pass over the bytes is needed to store it.
One folder an experiment, so that pruning one never touches another.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from messages.ground.durable import keep_file
from messages.ground.errors import RequestError
from messages.tensors.layout import Manifest
from messages.tensors.seals import Sealer, map_file

Buffer = NDArray[np.uint8]


class Blobs:
    """A folder of blobs.

    Args:
        folder: made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sealer = Sealer()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"cannot be used ({error.strerror})", where=str(folder)) from None

    def path_of(self, experiment: str, seal: str) -> Path:
        """Where a blob is or would be. Ids and seals are checked at decoding, so the path stays inside."""
        return self.folder / experiment / seal

    def has_blob(self, experiment: str, seal: str) -> bool:
        """Whether the blob is there."""
        return self.path_of(experiment, seal).is_file()

    def scratch_file(self, experiment: str, name: str) -> Path:
        """A file on the same file system to write to before `keep_blob`."""
        folder = self.folder / experiment
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{name}.part"

    def keep_blob(self, experiment: str, seal: str, source: Path) -> None:
        """Make a finished file durable under its seal: fsync, rename, fsync of the folder."""
        destination = self.path_of(experiment, seal)
        destination.parent.mkdir(parents=True, exist_ok=True)
        keep_file(source, destination)

    def open_blob(self, experiment: str, seal: str, manifest: Manifest) -> Buffer:
        """The blob's bytes, mapped read-only; FileNotFoundError where it is gone, ValueError where its size differs."""
        return map_file(self.path_of(experiment, seal), manifest)

    def is_intact(self, experiment: str, seal: str, manifest: Manifest) -> bool:
        """Whether the blob is there and still what its name says."""
        try:
            buffer = self.open_blob(experiment, seal, manifest)
        except (OSError, ValueError):
            return False
        return self.sealer.seal_buffer(manifest, buffer) == seal

    def drop_blobs(self, experiment: str, keep: Collection[str]) -> list[Path]:
        """Take the experiment's blobs but these away; the files that are left to unlink, which takes a disk's time.

        Nobody finds them under their names any more. Unfinished files are left alone.
        """
        folder = self.folder / experiment
        if not folder.is_dir():
            return []
        gone = []
        for one in [one for one in folder.iterdir() if len(one.name) == 64 and one.name not in keep and one.is_file()]:
            with suppress(FileNotFoundError):  # a job that found it broken has removed it meanwhile
                gone.append(one.replace(self.scratch_file(experiment, f"gone-{one.name}")))
        return gone

    def remove_scratch(self) -> None:
        """Remove what jobs of a process that was killed were writing; while no job runs. Transfers are resumed."""
        for path in self.folder.glob("*/*.part"):
            if not path.name.startswith(f"{path.parent.name}."):
                path.unlink(missing_ok=True)


@contextmanager
def create_mapped(path: Path, size: int) -> Iterator[Any]:
    """A new file of so many bytes, mapped for writing; `Blobs.keep_blob` makes it durable.

    What an interrupted job left there is unlinked, never cut short: who has it mapped would die of that (SIGBUS).
    """
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.truncate(size)
        if size:
            # Reserve the space now: running out of it inside a mapping would kill the process (SIGBUS).
            os.posix_fallocate(file.fileno(), 0, size)
    if size == 0:
        yield np.zeros(0, dtype=np.uint8)
        return
    yield np.memmap(path, dtype=np.uint8, mode="r+")
