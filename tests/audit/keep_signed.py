"""Keeps a signed log of today's code for ever: `python -m tests.audit.keep_signed NAME` (docs/event-log.md).

A folder of `signed_formats` holds the journal of a consortium whose parties all have keys, as its state folder and as
the file that `audit export` writes. From 0.5 on it also holds a coordinator's state folder after two secure rounds. The
masked updates are in that. `test_signed_formats` verifies and replays each with today's code.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FORMATS = HERE / "signed_formats"
LEFT = ("journal.lock", "events")
LOG, STATE, OPERATOR, SECURE = "log.konsil", "coordinator.zip", "operator.hex", "secure.zip"


def keep_signed(name: str) -> Path:
    """Make the folder; refuses one that is there."""
    from evidence_rig import make_evidence
    from format_rig import pack_folder

    folder = FORMATS / name
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        made = make_evidence(Path(scratch))
        (folder / LOG).write_bytes(made.log.read_bytes())
        (folder / OPERATOR).write_text(f"{made.kit.operator.public.hex()}\n")
        pack_folder(made.folder / "coordinator", folder / STATE, leave=LEFT)
        _keep_secure(Path(scratch, "secure"), folder / SECURE)
    return folder


def _keep_secure(scratch: Path, out: Path) -> None:
    """The coordinator's state after two rounds under masks, of three sites."""
    from format_rig import pack_folder
    from secure_consortium import run_secure, start_secure
    from virtual_consortium import VirtualConsortium

    def work(consortium: VirtualConsortium) -> None:
        start_secure(consortium)
        consortium.until("experiment-complete", 7200.0)

    run_secure(scratch, work)
    pack_folder(scratch / "coordinator", out, leave=LEFT)


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE.parent / "e2e"), str(HERE)]
    print(keep_signed(sys.argv[1]))  # noqa: T201
