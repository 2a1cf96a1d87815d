"""The last steps before an operator's program runs: a file system of its own, limits, no rights. Standard library.

`tie` runs first: it ends with the process that watches it, and becomes `unshare(1)`, which makes the namespaces. In
them `enter` runs, as root of a user namespace of its own. From there on nothing of the machine is seen but what is
bound here, read-only but for two folders. `mount_setattr(2)` with AT_RECURSIVE makes mounts below read-only too (Linux
5.12); `pivot_root(2)` leaves the old root.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import platform
import resource
import signal
import sys
from typing import Any

MS_BIND, MS_REC = 4096, 16384
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
RDONLY, NOSUID, NODEV = 1, 2, 4
MOUNT_SETATTR = 442
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
DEVICES = ("null", "zero", "full", "random", "urandom")
SHARED = "/dev/shm"  # noqa: S108 (its own)
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
CAPABILITIES = 64
"""More than there are: those that the kernel does not know are refused, which is no matter."""
UNSHARE = (
    "unshare", "--user", "--map-root-user", "--mount", "--propagation", "private", "--net", "--ipc", "--uts",
    "--pid", "--fork", "--kill-child", "--",
)  # fmt: skip
FAILED = 125

libc = ctypes.CDLL(None, use_errno=True)


def require_done(status: int, what: str) -> None:
    """Raise OSError where a call to the C library failed."""
    if status != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount_at(source: str, place: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    given = [None if one is None else one.encode("utf-8", "surrogateescape") for one in (source, place, kind, data)]
    require_done(libc.mount(given[0], given[1], given[2], ctypes.c_ulong(flags), given[3]), f"mount {place}")


def restrict_mount(place: str, flags: int) -> None:
    """Add flags to a mount and to all below it."""
    attributes = (ctypes.c_uint64 * 4)(flags, 0, 0, 0)
    path = place.encode("utf-8", "surrogateescape")
    done = libc.syscall(MOUNT_SETATTR, AT_FDCWD, path, AT_RECURSIVE, attributes, ctypes.sizeof(attributes))
    require_done(done, f"read-only {place}")


def show_path(root: str, source: str, place: str, *, writable: bool) -> None:
    """Bind a file or folder into the new root."""
    target = root + place
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.lexists(target):
            open(target, "xb").close()
    mount_at(source, target, None, MS_BIND | MS_REC)
    restrict_mount(target, NOSUID | NODEV | (0 if writable else RDONLY))


def build_root(view: dict[str, list[list[str]]], root: str) -> None:
    """Everything that the program sees."""
    mount_at("none", root, "tmpfs", 0, "size=1m,mode=755")
    for target, place in view["links"]:
        os.symlink(target, root + place)
    for source, place in view["write"]:
        show_path(root, source, place, writable=True)
    for source, place in view["read"]:
        show_path(root, source, place, writable=False)
    for (place,) in view["hidden"]:
        if os.path.isdir(root + place):
            mount_at("none", root + place, "tmpfs", 0, "size=4k,mode=755")
            restrict_mount(root + place, RDONLY)
        elif os.path.exists(root + place):
            show_path(root, "/dev/null", place, writable=False)
    os.makedirs(root + SHARED)
    for name in (*DEVICES, *(name for (name,) in view["devices"])):
        if os.path.exists(f"/dev/{name}"):
            open(f"{root}/dev/{name}", "xb").close()
            mount_at(f"/dev/{name}", f"{root}/dev/{name}", None, MS_BIND)
    mount_at("none", root + SHARED, "tmpfs", 0, "size=25%,mode=1777")
    os.symlink("/proc/self/fd", root + "/dev/fd")
    os.makedirs(root + "/proc")
    # Where the service's own /proc is masked, the kernel allows no fresh one: then there is none.
    with contextlib.suppress(OSError):
        mount_at("proc", root + "/proc", "proc", 0)
        restrict_mount(root + "/proc", RDONLY | NOSUID | NODEV)


def enter_root(root: str) -> None:
    """Leave the old root behind."""
    os.chdir(root)
    number = PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(f"pivot_root is not known on {platform.machine()}")
    require_done(libc.syscall(number, b".", b"."), "pivot_root")
    require_done(libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")
    restrict_root = (ctypes.c_uint64 * 4)(RDONLY | NOSUID | NODEV, 0, 0, 0)
    done = libc.syscall(MOUNT_SETATTR, AT_FDCWD, b"/", 0, restrict_root, ctypes.sizeof(restrict_root))
    require_done(done, "read-only /")


def give_up_rights() -> None:
    """What runs from here on has no capability, whatever it executes (capabilities(7), no_new_privs).

    The user namespace began with empty inheritable and ambient sets: without a bounding set nothing is left.
    """
    for number in range(CAPABILITIES):
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    require_done(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def tie(plan: dict[str, Any], given: str) -> None:
    """End with the parent; then make the namespaces, or go on without."""
    require_done(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "parent-death signal")
    if os.getppid() != plan["parent"]:
        os._exit(FAILED)
    if plan["view"] is None:
        enter(plan)
    os.execvp(UNSHARE[0], [*UNSHARE, sys.executable, "-I", __file__, "enter", given])  # noqa: S606 (what it is for)


def enter(plan: dict[str, Any]) -> None:
    """Become the program."""
    for name, most in plan["limits"].items():
        resource.setrlimit(getattr(resource, name), (most, most))
    if plan["view"] is not None:
        build_root(plan["view"], plan["root"])
        enter_root(plan["root"])
    give_up_rights()
    os.chdir(plan["folder"])
    os.execvpe(plan["command"][0], plan["command"], plan["environment"])  # noqa: S606 (what it is for)


def main() -> None:
    """Does not return: the program takes this process over. What fails ends it with status 125 and a line."""
    step, given = sys.argv[1:]
    plan = json.loads(given)
    try:
        if step == "tie":
            tie(plan, given)
        enter(plan)
    except (OSError, ValueError) as error:
        print(f"konsil: the sandbox cannot be made: {error}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(FAILED)


if __name__ == "__main__":
    main()
