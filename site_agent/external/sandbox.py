"""How an operator's program is started: in namespaces of its own, without network, and what it sees.

`unshare(1)` of util-linux makes the namespaces, which needs no root; `inside` builds what is seen in them. The whole
file system is what is listed here: system libraries, the program and its interpreter, `reads`, the data set's folder,
all read-only; the folder of the run and /tmp are the program's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from messages.ground.errors import WorkFailed
from messages.reasons import Reason
from site_agent.config import ExternalTrainer
from site_agent.external import inside

WORK, LIBRARY, TEMPORARY = "/konsil/work", "/konsil/lib", "/tmp"  # noqa: S108 (its own)
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
SYSTEM_FILES = (
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/alternatives", "/etc/localtime",
)  # fmt: skip
TRIED_WITHIN = 30.0
LIBRARY_FILE = Path(__file__).with_name("konsil_trainer.py")
"""The library for such programs: one file, which is put on their path and may be copied."""


class TrainerUnfit(WorkFailed):
    """The operator's program cannot be run as it is registered: the site cannot do what the experiment asks for."""

    reason = Reason.UNSUPPORTED


@dataclass(frozen=True)
class Places:
    """Where a run's files lie on this machine.

    Attributes:
        work: the run's own. scratch: its temporary files. root: an empty folder, where what it sees is put together.
        program: a copy of the program's file, of the hash that the operator gave. library: holds `LIBRARY_FILE`.
    """

    work: Path
    scratch: Path
    root: Path
    program: Path
    library: Path

    @classmethod
    def under(cls, folder: Path) -> Places:
        """In this folder."""
        return cls(*(folder / name for name in ("work", "scratch", "root", "program", "library")))

    def make_anew(self, program: bytes) -> None:
        """Empty but for program and library.

        Raises:
            OSError: no space, for one.
        """
        self.remove()
        for place in (self.work, self.scratch, self.root, self.library):
            place.mkdir(mode=0o700, parents=True)
        self.program.write_bytes(program)
        self.program.chmod(0o700)
        shutil.copyfile(LIBRARY_FILE, self.library / LIBRARY_FILE.name)

    def remove(self) -> None:
        """Remove all that a run has left."""
        for place in (self.work, self.scratch, self.root, self.library):
            for _files, _folder in _walk_all(place):
                pass
            shutil.rmtree(place, ignore_errors=True)
        self.program.unlink(missing_ok=True)

    def count_bytes(self) -> int:
        """What the program has written so far, as far as it can be seen."""
        total = 0
        for place in (self.work, self.scratch):
            for files, folder in _walk_all(place):
                for name in files:
                    with contextlib.suppress(OSError):
                        total += os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
        return total


def _walk_all(place: Path) -> Iterator[tuple[list[str], int]]:
    """Every folder from this one down, as the names of its files and its descriptor.

    Each is made its owner's to read and change first: a program may leave its folders in any mode.
    """
    if _open_to_owner(str(place), None):
        for _path, folders, files, here in os.fwalk(place):
            for name in folders:
                _open_to_owner(name, here)
            yield files, here


def _open_to_owner(name: str, within: int | None) -> bool:
    """Whether it is a folder (and no link to one); it never follows what a running program puts in its place."""
    try:
        held = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=within)
    except OSError:
        return False
    try:
        mode = stat.S_IMODE(os.fstat(held).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{held}", mode | stat.S_IRWXU)  # fchmod takes no O_PATH descriptor
    finally:
        os.close(held)
    return True


def read_program(trainer: ExternalTrainer) -> bytes:
    """The program's file, which has the hash that the operator gave.

    Raises:
        TrainerUnfit: it has another one, or cannot be read.
    """
    try:
        content = trainer.file.read_bytes()
    except OSError as error:
        raise TrainerUnfit(f"cannot be read ({error.strerror})", where=str(trainer.file)) from None
    found = sha256(content).hexdigest()
    if found != trainer.sha256:
        raise TrainerUnfit(
            f"has the SHA-256 {found}, and site.toml says another",
            where=str(trainer.file),
            advice="Look at what changed in the program; then write its new hash into site.toml",
        )
    return content


def start_command(
    trainer: ExternalTrainer,
    places: Places,
    *,
    shown: Sequence[Path],
    hidden: Sequence[Path],
    threads: int,
    gpus: Sequence[int],
    ram: int | None,
) -> list[str]:
    """The command line that starts the program.

    Args:
        shown: folders of data, read-only. hidden: what of them and of all else is not to be seen.
        ram: most memory; None: no limit.
    """
    boxed = trainer.sandbox == "namespaces"
    work, temporary = (WORK, TEMPORARY) if boxed else (str(places.work), str(places.scratch))
    library = LIBRARY if boxed else str(places.library)
    most = {"RLIMIT_CORE": 0, "RLIMIT_FSIZE": trainer.disk}
    most |= {} if ram is None else {"RLIMIT_DATA": ram}
    plan = {
        "view": _list_view(trainer, places, shown, hidden, gpus) if boxed else None,
        "root": str(places.root),
        "parent": os.getpid(),
        "folder": work,
        "limits": most,
        "environment": _environment(temporary, library, threads, gpus),
        "command": list(trainer.command),
    }
    return [sys.executable, "-I", str(Path(inside.__file__)), "tie", json.dumps(plan)]


def try_sandbox(folder: Path) -> str | None:
    """Why no sandbox can be made on this machine, in words; None where one can."""
    places = Places.under(folder)
    trainer = ExternalTrainer(command=("/usr/bin/true",), sha256="0" * 64)
    try:
        places.make_anew(Path("/usr/bin/true").read_bytes())
        command = start_command(trainer, places, shown=(), hidden=(), threads=1, gpus=(), ram=None)
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TRIED_WITHIN, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        places.remove()
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines()
    return said[-1][:300] if said else f"status {done.returncode}"


def _environment(temporary: str, library: str, threads: int, gpus: Sequence[int]) -> dict[str, str]:
    counted = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": temporary,
        "TMPDIR": temporary,
        "USER": "konsil",
        "LOGNAME": "konsil",
        "LANG": "C.UTF-8",
        "PYTHONPATH": library,
        "PYTHONDONTWRITEBYTECODE": "1",
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus)),
        **dict.fromkeys(counted, str(threads)),
    }


def _list_view(
    trainer: ExternalTrainer, places: Places, shown: Sequence[Path], hidden: Sequence[Path], gpus: Sequence[int]
) -> dict[str, list[list[str]]]:
    """What the program sees: source on this machine and place, which are the same but for the run's own folders."""
    links = [[os.readlink(place), place] for place in SYSTEM if os.path.islink(place)]
    system = [place for place in (*SYSTEM, *SYSTEM_FILES) if os.path.exists(place) and not os.path.islink(place)]
    system += [place for place in SYSTEM_FILES if os.path.islink(place) and os.path.exists(place)]
    read = [*system, *map(str, _find_interpreter(Path(trainer.command[0]))), *map(str, (*trainer.reads, *shown))]
    return {
        "links": links,
        "read": [
            *([place, place] for place in dict.fromkeys(read)),
            [str(places.program), str(trainer.file)],
            [str(places.library), LIBRARY],
        ],
        "hidden": [[str(place)] for place in hidden],
        "write": [[str(places.work), WORK], [str(places.scratch), TEMPORARY]],
        "devices": [[name] for name in sorted(os.listdir("/dev")) if gpus and name.startswith("nvidia")],
    }


def _find_interpreter(program: Path) -> list[Path]:
    """The command's own installation: of `PREFIX/bin/python` the whole prefix, and that of the file behind the link."""
    found = []
    for one in (program, *([] if not program.is_absolute() else [program.resolve()])):
        prefix = one.parent.parent
        whole = one.parent.name == "bin" and ((prefix / "pyvenv.cfg").is_file() or (prefix / "lib").is_dir())
        if one.is_absolute() and not one.is_relative_to("/usr") and prefix != Path("/"):
            found.append(prefix if whole else one)
    return found
