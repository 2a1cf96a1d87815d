"""Work with torch in a process of its own: a request on its standard input, progress and the result as JSON lines.

The command imports no torch, and secrets stand in no list of arguments. The process ends with the command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from messages.ground.errors import KonsilError, RequestError, Unreachable, WorkFailed
from messages.ground.kernel import die_with_parent

Tell = Callable[[str], None]
TOLD_SECONDS = 2.0
"""News of the same matter ("reading cases: …") no more often."""
_KINDS: dict[int, type[KonsilError]] = {1: WorkFailed, 2: RequestError, 3: Unreachable}


def run_apart(module: str, request: Mapping[str, Any], tell: Tell, gpus: list[int] | None = None) -> dict[str, Any]:
    """Have `module` do its work (`serve_request`), and tell how it goes on.

    Args:
        gpus: all that the process may see; None: every one.

    Raises:
        KonsilError: what the process raised, of the kind that has its exit status.
        WorkFailed: the process ended without a result.
    """
    environment = dict(os.environ)
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    command = [sys.executable, "-m", module]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both were asked for")
        try:
            with process.stdin as asked:
                asked.write(json.dumps({**request, "parent": os.getpid()}))
            for line in process.stdout:
                said = json.loads(line)
                if "tell" in said:
                    tell(said["tell"])
                elif "error" in said:
                    told = said["error"]
                    kind = _KINDS.get(told["status"], WorkFailed)
                    raise kind(told["what"], where=told["where"], advice=told["advice"])
                else:
                    result: dict[str, Any] = said["result"]
                    return result
        except (BrokenPipeError, json.JSONDecodeError):
            pass  # it has ended: its status says more
        except BaseException:
            process.kill()
            raise
    raise WorkFailed(f"the process that does the work ended with status {process.returncode}", where=module)


def serve_request(work: Callable[[dict[str, Any], Tell], dict[str, Any]]) -> int:
    """The process's side: read the request, work, print the result or the error; returns the exit status."""
    request = json.load(sys.stdin)
    if not die_with_parent(request["parent"]):
        return 1
    out, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer

    def say(line: Mapping[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    told_at, matter = 0.0, ""

    def tell(text: str) -> None:
        nonlocal told_at, matter
        now, about = time.monotonic(), text.partition(":")[0]
        if about != matter or now - told_at >= TOLD_SECONDS:
            told_at, matter = now, about
            say({"tell": text})

    try:
        say({"result": work(request, tell)})
    except KonsilError as error:
        told = {"what": error.what, "where": error.where, "advice": error.advice, "status": error.exit_status}
        say({"error": told})
        return error.exit_status
    except MemoryError:
        say({"error": {"what": "there is not enough memory", "where": "", "advice": "", "status": 1}})
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
