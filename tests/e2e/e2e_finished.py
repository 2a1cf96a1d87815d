"""A tiny demo, run to its end as a process of its own. (Test modules import this as `e2e_finished`.)"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import e2e_tiny_demo


@dataclass
class Finished:
    out: Path
    result: dict[str, Any]


def finish(out: Path, *options: str, within: float = 700.0) -> Finished:
    """Run the tiny demo into `out`; fails with what it said where it fails."""
    command = [sys.executable, e2e_tiny_demo.__file__, str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=within, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Finished(out, json.loads(done.stdout.splitlines()[-1]))
