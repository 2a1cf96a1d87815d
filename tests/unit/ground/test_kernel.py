"""The limit on open files, tried in a process of its own: it cannot be given back."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest


def limits_after(soft: int, hard: int, most: int) -> list[int]:
    program = (
        "import resource; from messages.ground.kernel import allow_many_files; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
        f"print(allow_many_files({most}), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize(
    ("soft", "hard", "most", "expected"),
    [(64, 256, 65536, 256), (64, 256, 128, 128), (200, 256, 128, 200)],
    ids=["as far as the system allows", "no further than asked", "never lowered"],
)
def test_the_limit_is_raised(soft: int, hard: int, most: int, expected: int) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 256
    assert limits_after(soft, hard, most) == [expected, expected, hard]
