"""The null trainer with a part of it changed, so that a test acts while an update is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

PROGRAM = """
import time
from hashlib import sha256
from pathlib import Path
from site_agent.training import files, null
from site_agent.training.protocol import Trained, Written

HERE = Path(FOLDER)
write, train, say = null.write_update, null.NullTrainer._train_round, null.NullTrainer._send_reply

{patch}

null.write_update, null.NullTrainer._train_round, null.NullTrainer._send_reply = write, train, say
raise SystemExit(null.main())
"""

HALFWAY = """
def write(*args, on_chunks, plain=null.write_update, **more):
    def told(first, digests):
        on_chunks(first, digests)
        while first == 0 and not (HERE / "go").exists():
            time.sleep(0.01)
    plain(*args, on_chunks=told, **more)
"""
"""The update's first chunks are written and told of; the others once the test says so."""


def trainer(folder: Path, patch: str) -> dict[str, Any]:
    """`[training]` with the null trainer, changed."""
    program = PROGRAM.replace("FOLDER", repr(str(folder))).replace("{patch}", patch)
    return {"command": [sys.executable, "-c", program]}
