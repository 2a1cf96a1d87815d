"""`python -m tests.chaos --schedules N --seed S --json`: one run of the chaos suite.

Prints progress on standard error and, at the end, the counts (one JSON object with --json). Each failure names its
schedule's number: `--only NUMBER`, with the same --seed, --schedules and --torch, runs that one alone.
Exit status: 0 all well, 1 something failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from chaos_plan import is_torch  # noqa: E402 - the path comes first
from chaos_run import Result, Runner, counted  # noqa: E402

from deploy.local import tether  # noqa: E402
from messages.ground import crash  # noqa: E402


def main() -> int:
    """Entry point."""
    options = _options()
    torch = options.torch if options.torch is not None else _torch(options.schedules)
    numbers = options.only or list(range(options.schedules))
    folder = Path(options.keep or tempfile.mkdtemp(prefix="konsil-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if options.worker:
            _work(options, torch, numbers, folder)
            return 0
        began = time.monotonic()
        results = _all(options, torch, numbers, folder)
        return _report(options, torch, results, len(numbers), time.monotonic() - began)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.chaos", description="The chaos suite.")
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--torch", type=int, help="how many train for good; default: 5 %%, at least 10 of 200")
    parser.add_argument("--only", type=int, action="append", help="run this schedule alone (may be repeated)")
    parser.add_argument("--jobs", type=int, default=2, help="consortia side by side")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", help="folder in which the consortia of failed schedules stay")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _torch(schedules: int) -> int:
    return max(10, schedules // 20) if schedules >= 200 else schedules // 20


def _work(options: argparse.Namespace, torch: int, numbers: list[int], folder: Path) -> None:
    """One worker: a JSON line for each schedule."""

    def tell(result: Result) -> None:
        _out(json.dumps(result.plain()))

    for kind in (False, True):
        mine = [number for number in numbers if is_torch(number, options.schedules, torch) is kind]
        Runner(options.seed, folder / f"{'torch' if kind else 'null'}", _say, keep=bool(options.keep)).run(
            mine, torch=kind, tell=tell
        )


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")


def _out(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _all(options: argparse.Namespace, torch: int, numbers: list[int], folder: Path) -> list[Result]:
    jobs = max(1, min(options.jobs, len(numbers)))
    results: list[Result] = []
    threads = []
    for job in range(jobs):
        command = [sys.executable, "-m", "tests.chaos", "--worker", "--schedules", str(options.schedules)]
        command += ["--seed", str(options.seed), "--torch", str(torch), "--keep", str(folder / f"job-{job}")]
        for number in numbers[job::jobs]:
            command += ["--only", str(number)]
        threads.append(threading.Thread(target=_follow, args=(command, results, len(numbers))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(results, key=lambda one: one.number)


def _follow(command: list[str], results: list[Result], total: int) -> None:
    tethered = [sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), *command]
    with subprocess.Popen(tethered, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1]) as process:
        assert process.stdout is not None
        for line in process.stdout:
            result = Result(**json.loads(line))
            results.append(result)
            verdict = "FAILED" if result.failed else "same bits" if result.compared else f"without {result.left_out}"
            _say(
                f"{len(results)}/{total}  schedule {result.number}{' torch' if result.torch else ''}: {verdict}, "
                f"{result.seconds:.0f} s: {', '.join(result.fired) or 'no fault fired'}"
            )


def _report(options: argparse.Namespace, torch: int, results: list[Result], asked: int, seconds: float) -> int:
    summary = counted(results) | {"seed": options.seed, "seconds": round(seconds), "not_run": asked - len(results)}
    summary["steps_not_struck"] = [step for step in crash.STEPS if f"step {step}" not in summary["by_kind"]]
    failed = [one for one in results if one.failed]
    again = f"python -m tests.chaos --schedules {options.schedules} --torch {torch} --seed {options.seed} --only"
    summary["failures"] = [one.plain() | {"repeat": f"{again} {one.number}"} for one in failed]
    if options.json:
        _out(json.dumps(summary))
    else:
        for name, value in summary.items():
            if name != "failures":
                _out(f"{name}: {value}")
        for one in failed:
            _out(json.dumps(one.plain(), indent=1))
            _out(f"again: {again} {one.number}")
    return 1 if failed or len(results) != asked else 0


if __name__ == "__main__":
    sys.exit(main())
