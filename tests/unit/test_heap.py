"""A process that handled many chunks gives their memory back, whatever else it keeps."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, threading
from pathlib import Path
from messages import heap

def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) * 1024

if sys.argv[1] == "mapped":
    assert heap.map_large_blocks()
kept, chunks = [], []
bytes(2**20 + 1)  # the first one freed is what moves glibc's own threshold
before = held()
for _ in range(64):
    chunks.append(b"x" * 2**20)
    kept.append([bytearray(600) for _ in range(20)])
    chunks.append(b"x" * 2**20)
del chunks
print(held() - before)
"""


def grown(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_the_memory_of_chunks_is_given_back_though_small_things_between_them_stay() -> None:
    assert grown("mapped") < 16 * 2**20
    assert grown("as it comes") > 64 * 2**20
