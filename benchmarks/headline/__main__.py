"""python -m benchmarks.headline hippocampus --data DIR --out DIR: runs what is not finished, most important first.

Each run is kept once it is finished; one that was cut off begins anew. `--page FILE` writes tables and plots of what
there is, from event logs and the pooled runs' reports.
"""

from __future__ import annotations

import argparse
import fcntl
import sys
import time
from pathlib import Path

from benchmarks.headline.running import Shelf
from benchmarks.headline.studies import STUDIES
from messages.ground.errors import KonsilError


def _say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.headline", description=__doc__)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("--data", type=Path, required=True, help="the hippocampus set, or the breast images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--rounds", type=int, help="fewer, to try it")
    parser.add_argument("--runs", type=int, help="at most so many of the list")
    parser.add_argument("--jobs", type=int, default=2, help="sites that train at once; changes no bit")
    parser.add_argument("--page", type=Path, help="only write tables and plots there, of what is finished")
    parser.add_argument("--list", action="store_true", help="only say what is finished")
    options = parser.parse_args()
    shelf = Shelf(STUDIES[options.study], options.data, options.out)
    runs = shelf.study.runs[: options.runs]
    if options.list:
        for run in runs:
            print(f"{'done' if shelf.is_done(run) else '-':5} {run.place}")
        return 0
    if options.page is not None:
        from benchmarks.headline.page import write_page

        write_page(shelf, options.page)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"{options.out}: another command runs here", file=sys.stderr)
            return 2
        for number, run in enumerate(runs, start=1):
            done, began = shelf.is_done(run), time.monotonic()
            try:
                shelf.finish_run(run, options.rounds, options.jobs, _say)
            except KonsilError as error:
                _say(str(error))
                return error.exit_status
            if not done:  # else it was held against the settings of now, and nothing else
                _say(f"run {number} of {len(runs)} done in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
