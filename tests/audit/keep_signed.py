"""Keeps a signed log of today's code for ever: `python -m tests.audit.keep_signed NAME` (docs/event-log.md).

A folder of `signed_formats` holds the journal of a consortium whose parties all have keys, as its state folder and as
the file that `audit export` writes. `test_signed_formats` verifies and replays each with today's code.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FORMATS = HERE / "signed_formats"
LOG, STATE, OPERATOR = "log.konsil", "coordinator.zip", "operator.hex"


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
        pack_folder(made.folder / "coordinator", folder / STATE, leave=("journal.lock", "events"))
    return folder


if __name__ == "__main__":
    sys.path[:0] = [str(HERE.parent), str(HERE.parent / "e2e"), str(HERE)]
    print(keep_signed(sys.argv[1]))  # noqa: T201
